// What the tests rely on of each component, asked with signatures that are made here: `check NAME`. One line a fact.
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import zlib from 'node:zlib';
import { azureDelegationKey, azureHeaders, azureToken, azureUrl, gcsJwt, gcsUrl, s3Url, send, stores } from './sign.mjs';

const name = process.argv[2];
const store = stores()[name];
if (!store?.endpoint) {
  console.error(`check NAME, with the variables of tests/clouds/run: ${Object.keys(stores()).join(', ')}`);
  process.exit(2);
}

// Beside the bucket of the tests, which find theirs empty.
const exported = store.container;
store.bucket = store.container = 'offtake-check';

let passed = 0;
let failed = 0;
function say(what, holds, got = '') {
  if (holds) passed += 1;
  else failed += 1;
  console.log(`${holds ? 'pass' : 'FAIL'} ${name}: ${what}${holds ? '' : ` (${String(got).slice(0, 300)})`}`);
}
const is = (what, answer, ...statuses) => say(what, statuses.includes(answer.status), `${answer.status} ${answer.text}`);
const refused = (what, answer) => is(`${what}: refused`, answer, 400, 401, 403, 404, 409);

const key = 'job/Patient.0000.ndjson.gz';
const other = 'job/Patient.0001.ndjson.gz';
const body = zlib.gzipSync('{"resourceType":"Patient"}\n'.repeat(1000));
const kept = { 'content-type': 'application/fhir+ndjson', 'content-encoding': 'gzip', 'content-disposition': 'attachment; filename="Patient.ndjson"',
  'cache-control': 'no-transform' };
const minuteAgo = () => new Date(Date.now() - 60000);
const five = Buffer.alloc(5 * 1024 * 1024, '\n');
const part = 'job/parts';
/** The URL with one character of this place changed. */
const changed = (url, at, by = 0) => {
  const i = url.indexOf(at) + at.length + by;
  return url.slice(0, i) + (url[i] === '1' ? '2' : '1') + url.slice(i + 1);
};
const value = (answer, element) => new RegExp(`<${element}>([^<]*)</${element}>`).exec(answer.text)?.[1]?.replaceAll('&#34;', '"').replaceAll('&quot;', '"');
const completion = (tags) => `<CompleteMultipartUpload>${tags.map((tag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${tag}</ETag></Part>`).join('')}</CompleteMultipartUpload>`;

/**
 * What holds of signed URLs on every cloud. `url` reads `key`, `otherUrl` reads `other`, `expired` is past; `lifetime` is
 * how the URL says how long it lives, and what would be longer.
 */
async function signedUrls({ url, otherUrl, expired, signature, lifetime, headRefused }) {
  const get = (u, options) => send(u, { ca: store.ca, ...options });
  const whole = await get(url);
  say('a signed URL gives the bytes', whole.status === 200 && whole.bytes.equals(body), `${whole.status} ${whole.text}`);
  for (const [header, text] of Object.entries(kept)) say(`${header} came back`, whole.headers[header] === text, whole.headers[header]);
  const range = await get(url, { headers: { range: 'bytes=10-19' } });
  say('Range gives those bytes of what is stored', range.status === 206 && range.bytes.equals(body.subarray(10, 20)), `${range.status} ${range.text}`);
  refused('a bare URL', await get(url.split('?')[0]));
  for (const by of [0, 7, 20]) refused(`character ${by} of the signature changed`, await get(changed(url, signature, by)));
  refused('another object\'s signature', await get(`${otherUrl.split('?')[0]}?${url.split('?')[1]}`));
  refused('a changed path', await get(url.replace('Patient.0000', 'Patient.0009')));
  refused('another method', await get(url, { method: 'DELETE' }));
  refused('another method, with a body', await get(url, { method: 'PUT', body: 'x', headers: { 'x-ms-blob-type': 'BlockBlob' } }));
  is('all that changed nothing', await get(url), 200);
  const lengthened = url.replace(...lifetime);
  refused('a lengthened life', lengthened === url ? { status: 0, text: 'nothing was changed' } : await get(lengthened));
  refused('an expired URL', await get(expired));
  const head = await get(url, { method: 'HEAD' });
  if (headRefused) refused('HEAD with a GET URL', head);
  else is('HEAD with a GET URL: given, as by Azure', head, 200);
}

/** What `ctl` does: a component that was stopped has kept its data; one that is paused answers late and loses nothing. */
async function drill(url, killed) {
  if (!process.env.OFFTAKE_CLOUDS_DIR) return;
  const ctl = (action) => execFileSync(fileURLToPath(new URL('ctl', import.meta.url)), [action, name], { stdio: 'inherit' });
  const get = () => send(url, { ca: store.ca });
  for (const action of ['stop', ...killed]) {
    ctl(action);
    say(`after ctl ${action} nobody answers`, await get().then(() => false, () => true));
    ctl('start');
    const answer = await get();
    say(`after ctl ${action} and start the data is there`, answer.status === 200, `${answer.status} ${answer.text}`);
  }
  ctl('pause');
  let answered = false;
  const late = get().then((answer) => {
    answered = true;
    return answer;
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
  say('a paused component does not answer', !answered);
  ctl('resume');
  is('and answers when it is resumed', await late, 200);
}

async function s3() {
  const sign = (method, k, options) => s3Url(store, method, k, options);
  is('PUT by a signed URL', await send(sign('PUT', key), { method: 'PUT', body, headers: kept }), 200);
  is('PUT of another object', await send(sign('PUT', other), { method: 'PUT', body }), 200);
  await signedUrls({ url: sign('GET', key), otherUrl: sign('GET', other), expired: sign('GET', key, { expires: 10, date: minuteAgo() }),
    signature: 'X-Amz-Signature=', lifetime: ['X-Amz-Expires=300', 'X-Amz-Expires=3000'], headRefused: true });
  refused('8 days', await send(sign('GET', key, { expires: 8 * 86400 })));
  refused('an unsigned override', await send(`${sign('GET', key)}&response-content-type=text%2Fhtml`));
  const override = await send(sign('GET', key, { query: { 'response-content-disposition': 'attachment; filename="b"' } }));
  say('a signed override holds', override.headers['content-disposition'] === 'attachment; filename="b"', override.text);

  const create = () => send(sign('PUT', 'job/once'), { method: 'PUT', body: 'x', headers: { 'if-none-match': '*' } });
  const races = await Promise.all(Array.from({ length: 16 }, create));
  say('one of 16 creates at once wins', races.filter(({ status }) => status === 200).length === 1, races.map(({ status }) => status));
  const tag = (await send(sign('HEAD', 'job/once'), { method: 'HEAD' })).headers.etag;
  const update = (etag, text) => send(sign('PUT', 'job/once'), { method: 'PUT', body: text, headers: { 'if-match': etag } });
  is('an update of what is there', await update(tag, 'y'), 200);
  is('an update of what was there: 412', await update(tag, 'z'), 412);

  const begun = await send(sign('POST', part, { query: { uploads: '' } }), { method: 'POST', headers: kept });
  const uploadId = value(begun, 'UploadId');
  is('an upload in parts begins', begun, 200);
  const put = (partNumber, data, id = uploadId) => send(sign('PUT', part, { query: { partNumber, uploadId: id } }), { method: 'PUT', body: data });
  const tags = [(await put(1, five)).headers.etag, (await put(2, 'end')).headers.etag];
  const uploads = await send(sign('GET', '', { query: { uploads: '' } }));
  say('it is listed', uploads.text.includes(uploadId), uploads.text);
  is('it completes', await send(sign('POST', part, { query: { uploadId } }), { method: 'POST', body: completion(tags) }), 200);
  const joined = await send(sign('GET', part), { headers: { range: `bytes=${five.length - 1}-${five.length}` } });
  say('Range over the border of parts', joined.status === 206 && joined.text === '\ne', `${joined.status} ${joined.text}`);
  say('and keeps its headers', joined.headers['content-encoding'] === 'gzip' && joined.headers['content-type'] === kept['content-type'], JSON.stringify(joined.headers));
  const second = value(await send(sign('POST', part, { query: { uploads: '' } }), { method: 'POST' }), 'UploadId');
  await put(1, five, second);
  is('another is aborted', await send(sign('DELETE', part, { query: { uploadId: second } }), { method: 'DELETE' }), 204);
  const after = await send(sign('GET', '', { query: { uploads: '' } }));
  say('and listed no more', after.status === 200 && !after.text.includes(second), after.text);

  const listed = await send(sign('GET', '', { query: { 'list-type': 2, prefix: 'job/' } }));
  say('the list names all objects', [key, other, part, 'job/once'].every((k) => listed.text.includes(`<Key>${k}</Key>`)), listed.text);
  const bucket = `${store.endpoint}/${store.bucket}`;
  refused('an anonymous list', await send(`${bucket}?list-type=2`));
  refused('an anonymous list of uploads', await send(`${bucket}?uploads`));
  refused('an anonymous PUT', await send(`${bucket}/job/anonymous`, { method: 'PUT', body: 'x' }));
  refused('a foreign key', await send(s3Url({ ...store, secretKey: 'x'.repeat(40) }, 'GET', key)));
  await drill(sign('GET', key), ['kill']);
  is('DELETE', await send(sign('DELETE', key), { method: 'DELETE' }), 204);
  is('a deleted object is gone', await send(sign('GET', key)), 404);
  is('DELETE of what is not there', await send(sign('DELETE', key), { method: 'DELETE' }), 204);
}

async function gcs() {
  const sign = (method, k, options) => gcsUrl(store.account, { base: store.endpoint, bucket: store.bucket, method, key: k, ...options });
  const bearer = { authorization: `Bearer ${gcsJwt(store.account)}` };
  const call = (method, rest, data, headers = {}) => send(`${store.endpoint}/${store.bucket}${rest}`, { method, body: data, headers: { ...bearer, ...headers } });
  is('PUT with a token', await call('PUT', `/${encodeURIComponent(key)}`, body, kept), 200);
  is('PUT by a signed URL', await send(sign('PUT', other), { method: 'PUT', body }), 200);
  await signedUrls({ url: sign('GET', key), otherUrl: sign('GET', other), expired: sign('GET', key, { expires: 10, date: minuteAgo() }),
    signature: 'X-Goog-Signature=', lifetime: ['X-Goog-Expires=300', 'X-Goog-Expires=3000'], headRefused: true });
  refused('8 days', await send(sign('GET', key, { expires: 8 * 86400 })));
  const races = await Promise.all(Array.from({ length: 16 }, () => call('PUT', '/once', 'x', { 'x-goog-if-generation-match': '0' })));
  say('one of 16 creates at once wins', races.filter(({ status }) => status === 200).length === 1, races.map(({ status }) => status));
  const uploadId = value(await call('POST', `/${part}?uploads=`, undefined, kept), 'UploadId');
  await call('PUT', `/${part}?partNumber=1&uploadId=${uploadId}`, five);
  say('an upload in parts is listed', (await call('GET', '?uploads')).text.includes(uploadId));
  is('it is aborted', await call('DELETE', `/${part}?uploadId=${uploadId}`), 204);
  say('and listed no more', !(await call('GET', '?uploads')).text.includes(uploadId));
  refused('an anonymous list', await send(`${store.endpoint}/${store.bucket}?list-type=2`));
  refused('a foreign host\'s signature', await send(sign('GET', key, { host: 'storage.googleapis.com' })));

  // The three ways to fetch what was signed for Google's own host.
  const google = sign('GET', key, { base: 'https://storage.googleapis.com' });
  const { host: tls } = new URL(store.secure);
  const connect = { host: tls.split(':')[0], port: tls.split(':')[1] };
  is('a URL for Google\'s host by TLS to this address', await send(google, { ca: store.ca, connect }), 200);
  is('a URL for Google\'s host in plain, with that Host', await send(google.replace('https://storage.googleapis.com', store.endpoint), { headers: { host: 'storage.googleapis.com' } }), 200);
  refused('the same, changed', await send(changed(google, 'X-Goog-Signature='), { ca: store.ca, connect }));
  is('a URL for Google\'s host through the proxy', await send(google, { ca: store.ca, proxy: store.proxy }), 200);
  const stray = await send('https://example.org/', { ca: store.ca, proxy: store.proxy }).catch((error) => error.message);
  say('the proxy knows no other hosts', stray === 'proxy: 403', stray);
  await drill(sign('GET', key), ['kill']);
}

async function azure(delegated) {
  const container = `${store.endpoint}/${store.container}`;
  const call = (method, url, { headers = {}, body: data } = {}) =>
    send(url, { method, body: data, ca: store.ca, headers: azureHeaders(store, method, url, { headers, body: data }) });
  const kind = { 'x-ms-blob-type': 'BlockBlob' };
  for (const made of [exported, store.container]) {
    is(`the container ${made} is made`, await call('PUT', `${store.endpoint}/${made}?restype=container`), 201, 409);
  }
  const attributes = { ...kind, 'x-ms-blob-content-type': kept['content-type'], 'x-ms-blob-content-encoding': 'gzip',
    'x-ms-blob-content-disposition': kept['content-disposition'], 'x-ms-blob-cache-control': kept['cache-control'] };
  is('PUT with the shared key', await call('PUT', `${container}/${key}`, { body, headers: attributes }), 201);
  is('PUT of another blob', await call('PUT', `${container}/${other}`, { body, headers: attributes }), 201);
  let delegation;
  if (delegated) {
    delegation = await azureDelegationKey(store, azureToken());
    say('a user delegation key for a token', Boolean(delegation.key && delegation.oid && delegation.tid), JSON.stringify(delegation));
    const fails = (options) => azureDelegationKey(store, azureToken(options)).then(() => false, (error) => /: 40[13]/.test(error.message));
    say('an expired token: refused', await fails({ lifetime: -10 }));
    say('a token for somebody else: refused', await fails({ audience: 'https://vault.azure.net' }));
  }
  const sign = (blob, options) => azureUrl(store, blob, { delegation, ...options });
  await signedUrls({ url: sign(key), otherUrl: sign(other), expired: sign(key, { start: new Date(Date.now() - 120000), expires: -60 }),
    signature: 'sig=', lifetime: [/\bse=\d{4}/, 'se=2099'], headRefused: false });
  is('PUT by a signed URL', await send(sign('job/put', { permissions: 'cw' }), { method: 'PUT', body: 'x', ca: store.ca, headers: kind }), 201);
  refused('GET with a URL for writing', await send(sign('job/put', { permissions: 'cw' }), { ca: store.ca }));

  const create = () => call('PUT', `${container}/job/once`, { body: 'x', headers: { ...kind, 'if-none-match': '*' } });
  const races = await Promise.all(Array.from({ length: 16 }, create));
  say('one of 16 creates at once wins', races.filter(({ status }) => status === 201).length === 1, races.map(({ status }) => status));
  const id = Buffer.from('block-000000').toString('base64');
  is('a block is put', await call('PUT', `${container}/${part}?comp=block&blockid=${encodeURIComponent(id)}`, { body: five }), 201);
  const uncommitted = await call('GET', `${container}?restype=container&comp=list&include=uncommittedblobs&prefix=job/`);
  say('a blob of blocks alone is listed if asked for', uncommitted.text.includes(`<Name>${part}</Name>`), uncommitted.text);
  const listed = await call('GET', `${container}?restype=container&comp=list&prefix=job/`);
  say('and not otherwise', listed.status === 200 && !listed.text.includes(`<Name>${part}</Name>`) && listed.text.includes(`<Name>${key}</Name>`), listed.text);
  is('the blocks are committed', await call('PUT', `${container}/${part}?comp=blocklist`, {
    body: `<?xml version="1.0" encoding="utf-8"?><BlockList><Latest>${id}</Latest></BlockList>`, headers: { 'content-type': 'text/plain; charset=UTF-8' } }), 201);
  is('and can be read', await send(sign(part), { ca: store.ca, headers: { range: 'bytes=0-1' } }), 206);
  refused('an anonymous list', await send(`${container}?restype=container&comp=list`, { ca: store.ca }));
  refused('an anonymous PUT', await send(`${container}/job/anonymous`, { method: 'PUT', body: 'x', ca: store.ca, headers: kind }));
  await drill(sign(key), []);
  is('DELETE', await call('DELETE', `${container}/${key}`), 202);
  is('DELETE of what is not there: 404', await call('DELETE', `${container}/${key}`), 404);
}

const checks = { versitygw: s3, minio: s3, gcs, azurite: () => azure(false), 'azurite-https': () => azure(true) };
try {
  await checks[name]();
} catch (error) {
  say('the check itself', false, error.stack);
}
console.log(`${name}: ${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
