// What the front must refuse and what it must keep, before anything is concluded from it: `node --test`.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import zlib from 'node:zlib';
import { start } from './gcs-front.mjs';
import { GCS_SCOPE, gcsJwt, gcsUrl, send } from './sign.mjs';

const BUCKET = 'bulk';
const data = fs.mkdtempSync(path.join(os.tmpdir(), 'gcs-front-test-'));
let front, base, account;

const open = async (port = 0) => {
  front = await start({ data, port, buckets: [BUCKET] });
  base = `http://127.0.0.1:${front.ports.http}`;
  account = JSON.parse(fs.readFileSync(path.join(data, 'service-account.json'), 'utf8'));
};
before(() => open());
after(async () => {
  await front.stop();
  fs.rmSync(data, { recursive: true });
});

const stranger = () => ({
  ...account,
  private_key: crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ type: 'pkcs8', format: 'pem' }),
});
const signed = (key, options = {}) => gcsUrl(options.account ?? account, { base, bucket: BUCKET, method: 'GET', key, ...options });
const bearer = (token = gcsJwt(account)) => ({ authorization: `Bearer ${token}` });
const call = (method, rest, { headers = {}, body } = {}) =>
  send(`${base}/${BUCKET}${rest}`, { method, headers: { ...bearer(), ...headers }, body });
const put = (key, body = 'hello', headers = {}) => call('PUT', `/${encodeURIComponent(key)}`, { body, headers });
const error = (answer) => [answer.status, /<Code>(\w+)<\/Code>/.exec(answer.text)?.[1]];
const gone = async () => error(await call('HEAD', '/new'))[0] === 404;

beforeEach(() => put('dir/one.ndjson'));

test('a signed URL gives the object, whole and in part, and no other method', async () => {
  const url = signed('dir/one.ndjson');
  const whole = await send(url);
  assert.deepEqual([whole.status, whole.text], [200, 'hello']);
  const part = await send(url, { headers: { range: 'bytes=1-2' } });
  assert.deepEqual([part.status, part.text, part.headers['content-range']], [206, 'el', 'bytes 1-2/5']);
  for (const method of ['HEAD', 'PUT', 'DELETE', 'POST']) {
    assert.equal((await send(url, { method, body: method === 'HEAD' ? undefined : 'x' })).status, 403, method);
  }
  assert.equal((await send(url)).text, 'hello');
});

test('every character of the signature and of the path, changed, is refused', async () => {
  const url = signed('dir/one.ndjson');
  const at = url.indexOf('X-Goog-Signature=') + 'X-Goog-Signature='.length;
  const change = (i, c) => url.slice(0, i) + c + url.slice(i + 1);
  const changed = [];
  for (let i = at; i < url.length; i += 1) {
    changed.push(change(i, url[i] === '0' ? '1' : '0'));
    if (/[a-f]/.test(url[i])) changed.push(change(i, url[i].toUpperCase()));
  }
  const from = base.length + 1;
  for (let i = from; i < url.indexOf('?'); i += 1) changed.push(change(i, url[i] === 'x' ? 'y' : 'x'));
  changed.push(url.slice(0, -1), url.slice(0, -2), `${url}0`, `${url}00`, url.slice(0, at));
  assert.ok(changed.length > 512 + 20);
  for (const other of changed) assert.ok([403, 400].includes((await send(other)).status), other.slice(base.length));
  const codes = new Set();
  for (const other of changed.slice(0, 50)) codes.add(error(await send(other)).join());
  assert.deepEqual([...codes], ['403,SignatureDoesNotMatch']);
});

test('every character of the signed parameters, changed, is refused', async () => {
  const url = signed('dir/one.ndjson');
  for (let i = url.indexOf('?') + 1; i < url.indexOf('&X-Goog-Signature='); i += 1) {
    const other = url.slice(0, i) + (url[i] === '7' ? '8' : '7') + url.slice(i + 1);
    assert.ok((await send(other)).status >= 400, other.slice(base.length));
  }
});

test('no credentials, a bare URL, an anonymous list: refused', async () => {
  const url = signed('dir/one.ndjson');
  assert.deepEqual(error(await send(url.split('?')[0])), [403, 'AccessDenied']);
  assert.deepEqual(error(await send(`${base}/${BUCKET}?list-type=2`)), [403, 'AccessDenied']);
  assert.deepEqual(error(await send(`${base}/${BUCKET}?uploads`)), [403, 'AccessDenied']);
  assert.deepEqual(error(await send(`${base}/${BUCKET}/new`, { method: 'PUT', body: 'x' })), [403, 'AccessDenied']);
  assert.ok(await gone());
  assert.deepEqual(error(await send(url, { headers: bearer() })), [400, 'InvalidArgument']);
});

test('the signature of another object, another account, another host, another key: refused', async () => {
  await put('dir/two.ndjson');
  const other = signed('dir/two.ndjson');
  assert.equal((await send(other)).status, 200);
  assert.deepEqual(error(await send(other.replace('two', 'one'))), [403, 'SignatureDoesNotMatch']);
  assert.deepEqual(error(await send(signed('dir/one.ndjson', { account: stranger() }))), [403, 'SignatureDoesNotMatch']);
  const elsewhere = { ...account, client_email: 'somebody@elsewhere.iam.gserviceaccount.com' };
  assert.deepEqual(error(await send(signed('dir/one.ndjson', { account: elsewhere }))), [403, 'AccessDenied']);
  const google = signed('dir/one.ndjson', { host: 'storage.googleapis.com' });
  assert.deepEqual(error(await send(google)), [403, 'SignatureDoesNotMatch']);
  assert.equal((await send(google, { headers: { host: 'storage.googleapis.com' } })).status, 200);
});

test('expired, not yet valid, too long: refused', async () => {
  const ago = (s) => new Date(Date.now() - s * 1000);
  assert.equal((await send(signed('dir/one.ndjson', { date: ago(100), expires: 200 }))).status, 200);
  assert.deepEqual(error(await send(signed('dir/one.ndjson', { date: ago(100), expires: 100 }))), [400, 'ExpiredToken']);
  assert.deepEqual(error(await send(signed('dir/one.ndjson', { date: ago(-1000) }))), [403, 'AccessDenied']);
  assert.equal((await send(signed('dir/one.ndjson', { expires: 604800 }))).status, 200);
  for (const expires of [604801, 0, -1, '1e3', '']) {
    assert.deepEqual(error(await send(signed('dir/one.ndjson', { expires }))), [400, 'MalformedSecurityHeader'], String(expires));
  }
});

test('parameters and headers outside of the signature are refused, inside they hold', async () => {
  const url = signed('dir/one.ndjson');
  assert.equal((await send(`${url}&response-content-type=text/html`)).status, 403);
  assert.equal((await send(`${url}&X-Goog-Expires=600`)).status, 400);
  assert.equal((await send(url, { headers: { 'x-goog-meta-a': 'b' } })).status, 400);
  const query = { 'response-content-type': 'text/plain', 'response-content-disposition': 'attachment; filename="a b.ndjson"' };
  const answer = await send(signed('dir/one.ndjson', { query }));
  assert.equal(answer.headers['content-type'], 'text/plain');
  assert.equal(answer.headers['content-disposition'], query['response-content-disposition']);
  const upload = signed('new', { method: 'PUT', headers: { 'content-type': 'text/csv' } });
  assert.equal((await send(upload, { method: 'PUT', body: 'x', headers: { 'content-type': 'text/html' } })).status, 403);
  assert.equal((await send(upload, { method: 'PUT', body: 'x' })).status, 400);
  assert.ok(await gone());
  assert.equal((await send(upload, { method: 'PUT', body: 'x', headers: { 'content-type': 'text/csv' } })).status, 200);
  assert.equal((await call('DELETE', '/new')).status, 204);
});

test('a token is believed only from the account, in time, with a scope', async () => {
  const list = (token) => send(`${base}/${BUCKET}?list-type=2`, { headers: bearer(token) });
  const now = Math.floor(Date.now() / 1000);
  const good = gcsJwt(account);
  assert.equal((await list(good)).status, 200);
  assert.equal((await list(gcsJwt(account, { aud: 'https://storage.googleapis.com/' }))).status, 200);
  for (const claims of [{ scope: GCS_SCOPE, iat: now - 3700, exp: now - 100 }, { scope: GCS_SCOPE, exp: now + 7200 },
    { scope: GCS_SCOPE, iat: now + 2000, exp: now + 3000 }, { scope: GCS_SCOPE, iss: 'x@y' }, { scope: GCS_SCOPE, sub: 'x@y' },
    { scope: GCS_SCOPE, exp: undefined }, {}, { aud: 'https://example.org/' }]) {
    assert.equal((await list(gcsJwt(account, claims))).status, 401, JSON.stringify(claims));
  }
  assert.equal((await list(gcsJwt(account, { scope: 'https://www.googleapis.com/auth/bigquery' }))).status, 403);
  assert.equal((await list(gcsJwt(stranger()))).status, 401);
  for (let i = 0; i < good.length; i += 1) {
    const other = good.slice(0, i) + (good[i] === 'A' ? 'B' : 'A') + good.slice(i + 1);
    assert.equal((await list(other)).status, 401, String(i));
  }
  for (const header of ['Basic eDp5', 'Bearer ', 'Bearer x', good]) {
    assert.equal((await send(`${base}/${BUCKET}?list-type=2`, { headers: { authorization: header } })).status, 401, header);
  }
  const reading = gcsJwt(account, { scope: 'https://www.googleapis.com/auth/devstorage.read_only' });
  assert.equal((await list(reading)).status, 200);
  assert.equal((await send(`${base}/${BUCKET}/new`, { method: 'PUT', body: 'x', headers: bearer(reading) })).status, 403);
  assert.ok(await gone());
});

test('the token endpoint and the metadata server issue tokens that hold, and nothing changed does', async () => {
  const ask = (assertion, type = 'urn:ietf:params:oauth:grant-type:jwt-bearer') => send(`${base}/token`, {
    method: 'POST', body: new URLSearchParams({ grant_type: type, assertion }).toString(),
    headers: { 'content-type': 'application/x-www-form-urlencoded' } });
  const claims = { aud: account.token_uri, scope: GCS_SCOPE };
  const answer = JSON.parse((await ask(gcsJwt(account, claims))).text);
  assert.deepEqual([answer.expires_in, answer.token_type], [3600, 'Bearer']);
  for (const [assertion, type] of [[gcsJwt(stranger(), claims)], [gcsJwt(account, { ...claims, aud: 'x' })],
    [gcsJwt(account, { scope: GCS_SCOPE })], [gcsJwt(account, claims), 'refresh_token'], ['a.b.c'], ['']]) {
    assert.equal((await ask(assertion, type)).status, 400);
  }
  const metadata = `${base}/computeMetadata/v1/instance/service-accounts/default/token`;
  assert.equal((await send(metadata)).status, 403);
  const machine = JSON.parse((await send(metadata, { headers: { 'metadata-flavor': 'Google' } })).text);
  for (const token of [answer.access_token, machine.access_token]) {
    assert.equal((await send(`${base}/${BUCKET}?list-type=2`, { headers: bearer(token) })).status, 200);
    for (let i = 0; i < token.length; i += 1) {
      const other = token.slice(0, i) + (token[i] === 'A' ? 'B' : 'A') + token.slice(i + 1);
      assert.equal((await send(`${base}/${BUCKET}?list-type=2`, { headers: bearer(other) })).status, 401, String(i));
    }
  }
  const old = front.account.issue([GCS_SCOPE], -1).access_token;
  assert.equal((await send(`${base}/${BUCKET}?list-type=2`, { headers: bearer(old) })).status, 401);
  const blob = `${base}/v1/projects/-/serviceAccounts/${account.client_email}:signBlob`;
  const payload = JSON.stringify({ payload: Buffer.from('text').toString('base64') });
  assert.equal((await send(blob, { method: 'POST', body: payload })).status, 401);
  const { signedBlob } = JSON.parse((await send(blob, { method: 'POST', body: payload, headers: bearer(machine.access_token) })).text);
  assert.ok(crypto.verify('RSA-SHA256', Buffer.from('text'), crypto.createPublicKey(account.private_key), Buffer.from(signedBlob, 'base64')));
});

test('what was written comes back: bytes, headers, generation; what is not heeded is refused', async () => {
  const headers = { 'content-type': 'application/fhir+ndjson', 'content-encoding': 'gzip', 'content-disposition': 'attachment; filename="a"',
    'cache-control': 'no-transform', 'x-goog-meta-job': '7' };
  const body = zlib.gzipSync('hello hello hello');
  const written = await put('kept', body, headers);
  const answer = await send(signed('kept'));
  for (const [name, value] of Object.entries(headers)) assert.equal(answer.headers[name], value, name);
  assert.deepEqual(answer.bytes, body);
  assert.equal(answer.headers.etag, written.headers.etag);
  assert.equal(answer.headers['x-goog-generation'], written.headers['x-goog-generation']);
  assert.equal(answer.headers.etag, `"${crypto.createHash('md5').update(body).digest('hex')}"`);
  assert.equal((await call('GET', `/kept?generation=${written.headers['x-goog-generation']}`)).status, 200);
  assert.equal((await call('GET', '/kept?generation=1')).status, 404);
  assert.equal((await put('kept', 'x', { 'x-goog-if-metageneration-match': '1' })).status, 501);
  assert.equal((await call('GET', '/kept?acl')).status, 501);
  assert.equal((await put('kept', 'x', { 'content-md5': 'AAAAAAAAAAAAAAAAAAAAAA==' })).status, 400);
  assert.deepEqual((await send(signed('kept'))).bytes, body);
});

test('without no-transform gzip is unpacked for who does not ask for it', async () => {
  const body = zlib.gzipSync('hello hello hello');
  await put('packed', body, { 'content-encoding': 'gzip' });
  const plain = await send(signed('packed'), { headers: { range: 'bytes=0-1' } });
  assert.deepEqual([plain.status, plain.text, plain.headers['content-encoding'], plain.headers['content-length']],
    [200, 'hello hello hello', undefined, undefined]);
  assert.deepEqual((await send(signed('packed'), { headers: { 'accept-encoding': 'gzip' } })).bytes, body);
  await put('packed', body, { 'content-encoding': 'gzip', 'cache-control': 'no-transform' });
  const kept = await send(signed('packed'), { headers: { range: 'bytes=0-1' } });
  assert.deepEqual([kept.status, kept.bytes], [206, body.subarray(0, 2)]);
});

test('ranges and conditions', async () => {
  await put('ranges', '0123456789');
  const cases = [['bytes=0-0', 206, '0'], ['bytes=8-', 206, '89'], ['bytes=-3', 206, '789'], ['bytes=-99', 206, '0123456789'],
    ['bytes=5-99', 206, '56789'], ['bytes=10-', 416], ['bytes=-0', 416], ['bytes=3-2', 200, '0123456789'],
    ['bytes=0-1,4-5', 200, '0123456789'], ['lines=1-2', 200, '0123456789']];
  for (const [range, status, text] of cases) {
    const answer = await call('GET', '/ranges', { headers: { range } });
    assert.deepEqual([answer.status, status === 416 ? undefined : answer.text], [status, text], range);
  }
  const { etag, 'last-modified': modified } = (await call('HEAD', '/ranges')).headers;
  for (const [headers, status] of [[{ 'if-none-match': etag }, 304], [{ 'if-none-match': '"x"' }, 200], [{ 'if-match': '"x"' }, 412],
    [{ 'if-match': `"x", ${etag}` }, 200], [{ 'if-modified-since': modified }, 304],
    [{ 'if-unmodified-since': 'Sat, 01 Jan 2000 00:00:00 GMT' }, 412], [{ range: 'bytes=0-1', 'if-range': '"x"' }, 200]]) {
    assert.equal((await call('GET', '/ranges', { headers })).status, status, JSON.stringify(headers));
  }
  await put('empty', '');
  assert.deepEqual([(await call('GET', '/empty')).status, (await call('GET', '/empty', { headers: { range: 'bytes=0-' } })).status], [200, 416]);
});

test('one of many creates wins, and an update holds only for the generation that it names', async () => {
  for (let round = 0; round < 5; round += 1) {
    const answers = await Promise.all(Array.from({ length: 16 }, (_, i) => put(`race-${round}`, `winner ${i}`, { 'x-goog-if-generation-match': '0' })));
    assert.deepEqual(answers.map(({ status }) => status).sort(), [200, ...Array(15).fill(412)]);
    const winner = answers.findIndex(({ status }) => status === 200);
    assert.equal((await call('GET', `/race-${round}`)).text, `winner ${winner}`);
  }
  const first = (await put('cas', 'same')).headers['x-goog-generation'];
  const second = (await put('cas', 'same', { 'x-goog-if-generation-match': first })).headers['x-goog-generation'];
  assert.ok(Number(second) > Number(first));
  // The bytes are the same again, and still the first generation is past.
  assert.equal((await put('cas', 'late', { 'x-goog-if-generation-match': first })).status, 412);
  assert.equal((await call('DELETE', '/cas', { headers: { 'x-goog-if-generation-match': first } })).status, 412);
  assert.equal((await call('DELETE', '/cas', { headers: { 'x-goog-if-generation-match': second } })).status, 204);
  assert.equal((await call('DELETE', '/cas')).status, 404);
});

test('an upload in parts: listed, replaced, completed, aborted', async () => {
  const names = (text) => [...text.matchAll(/<UploadId>([^<]*)/g)].map(([, id]) => id);
  const begin = async (key) => names((await call('POST', `/${key}?uploads=`, { headers: { 'content-type': 'text/plain', 'cache-control': 'no-transform' } })).text)[0];
  const id = await begin('big');
  const five = Buffer.alloc(5 * 1024 * 1024, 'a');
  const part = (number, body, upload = id) => call('PUT', `/big?partNumber=${number}&uploadId=${upload}`, { body });
  const etags = [(await part(1, 'first try')).headers.etag, (await part(2, 'end')).headers.etag];
  etags[0] = (await part(1, five)).headers.etag;
  const finish = (list, upload = id) => call('POST', `/big?uploadId=${upload}`, { body: `<CompleteMultipartUpload>${
    list.map(([number, etag]) => `<Part><ETag>${etag}</ETag><PartNumber>${number}</PartNumber></Part>`).join('')}</CompleteMultipartUpload>` });
  assert.ok(names((await call('GET', '?uploads')).text).includes(id));
  assert.equal((await call('GET', `/big?uploadId=${id}`)).text.match(/<Part>/g).length, 2);
  assert.equal((await call('GET', '/big')).status, 404);
  assert.deepEqual(error(await finish([[2, etags[1]], [1, etags[0]]])), [400, 'InvalidPartOrder']);
  assert.deepEqual(error(await finish([[1, etags[1]]])), [400, 'InvalidPart']);
  assert.deepEqual(error(await finish([])), [400, 'MalformedXML']);
  assert.equal((await part(0, 'x')).status, 400);
  assert.equal((await part(1, 'x', 'unknown')).status, 404);
  const done = await finish([[1, etags[0]], [2, etags[1]]]);
  assert.deepEqual([done.status, /<ETag>(.*)<\/ETag>/.exec(done.text)[1].endsWith('-2&#34;')], [200, true]);
  const answer = await send(signed('big'), { headers: { range: `bytes=${five.length - 1}-${five.length + 1}` } });
  assert.deepEqual([answer.status, answer.text, answer.headers['cache-control']], [206, 'aen', 'no-transform']);
  assert.equal(answer.headers['x-goog-generation'], done.headers['x-goog-generation']);
  assert.deepEqual(error(await finish([[1, etags[0]], [2, etags[1]]])), [404, 'NoSuchUpload']);
  const other = await begin('big');
  await part(1, 'small', other);
  const tag = (await part(2, 'last', other)).headers.etag;
  assert.deepEqual(error(await finish([[1, (await part(1, 'small', other)).headers.etag], [2, tag]], other)), [400, 'EntityTooSmall']);
  assert.equal((await call('DELETE', `/big?uploadId=${other}`)).status, 204);
  assert.equal((await call('DELETE', `/big?uploadId=${other}`)).status, 404);
  assert.ok(!names((await call('GET', '?uploads')).text).includes(other));
});

test('lists: prefix, delimiter, pages, in the order of bytes', async () => {
  for (const key of ['l/a/1', 'l/a/2', 'l/b', 'l/c/1', 'l/d', 'l/é']) await put(key);
  const keys = (text, name = 'Key') => [...text.matchAll(new RegExp(`<${name}>([^<]*)</${name}>`, 'g'))].map(([, key]) => Buffer.from(key, 'latin1').toString());
  const all = [];
  let token = '';
  do {
    const { text } = await call('GET', `?list-type=2&prefix=l/&max-keys=2${token && `&continuation-token=${token}`}`);
    all.push(keys(text));
    [token = ''] = keys(text, 'NextContinuationToken');
  } while (token);
  assert.deepEqual(all, [['l/a/1', 'l/a/2'], ['l/b', 'l/c/1'], ['l/d', 'l/é']]);
  const grouped = [];
  do {
    const { text } = await call('GET', `?list-type=2&prefix=l/&delimiter=/&max-keys=1${token && `&continuation-token=${token}`}`);
    grouped.push(...keys(text.replace(/<Prefix>l\/<\/Prefix>/, ''), 'Prefix'), ...keys(text));
    [token = ''] = keys(text, 'NextContinuationToken');
  } while (token);
  assert.deepEqual(grouped, ['l/a/', 'l/b', 'l/c/', 'l/d', 'l/é']);
  assert.deepEqual(keys((await call('GET', '?list-type=2&prefix=l/&start-after=l/c/1')).text), ['l/d', 'l/é']);
  assert.equal((await send(`${base}/other?list-type=2`, { headers: bearer() })).status, 404);
});

test('a copy keeps the attributes, and its precondition', async () => {
  await put('from', 'x', { 'content-type': 'text/csv' });
  assert.equal((await put('to', undefined, { 'x-goog-copy-source': `${BUCKET}/from`, 'x-goog-if-generation-match': '0' })).status, 200);
  assert.equal((await put('to', undefined, { 'x-goog-copy-source': `${BUCKET}/from`, 'x-goog-if-generation-match': '0' })).status, 412);
  assert.equal((await call('GET', '/to')).headers['content-type'], 'text/csv');
  assert.equal((await put('to', undefined, { 'x-goog-copy-source': `${BUCKET}/nothing` })).status, 404);
});

test('a body that breaks off leaves nothing behind', async () => {
  const files = () => fs.readdirSync(path.join(data, 'data')).length;
  const before = files();
  const socket = net.connect(front.ports.http, '127.0.0.1');
  socket.write(`PUT /${BUCKET}/broken HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${gcsJwt(account)}\r\ncontent-length: 100\r\n\r\nabc`);
  for (let i = 0; i < 500 && files() === before; i += 1) await new Promise((resolve) => setImmediate(resolve));
  socket.destroy();
  for (let i = 0; i < 500 && files() > before; i += 1) await new Promise((resolve) => setTimeout(resolve, 2));
  assert.equal(files(), before);
  assert.equal((await call('GET', '/broken')).status, 404);
});

test('after a restart all is as it was: objects, generations, uploads, tokens, the key', async () => {
  const { headers } = await put('stays', 'here', { 'content-type': 'text/csv' });
  await call('POST', '/stays-too?uploads=');
  fs.writeFileSync(path.join(data, 'data', 'orphan'), 'a crash left it');
  const token = front.account.issue([GCS_SCOPE]).access_token;
  const [port, url, key] = [front.ports.http, signed('stays'), account.private_key];
  await front.stop();
  await open(port);
  assert.equal(account.private_key, key);
  const answer = await send(url);
  assert.deepEqual([answer.text, answer.headers['content-type'], answer.headers['x-goog-generation'], answer.headers.etag],
    ['here', 'text/csv', headers['x-goog-generation'], headers.etag]);
  assert.match((await send(`${base}/${BUCKET}?uploads`, { headers: bearer(token) })).text, /<Key>stays-too</);
  assert.ok(Number((await put('stays', 'more')).headers['x-goog-generation']) > Number(headers['x-goog-generation']));
  assert.ok(!fs.existsSync(path.join(data, 'data', 'orphan')));
});
