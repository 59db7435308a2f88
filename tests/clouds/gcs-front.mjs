// A stand-in for Google Cloud Storage that refuses what Google refuses.
//
// It speaks the part of the XML API that Rust's `object_store` uses and believes nobody: bearer tokens and V4 signed
// URLs are verified with the public half of a key that it made itself. Objects lie in plain files, so that generations
// and preconditions are exact: one process decides, on one thread, and a rename makes an object visible.
//
//   node gcs-front.mjs --data DIR --port PORT [--tls-port PORT --cert FILE --key FILE] --bucket NAME…
//
// DIR/service-account.json is the key file that a client gets. What is not implemented is answered with 501, never with
// something that looks like success. See README.md beside this file.
import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { pathToFileURL } from 'node:url';
import zlib from 'node:zlib';

const HOSTS = ['storage.googleapis.com', 'oauth2.googleapis.com', 'iamcredentials.googleapis.com'];
const WRITE_SCOPES = ['cloud-platform', 'devstorage.read_write', 'devstorage.full_control'];
const SCOPE_PREFIX = 'https://www.googleapis.com/auth/';
const WEEK = 604800;
const SKEW = 900; // seconds that a client's clock may run ahead
const SMALLEST_PART = 5 * 1024 * 1024;
const LONGEST_XML = 4 * 1024 * 1024;
const KEPT = ['content-type', 'content-encoding', 'content-disposition', 'content-language', 'cache-control'];
const SIGNING = ['X-Goog-Algorithm', 'X-Goog-Credential', 'X-Goog-Date', 'X-Goog-Expires', 'X-Goog-SignedHeaders',
  'X-Goog-Signature'];

/** An answer other than success. */
class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}
const denied = (message) => new Refusal(403, 'AccessDenied', message);
const malformed = (message) => new Refusal(400, 'MalformedSecurityHeader', message);
const mismatch = (message) => new Refusal(403, 'SignatureDoesNotMatch', message);
const unauthenticated = (message) => new Refusal(401, 'AuthenticationRequired', message);
const unimplemented = (message) => new Refusal(501, 'NotImplemented', message);
const noSuchObject = () => new Refusal(404, 'NoSuchKey', 'The specified key does not exist.');

const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');
const seconds = () => Math.floor(Date.now() / 1000);
const escaped = (text) => text.replace(/[<>&'"]/g, (c) => `&#${c.charCodeAt(0)};`);
const strict = (text) =>
  encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
const byBytes = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b));

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Refusal(400, 'InvalidURI', 'cannot be decoded');
  }
}

// ---- accounts, tokens, signatures

/** The one account: its key pair, made at the first start, and the tokens issued to it. */
class Account {
  constructor(dir, tokenUri) {
    const file = path.join(dir, 'service-account.json');
    if (!fs.existsSync(file)) {
      const { privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
      const key = {
        type: 'service_account',
        project_id: 'offtake-tests',
        private_key_id: crypto.randomBytes(20).toString('hex'),
        private_key: privateKey.export({ type: 'pkcs8', format: 'pem' }),
        client_email: 'exporter@offtake-tests.iam.gserviceaccount.com',
        client_id: '100000000000000000001',
        token_uri: tokenUri,
      };
      fs.writeFileSync(`${file}.new`, JSON.stringify(key, null, 2), { mode: 0o600 });
      fs.renameSync(`${file}.new`, file);
    }
    const key = JSON.parse(fs.readFileSync(file, 'utf8'));
    this.email = key.client_email;
    this.keyId = key.private_key_id;
    this.tokenUri = key.token_uri;
    this.privateKey = crypto.createPrivateKey(key.private_key);
    this.publicKey = crypto.createPublicKey(this.privateKey);
    // Tokens of ours outlive a restart, as Google's do.
    this.tokenSecret = crypto.createHash('sha256').update(`tokens of ${key.private_key}`).digest();
  }

  verifies(text, signature) {
    return crypto.verify('RSA-SHA256', Buffer.from(text), this.publicKey, signature);
  }

  /** A token as the token endpoint and the metadata server give it. */
  issue(scopes, lifetime = 3600) {
    const body = Buffer.from(JSON.stringify({ scopes, exp: seconds() + lifetime })).toString('base64url');
    const mac = crypto.createHmac('sha256', this.tokenSecret).update(body).digest('base64url');
    return { access_token: `ya29.${body}.${mac}`, expires_in: lifetime, token_type: 'Bearer' };
  }

  /** The claims of a JWT that this account's key has signed. */
  claims(jwt) {
    const parts = jwt.split('.');
    if (parts.length !== 3 || parts.some((part) => !/^[A-Za-z0-9_-]+$/.test(part))) {
      throw unauthenticated('no JWT');
    }
    let header, claims;
    try {
      [header, claims] = parts.slice(0, 2).map((part) => JSON.parse(Buffer.from(part, 'base64url')));
    } catch {
      throw unauthenticated('no JWT');
    }
    const signature = Buffer.from(parts[2], 'base64url');
    // The last character of base64 may hold bits that nobody reads.
    if (signature.toString('base64url') !== parts[2]) throw unauthenticated('signature is not canonical');
    if (header.alg !== 'RS256' || (header.kid !== undefined && header.kid !== this.keyId)) {
      throw unauthenticated('unknown key or algorithm');
    }
    if (!this.verifies(`${parts[0]}.${parts[1]}`, signature)) throw unauthenticated('signature does not match');
    const now = seconds();
    const { iss, sub = iss, iat, exp } = claims;
    if (iss !== this.email || sub !== this.email) throw unauthenticated('unknown account');
    if (!Number.isInteger(iat) || !Number.isInteger(exp)) throw unauthenticated('iat and exp are needed');
    if (exp <= now || iat > now + SKEW || exp - iat > 3600) throw unauthenticated('not valid now, or for too long');
    return claims;
  }

  /** The scopes that a bearer token gives: one of ours, or a JWT that the account signed for itself. */
  scopes(token) {
    if (!token.startsWith('ya29.')) {
      const claims = this.claims(token);
      if (claims.scope) return claims.scope.split(' ');
      if (claims.aud === 'https://storage.googleapis.com/') return [`${SCOPE_PREFIX}cloud-platform`];
      throw unauthenticated('neither a scope nor the audience of Cloud Storage');
    }
    const [, body = '', mac = ''] = token.split('.');
    const expected = crypto.createHmac('sha256', this.tokenSecret).update(body).digest('base64url');
    if (token.split('.').length !== 3 || !sameText(mac, expected)) throw unauthenticated('unknown token');
    const { scopes, exp } = JSON.parse(Buffer.from(body, 'base64url'));
    if (exp <= seconds()) throw unauthenticated('the token has expired');
    return scopes;
  }
}

const sameText = (a, b) =>
  a.length === b.length && crypto.timingSafeEqual(Buffer.from(a, 'latin1'), Buffer.from(b, 'latin1'));

/** Parameters in their order, decoded as in a URL (`+` is a space only where a form was encoded; Google takes it so). */
function parameters(query) {
  if (query === '') return [];
  return query.split('&').map((pair) => {
    const at = pair.indexOf('=');
    const [name, value] = at < 0 ? [pair, ''] : [pair.slice(0, at), pair.slice(at + 1)];
    return [name, value].map((text) => decoded(text.replaceAll('+', ' ')));
  });
}

/** What was signed, by the rules of V4. `headers` are those of the request, in lower case. */
function stringToSign({ method, rawPath, query, headers, signedHeaders, date, scope }) {
  const canonicalQuery = query
    .filter(([name]) => name !== 'X-Goog-Signature')
    .map(([name, value]) => [strict(name), strict(value)])
    .sort((a, b) => byBytes(a[0], b[0]) || byBytes(a[1], b[1]))
    .map(([name, value]) => `${name}=${value}`)
    .join('&');
  const canonicalHeaders = signedHeaders
    .map((name) => `${name}:${headers[name].trim().replace(/\s+/g, ' ')}\n`).join('');
  const canonical = [method, rawPath, canonicalQuery, canonicalHeaders, signedHeaders.join(';'),
    headers['x-goog-content-sha256'] ?? 'UNSIGNED-PAYLOAD'].join('\n');
  return ['GOOG4-RSA-SHA256', date, scope, sha256(canonical)].join('\n');
}

function instant(text) {
  const parts = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text);
  if (!parts) throw malformed('X-Goog-Date');
  const [year, month, day, hour, minute, second] = parts.slice(1).map(Number);
  const time = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
  if (time.toISOString().replace(/[-:]|\.\d+/g, '') !== text) throw malformed('X-Goog-Date');
  return time.getTime() / 1000;
}

/** Throws unless the request is one that the account has signed, for this very host, path, method and time. */
function verifySignedUrl(account, request) {
  const { query, headers, method, rawPath } = request;
  const values = {};
  for (const [name, value] of query) {
    if (!name.toLowerCase().startsWith('x-goog-')) continue;
    if (!SIGNING.includes(name) || name in values) throw malformed(`${name} is unknown or there twice`);
    values[name] = value;
  }
  for (const name of SIGNING) {
    if (!(name in values)) throw malformed(`${name} is missing`);
  }
  const { 'X-Goog-Date': date, 'X-Goog-Signature': signature } = values;
  if (values['X-Goog-Algorithm'] !== 'GOOG4-RSA-SHA256') throw malformed('X-Goog-Algorithm');
  const scope = /^([^/]+)\/((\d{8})\/[a-z0-9-]+\/storage\/goog4_request)$/.exec(values['X-Goog-Credential']);
  if (!scope || scope[3] !== date.slice(0, 8)) throw malformed('X-Goog-Credential');
  if (scope[1] !== account.email) throw denied('unknown account');
  const expires = /^[1-9]\d{0,9}$/.test(values['X-Goog-Expires']) ? Number(values['X-Goog-Expires']) : 0;
  if (expires < 1 || expires > WEEK) throw malformed('X-Goog-Expires');
  const from = instant(date);

  const signedHeaders = values['X-Goog-SignedHeaders'].split(';');
  const sorted = [...new Set(signedHeaders)].sort(byBytes);
  if (sorted.join(';') !== signedHeaders.join(';') || !signedHeaders.includes('host')) {
    throw malformed('X-Goog-SignedHeaders');
  }
  for (const name of signedHeaders) {
    if (name !== name.toLowerCase() || headers[name] === undefined) throw malformed(`header ${name} is not there`);
  }
  for (const name of Object.keys(headers)) {
    if (name.startsWith('x-goog-') && !signedHeaders.includes(name)) throw malformed(`header ${name} is not signed`);
  }
  // Small letters and whole bytes only: else one signature could be written in many ways.
  if (!/^([0-9a-f]{2})+$/.test(signature)) throw mismatch('no signature');
  const text = stringToSign({ method, rawPath, query, headers, signedHeaders, date, scope: scope[2] });
  if (!account.verifies(text, Buffer.from(signature, 'hex'))) {
    throw mismatch('The request signature we calculated does not match the signature you provided.');
  }
  const now = seconds();
  if (from > now + SKEW) throw denied('signed for later');
  if (now >= from + expires) throw new Refusal(400, 'ExpiredToken', 'The provided token has expired.');
}

/** Who asks, and whether that suffices for what is asked. Every request for a bucket or an object passes here. */
function authorize(account, request) {
  const { query, headers, method } = request;
  const signed = query.some(([name]) => /^x-goog-(signature|credential|algorithm)$/i.test(name));
  const bearer = headers.authorization;
  if (signed && bearer !== undefined) {
    throw new Refusal(400, 'InvalidArgument', 'a signed URL and an Authorization header exclude one another');
  }
  if (signed) return verifySignedUrl(account, request);
  if (bearer === undefined) throw denied('Anonymous caller does not have access.');
  if (!/^Bearer /i.test(bearer)) throw unauthenticated('bearer tokens only');
  const scopes = account.scopes(bearer.slice(7).trim())
    .filter((scope) => scope.startsWith(SCOPE_PREFIX)).map((scope) => scope.slice(SCOPE_PREFIX.length));
  const reads = method === 'GET' || method === 'HEAD';
  const enough = reads ? [...WRITE_SCOPES, 'devstorage.read_only'] : WRITE_SCOPES;
  if (!scopes.some((scope) => enough.includes(scope))) throw denied('insufficient scope');
}

// ---- objects

/**
 * Objects in plain files: `objects/HASH.json` says which `data/FILE` holds the bytes. Its rename is the commit; what no
 * metadata names is swept at the next start. Everything between the last `await` and the rename runs alone.
 */
class Objects {
  constructor(dir, buckets) {
    this.dir = dir;
    this.buckets = new Set(buckets);
    for (const sub of ['objects', 'data', 'uploads']) {
      fs.mkdirSync(path.join(dir, sub), { recursive: true, mode: 0o700 });
    }
    this.objects = new Map(this.#read('objects').map((meta) => [`${meta.bucket}/${meta.name}`, meta]));
    this.uploads = new Map(this.#read('uploads').map((upload) => [upload.id, upload]));
    const named = new Set([...this.objects.values()].map((meta) => meta.file));
    for (const upload of this.uploads.values()) {
      for (const part of Object.values(upload.parts)) named.add(part.file);
    }
    for (const file of fs.readdirSync(path.join(dir, 'data'))) {
      if (!named.has(file)) fs.unlinkSync(this.data(file));
    }
    this.last = 0;
    for (const meta of this.objects.values()) this.last = Math.max(this.last, meta.generation);
  }

  #read(sub) {
    return fs.readdirSync(path.join(this.dir, sub)).filter((name) => name.endsWith('.json'))
      .map((name) => JSON.parse(fs.readFileSync(path.join(this.dir, sub, name), 'utf8')));
  }

  #write(file, value) {
    const handle = fs.openSync(`${file}.new`, 'w', 0o600);
    fs.writeSync(handle, JSON.stringify(value));
    fs.fsyncSync(handle);
    fs.closeSync(handle);
    fs.renameSync(`${file}.new`, file);
  }

  data(file) {
    return path.join(this.dir, 'data', file);
  }

  #metaFile(key) {
    return path.join(this.dir, 'objects', `${sha256(key)}.json`);
  }

  #uploadFile(id) {
    return path.join(this.dir, 'uploads', `${id}.json`);
  }

  /** Streams a body into a new file; the file is gone again if the body ends early or is not what its sums say. */
  async receive(request) {
    const file = crypto.randomBytes(16).toString('hex');
    const md5 = crypto.createHash('md5');
    let size = 0;
    try {
      await pipeline(request.body, async function* (chunks) {
        for await (const chunk of chunks) {
          md5.update(chunk);
          size += chunk.length;
          yield chunk;
        }
      }, fs.createWriteStream(this.data(file), { mode: 0o600, flush: true }));
      const sum = md5.digest();
      const length = request.headers['content-length'];
      if (length !== undefined && Number(length) !== size) throw new Refusal(400, 'IncompleteBody', 'body cut short');
      const claimed = request.headers['content-md5'];
      if (claimed !== undefined && claimed !== sum.toString('base64')) {
        throw new Refusal(400, 'BadDigest', 'The Content-MD5 you specified did not match what we received.');
      }
      return { file, size, etag: `"${sum.toString('hex')}"` };
    } catch (error) {
      this.drop(file);
      throw error;
    }
  }

  drop(file) {
    fs.rmSync(this.data(file), { force: true });
  }

  get(bucket, name) {
    return this.objects.get(`${bucket}/${name}`);
  }

  /** Makes `content` the object, if the precondition holds. One step: nothing else runs between check and rename. */
  commit(bucket, name, attributes, content, precondition) {
    const key = `${bucket}/${name}`;
    const old = this.objects.get(key);
    if (precondition !== undefined && precondition !== (old?.generation ?? 0)) {
      this.drop(content.file);
      throw new Refusal(412, 'PreconditionFailed', 'At least one of the pre-conditions you specified did not hold.');
    }
    this.last = Math.max(this.last + 1, Date.now() * 1000);
    const meta = { bucket, name, attributes, ...content, generation: this.last, modified: Date.now() };
    this.#write(this.#metaFile(key), meta);
    this.objects.set(key, meta);
    if (old) this.drop(old.file); // who reads it has it open
    return meta;
  }

  remove(bucket, name, precondition) {
    const key = `${bucket}/${name}`;
    const old = this.objects.get(key);
    if (precondition !== undefined && precondition !== (old?.generation ?? 0)) {
      throw new Refusal(412, 'PreconditionFailed', 'At least one of the pre-conditions you specified did not hold.');
    }
    if (!old) throw noSuchObject();
    fs.rmSync(this.#metaFile(key));
    this.objects.delete(key);
    this.drop(old.file);
  }

  begin(bucket, name, attributes) {
    const upload = { id: crypto.randomBytes(24).toString('base64url'), bucket, name, attributes, begun: Date.now(), parts: {} };
    this.#write(this.#uploadFile(upload.id), upload);
    this.uploads.set(upload.id, upload);
    return upload;
  }

  upload(bucket, name, id) {
    const upload = this.uploads.get(id);
    if (!upload || upload.bucket !== bucket || upload.name !== name) {
      throw new Refusal(404, 'NoSuchUpload', 'The specified multipart upload does not exist.');
    }
    return upload;
  }

  addPart(upload, number, content) {
    if (!this.uploads.has(upload.id)) { // aborted while the part came
      this.drop(content.file);
      throw new Refusal(404, 'NoSuchUpload', 'The specified multipart upload does not exist.');
    }
    const old = upload.parts[number];
    upload.parts[number] = content;
    this.#write(this.#uploadFile(upload.id), upload);
    if (old) this.drop(old.file);
  }

  /** Joins the parts and makes them the object. The upload and its parts go only after the object is there. */
  async complete(upload, listed) {
    let last = 0;
    const parts = listed.map(({ number, etag }) => {
      if (number <= last) throw new Refusal(400, 'InvalidPartOrder', 'The list of parts was not in ascending order.');
      last = number;
      const part = upload.parts[number];
      if (!part || part.etag !== etag) throw new Refusal(400, 'InvalidPart', `part ${number} is not there, or another`);
      return part;
    });
    if (parts.length === 0) throw new Refusal(400, 'MalformedXML', 'no parts');
    if (parts.slice(0, -1).some((part) => part.size < SMALLEST_PART)) {
      throw new Refusal(400, 'EntityTooSmall', 'Every part but the last must have 5 MiB.');
    }
    const file = crypto.randomBytes(16).toString('hex');
    const whole = await fs.promises.open(this.data(file), 'w', 0o600);
    try {
      for (const part of parts) {
        for await (const chunk of fs.createReadStream(this.data(part.file))) await whole.write(chunk);
      }
      await whole.sync();
    } catch (error) {
      this.drop(file);
      throw error;
    } finally {
      await whole.close();
    }
    if (!this.uploads.has(upload.id)) { // aborted or completed by another meanwhile
      this.drop(file);
      throw new Refusal(404, 'NoSuchUpload', 'The specified multipart upload does not exist.');
    }
    const size = parts.reduce((sum, part) => sum + part.size, 0);
    const sums = Buffer.concat(parts.map((part) => Buffer.from(part.etag.slice(1, -1), 'hex')));
    const etag = `"${crypto.createHash('md5').update(sums).digest('hex')}-${parts.length}"`;
    const meta = this.commit(upload.bucket, upload.name, upload.attributes, { file, size, etag });
    this.abort(upload);
    return meta;
  }

  abort(upload) {
    this.uploads.delete(upload.id);
    fs.rmSync(this.#uploadFile(upload.id), { force: true });
    for (const part of Object.values(upload.parts)) this.drop(part.file);
  }
}

// ---- the XML API

function attributesOf(headers) {
  const attributes = {};
  for (const [name, value] of Object.entries(headers)) {
    if (KEPT.includes(name) || name.startsWith('x-goog-meta-')) attributes[name] = value;
    else if (name === 'x-goog-storage-class') attributes[name] = value;
  }
  attributes['content-type'] ??= 'application/octet-stream';
  return attributes;
}

function precondition(headers) {
  const text = headers['x-goog-if-generation-match'];
  if (text === undefined) return undefined;
  if (!/^(0|[1-9]\d{0,17})$/.test(text)) throw new Refusal(400, 'InvalidArgument', 'x-goog-if-generation-match');
  return Number(text);
}

/** Refuses what nobody here would heed: a client must not believe that it was. */
function only(request, names, headers = []) {
  const reading = ['response-content-type', 'response-content-disposition'];
  for (const [name] of request.query) {
    if (!SIGNING.includes(name) && !names.includes(name)
      && !(request.method === 'GET' && reading.includes(name))) throw unimplemented(`parameter ${name}`);
  }
  for (const name of Object.keys(request.headers)) {
    if (name.startsWith('x-goog-') && !name.startsWith('x-goog-meta-') && !headers.includes(name)
      && name !== 'x-goog-content-sha256' && name !== 'x-goog-api-client') throw unimplemented(`header ${name}`);
  }
}

async function bodyOf(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request.body) {
    size += chunk.length;
    if (size > LONGEST_XML) throw new Refusal(400, 'EntityTooLarge', 'body too long');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function sendXml(response, status, root, inner, headers = {}) {
  const body = `<?xml version='1.0' encoding='UTF-8'?>\n<${root}>${inner}</${root}>`;
  response.writeHead(status, { 'content-type': 'application/xml; charset=UTF-8', 'content-length': Buffer.byteLength(body), ...headers });
  response.end(response.req.method === 'HEAD' ? undefined : body);
}

const element = (name, value) => `<${name}>${escaped(String(value))}</${name}>`;
const isoDate = (time) => new Date(time).toISOString();

function limit(text, most) {
  if (text === undefined) return most;
  if (!/^\d{1,6}$/.test(text) || Number(text) < 1) throw new Refusal(400, 'InvalidArgument', 'page size');
  return Math.min(Number(text), most);
}

function list(objects, { bucket, values }, response) {
  const { prefix = '', delimiter = '', 'start-after': after = '', 'continuation-token': token } = values;
  const from = token === undefined ? after : Buffer.from(token, 'base64url').toString();
  const most = limit(values['max-keys'], 1000);
  const names = [...objects.objects.values()]
    .filter((meta) => meta.bucket === bucket && meta.name.startsWith(prefix) && byBytes(meta.name, from) > 0)
    .sort((a, b) => byBytes(a.name, b.name));
  let inner = '';
  let count = 0;
  let last = from;
  let truncated = false;
  const prefixes = new Set();
  for (const meta of names) {
    const end = delimiter === '' ? -1 : meta.name.indexOf(delimiter, prefix.length);
    const group = end < 0 ? undefined : meta.name.slice(0, end + delimiter.length);
    // All of a group that an earlier page has named lies behind us.
    if (group !== undefined && (prefixes.has(group) || from.startsWith(group))) {
      last = meta.name;
      continue;
    }
    if (count === most) {
      truncated = true;
      break;
    }
    count += 1;
    last = meta.name;
    if (group !== undefined) {
      prefixes.add(group);
      inner += `<CommonPrefixes>${element('Prefix', group)}</CommonPrefixes>`;
    } else {
      inner += `<Contents>${element('Key', meta.name)}${element('Generation', meta.generation)}${element('MetaGeneration', 1)}`
        + `${element('LastModified', isoDate(meta.modified))}${element('ETag', meta.etag)}${element('Size', meta.size)}</Contents>`;
    }
  }
  const next = truncated ? element('NextContinuationToken', Buffer.from(last).toString('base64url')) : '';
  sendXml(response, 200, 'ListBucketResult', element('Name', bucket) + element('Prefix', prefix)
    + element('KeyCount', count) + element('IsTruncated', truncated) + next + inner);
}

function listUploads(objects, { bucket, values }, response) {
  const { prefix = '', 'key-marker': key, 'upload-id-marker': id = '' } = values;
  const most = limit(values['max-uploads'], 1000);
  const uploads = [...objects.uploads.values()]
    .filter((upload) => upload.bucket === bucket && upload.name.startsWith(prefix))
    .filter((upload) => key === undefined || byBytes(upload.name, key) > 0
      || (upload.name === key && id !== '' && byBytes(upload.id, id) > 0))
    .sort((a, b) => byBytes(a.name, b.name) || byBytes(a.id, b.id));
  const page = uploads.slice(0, most);
  const last = page.at(-1);
  const truncated = uploads.length > page.length;
  const next = truncated ? element('NextKeyMarker', last.name) + element('NextUploadIdMarker', last.id) : '';
  sendXml(response, 200, 'ListMultipartUploadsResult', element('Bucket', bucket) + element('IsTruncated', truncated) + next
    + page.map((upload) => `<Upload>${element('Key', upload.name)}${element('UploadId', upload.id)}`
      + `${element('Initiated', isoDate(upload.begun))}</Upload>`).join(''));
}

function listParts(upload, response) {
  const parts = Object.entries(upload.parts).sort(([a], [b]) => a - b);
  sendXml(response, 200, 'ListPartsResult', element('Bucket', upload.bucket) + element('Key', upload.name)
    + element('UploadId', upload.id) + element('IsTruncated', false) + parts.map(([number, part]) =>
      `<Part>${element('PartNumber', number)}${element('ETag', part.etag)}${element('Size', part.size)}</Part>`).join(''));
}

/** First and last byte asked for, `undefined` for all; throws where there are none. Many ranges are served as all. */
function rangeOf(text, size) {
  const range = /^bytes=(\d*)-(\d*)$/.exec(text ?? '');
  if (!range || (range[1] === '' && range[2] === '')) return undefined;
  const [first, last] = range[1] === ''
    ? [Math.max(0, size - Number(range[2])), size - 1]
    : [Number(range[1]), range[2] === '' ? size - 1 : Math.min(Number(range[2]), size - 1)];
  if (range[1] !== '' && range[2] !== '' && Number(range[2]) < first) return undefined;
  if (first >= size || (range[1] === '' && Number(range[2]) === 0)) {
    throw Object.assign(new Refusal(416, 'InvalidRange', 'The requested range cannot be satisfied.'),
      { headers: { 'content-range': `bytes */${size}` } });
  }
  return [first, last];
}

function unchanged(meta, headers) {
  const tags = (text) => text.split(',').map((tag) => tag.trim().replace(/^W\//, ''));
  const holds = (text) => text.trim() === '*' || tags(text).includes(meta.etag);
  const second = Math.floor(meta.modified / 1000);
  if (headers['if-match'] !== undefined) {
    if (!holds(headers['if-match'])) throw new Refusal(412, 'PreconditionFailed', 'If-Match');
  } else if (headers['if-unmodified-since'] && second > Date.parse(headers['if-unmodified-since']) / 1000) {
    throw new Refusal(412, 'PreconditionFailed', 'If-Unmodified-Since');
  }
  if (headers['if-none-match'] !== undefined) return holds(headers['if-none-match']);
  return headers['if-modified-since'] !== undefined && second <= Date.parse(headers['if-modified-since']) / 1000;
}

async function read(objects, request, response) {
  const { bucket, name, values, headers, method } = request;
  const meta = objects.get(bucket, name);
  if (!meta) throw noSuchObject();
  if (values.generation !== undefined && values.generation !== String(meta.generation)) throw noSuchObject();
  const wanted = precondition(headers);
  if (wanted !== undefined && wanted !== meta.generation) throw new Refusal(412, 'PreconditionFailed', 'generation');
  const answer = {
    ...meta.attributes,
    etag: meta.etag,
    'last-modified': new Date(meta.modified).toUTCString(),
    'accept-ranges': 'bytes',
    'x-goog-generation': String(meta.generation),
    'x-goog-metageneration': '1',
    'x-goog-stored-content-length': String(meta.size),
    'x-goog-stored-content-encoding': meta.attributes['content-encoding'] ?? 'identity',
  };
  if (values['response-content-type']) answer['content-type'] = values['response-content-type'];
  if (values['response-content-disposition']) answer['content-disposition'] = values['response-content-disposition'];
  if (unchanged(meta, headers)) {
    response.writeHead(304, answer);
    response.end();
    return;
  }
  // Google unpacks gzip for whoever does not ask for it, and then knows neither length nor ranges.
  const unpacked = meta.attributes['content-encoding'] === 'gzip'
    && !/\bno-transform\b/i.test(meta.attributes['cache-control'] ?? '')
    && !/\bgzip\b/i.test(headers['accept-encoding'] ?? '');
  let range;
  if (unpacked) {
    delete answer['content-encoding'];
    delete answer['accept-ranges'];
    answer.warning = '214 UploadServer gunzipped';
  } else {
    range = headers['if-range'] !== undefined && headers['if-range'] !== meta.etag ? undefined
      : rangeOf(headers.range, meta.size);
    answer['content-length'] = range ? range[1] - range[0] + 1 : meta.size;
    if (range) answer['content-range'] = `bytes ${range[0]}-${range[1]}/${meta.size}`;
  }
  const file = meta.size > 0 && method === 'GET' ? await fs.promises.open(objects.data(meta.file), 'r') : undefined;
  response.writeHead(range ? 206 : 200, answer);
  if (!file) {
    response.end();
    return;
  }
  const bytes = file.createReadStream(range ? { start: range[0], end: range[1] } : {});
  await (unpacked ? pipeline(bytes, zlib.createGunzip(), response) : pipeline(bytes, response));
}

function listedParts(text) {
  const unescape = (value) => value.replaceAll('&quot;', '"').replaceAll('&#34;', '"');
  return [...text.matchAll(/<Part>(.*?)<\/Part>/gs)].map(([, part]) => {
    const number = /<PartNumber>(\d{1,5})<\/PartNumber>/.exec(part);
    const etag = /<ETag>(.*?)<\/ETag>/s.exec(part);
    if (!number || !etag) throw new Refusal(400, 'MalformedXML', 'Part');
    return { number: Number(number[1]), etag: unescape(etag[1].trim()) };
  });
}

const written = (meta) => ({ etag: meta.etag, 'x-goog-generation': String(meta.generation), 'x-goog-metageneration': '1' });

async function put(objects, request, response) {
  const { bucket, name, values, headers } = request;
  const source = headers['x-goog-copy-source'];
  if (values.uploadId !== undefined) {
    only(request, ['uploadId', 'partNumber']);
    const upload = objects.upload(bucket, name, values.uploadId);
    const number = /^\d{1,5}$/.test(values.partNumber ?? '') ? Number(values.partNumber) : 0;
    if (number < 1 || number > 10000) throw new Refusal(400, 'InvalidArgument', 'partNumber');
    const content = await objects.receive(request);
    objects.addPart(upload, number, content);
    response.writeHead(200, { etag: content.etag, 'content-length': 0 });
    response.end();
    return;
  }
  only(request, [], ['x-goog-if-generation-match', 'x-goog-copy-source', 'x-goog-storage-class']);
  const condition = precondition(headers);
  if (source === undefined) {
    const content = await objects.receive(request);
    const meta = objects.commit(bucket, name, attributesOf(headers), content, condition);
    response.writeHead(200, { ...written(meta), 'content-length': 0 });
    response.end();
    return;
  }
  const [fromBucket, ...rest] = decoded(source.replace(/^\//, '')).split('/');
  const from = objects.get(fromBucket, rest.join('/'));
  if (!from) throw noSuchObject();
  const file = crypto.randomBytes(16).toString('hex');
  await fs.promises.copyFile(objects.data(from.file), objects.data(file));
  const meta = objects.commit(bucket, name, from.attributes, { file, size: from.size, etag: from.etag }, condition);
  sendXml(response, 200, 'CopyObjectResult', element('LastModified', isoDate(meta.modified)) + element('ETag', meta.etag), written(meta));
}

async function post(objects, request, response) {
  const { bucket, name, values, headers } = request;
  if (values.uploads !== undefined) {
    only(request, ['uploads'], ['x-goog-storage-class']);
    const upload = objects.begin(bucket, name, attributesOf(headers));
    sendXml(response, 200, 'InitiateMultipartUploadResult',
      element('Bucket', bucket) + element('Key', name) + element('UploadId', upload.id));
    return;
  }
  if (values.uploadId === undefined) throw unimplemented('POST');
  only(request, ['uploadId']);
  const upload = objects.upload(bucket, name, values.uploadId);
  const meta = await objects.complete(upload, listedParts(await bodyOf(request)));
  sendXml(response, 200, 'CompleteMultipartUploadResult', element('Location', `https://${HOSTS[0]}/${bucket}/${name}`)
    + element('Bucket', bucket) + element('Key', name) + element('ETag', meta.etag), written(meta));
}

async function onObject(objects, request, response) {
  const { bucket, name, values, headers, method } = request;
  if (method === 'GET' && values.uploadId !== undefined) {
    only(request, ['uploadId']);
    return listParts(objects.upload(bucket, name, values.uploadId), response);
  }
  if (method === 'GET' || method === 'HEAD') {
    only(request, ['generation'], ['x-goog-if-generation-match']);
    return read(objects, request, response);
  }
  if (method === 'PUT') return put(objects, request, response);
  if (method === 'POST') return post(objects, request, response);
  if (method !== 'DELETE') throw new Refusal(405, 'MethodNotAllowed', method);
  if (values.uploadId !== undefined) {
    only(request, ['uploadId']);
    objects.abort(objects.upload(bucket, name, values.uploadId));
  } else {
    only(request, [], ['x-goog-if-generation-match']);
    objects.remove(bucket, name, precondition(headers));
  }
  response.writeHead(204);
  response.end();
}

function onBucket(objects, request, response) {
  if (request.method === 'HEAD') {
    only(request, []);
    response.writeHead(200, { 'content-length': 0 });
    response.end();
  } else if (request.method !== 'GET') {
    throw unimplemented(`${request.method} of a bucket`);
  } else if (request.values.uploads !== undefined) {
    only(request, ['uploads', 'prefix', 'max-uploads', 'key-marker', 'upload-id-marker']);
    listUploads(objects, request, response);
  } else {
    only(request, ['list-type', 'prefix', 'delimiter', 'max-keys', 'start-after', 'continuation-token']);
    if (request.values['list-type'] !== '2') throw unimplemented('list-type other than 2');
    list(objects, request, response);
  }
}

// ---- tokens: the token endpoint, the metadata server of a virtual machine, signBlob

function sendJson(response, status, value) {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(value));
}

async function onTokens(account, request, response) {
  const { rawPath, method, headers } = request;
  if (rawPath === '/token' && method === 'POST') {
    const form = new URLSearchParams(await bodyOf(request));
    try {
      if (form.get('grant_type') !== 'urn:ietf:params:oauth:grant-type:jwt-bearer') throw unauthenticated('grant_type');
      const claims = account.claims(form.get('assertion') ?? '');
      if (claims.aud !== account.tokenUri || !claims.scope) throw unauthenticated('aud or scope');
      sendJson(response, 200, account.issue(claims.scope.split(' ')));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      sendJson(response, 400, { error: 'invalid_grant', error_description: error.message });
    }
    return true;
  }
  if (rawPath.startsWith('/computeMetadata/v1/instance/service-accounts/default/') && method === 'GET') {
    if (headers['metadata-flavor'] !== 'Google') throw denied('Missing Metadata-Flavor:Google header.');
    const asked = rawPath.split('/').at(-1);
    if (asked === 'token') sendJson(response, 200, account.issue([`${SCOPE_PREFIX}cloud-platform`]));
    else if (asked === 'email') response.writeHead(200, { 'content-type': 'application/text' }).end(account.email);
    else throw new Refusal(404, 'NotFound', asked);
    return true;
  }
  if (rawPath === `/v1/projects/-/serviceAccounts/${account.email}:signBlob` && method === 'POST') {
    if (!/^Bearer /i.test(headers.authorization ?? '')) throw unauthenticated('bearer token needed');
    if (!account.scopes(headers.authorization.slice(7)).includes(`${SCOPE_PREFIX}cloud-platform`)) throw denied('scope');
    let payload;
    try {
      payload = Buffer.from(JSON.parse(await bodyOf(request)).payload, 'base64');
    } catch {
      throw new Refusal(400, 'InvalidArgument', 'payload');
    }
    sendJson(response, 200, { keyId: account.keyId, signedBlob: crypto.sign('RSA-SHA256', payload, account.privateKey).toString('base64') });
    return true;
  }
  return false;
}

// ---- the servers

/** Parts of the request as they are signed. The path stays as it was sent; what is asked for is that path decoded. */
function parse(message) {
  const at = message.url.indexOf('?');
  const rawPath = at < 0 ? message.url : message.url.slice(0, at);
  if (!rawPath.startsWith('/')) throw new Refusal(400, 'InvalidURI', 'a path is needed');
  const query = parameters(at < 0 ? '' : message.url.slice(at + 1));
  const values = {};
  for (const [name, value] of query) {
    if (name in values) throw new Refusal(400, 'InvalidArgument', `${name} is there twice`);
    values[name] = value;
  }
  const headers = {};
  for (const [name, lines] of Object.entries(message.headersDistinct)) headers[name] = lines.join(',');
  const slash = rawPath.indexOf('/', 1);
  const bucket = decoded(slash < 0 ? rawPath.slice(1) : rawPath.slice(1, slash));
  const name = slash < 0 ? '' : decoded(rawPath.slice(slash + 1));
  return { method: message.method, rawPath, query, values, headers, bucket, name, body: message };
}

async function handle(account, objects, message, response) {
  const request = parse(message);
  if (await onTokens(account, request, response)) return;
  authorize(account, request);
  if (request.bucket === '') throw unimplemented('listing buckets');
  if (!objects.buckets.has(request.bucket)) throw new Refusal(404, 'NoSuchBucket', 'The specified bucket does not exist.');
  await (request.name === '' ? onBucket(objects, request, response) : onObject(objects, request, response));
}

/** Starts the front; `ports` are those that were got. */
export async function start({ data, port = 0, tlsPort, cert, key, buckets }) {
  const servers = [];
  const sockets = new Set();
  let account, objects;
  const answer = (message, response) => {
    handle(account, objects, message, response).catch((error) => {
      const refusal = error instanceof Refusal ? error : new Refusal(500, 'InternalError', 'internal error');
      if (refusal.status === 500 && error.code !== 'ERR_STREAM_PREMATURE_CLOSE' && error.code !== 'ECONNRESET') console.error(error);
      if (response.headersSent) {
        response.destroy();
        return;
      }
      // A body that nobody read must not be taken for the next request.
      if (!message.complete) response.setHeader('connection', 'close');
      sendXml(response, refusal.status, 'Error', element('Code', refusal.code) + element('Message', refusal.message), refusal.headers);
    });
  };
  const listen = (server, wanted) => new Promise((resolve, reject) => {
    server.on('connection', (socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
    });
    server.once('error', reject);
    server.listen(wanted, '127.0.0.1', () => resolve(server.address().port));
    servers.push(server);
  });
  const options = { requestTimeout: 0, keepAliveTimeout: 30000 };
  const plain = http.createServer(options, answer);
  const ports = { http: await listen(plain, port) };
  fs.mkdirSync(data, { recursive: true, mode: 0o700 });
  account = new Account(data, `http://127.0.0.1:${ports.http}/token`);
  objects = new Objects(data, buckets);
  if (cert) {
    const secure = https.createServer({ ...options, cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, answer);
    ports.https = await listen(secure, tlsPort ?? 0);
    // A proxy for Google's own names and nothing else: so a client can be tested with the addresses of production.
    plain.on('connect', (message, socket, head) => {
      socket.on('error', () => socket.destroy());
      const [host, wanted] = message.url.split(':');
      if (!HOSTS.includes(host) || wanted !== '443') {
        socket.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n');
        return;
      }
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      if (head.length > 0) socket.unshift(head);
      secure.emit('connection', socket);
    });
  }
  const stop = () => Promise.all(servers.map((server) => new Promise((resolve) => {
    server.close(resolve);
    for (const socket of sockets) socket.destroy();
  })));
  return { ports, account, objects, stop };
}

async function main(args) {
  const options = { buckets: [] };
  const names = { '--data': 'data', '--port': 'port', '--tls-port': 'tlsPort', '--cert': 'cert', '--key': 'key' };
  for (let i = 0; i < args.length; i += 2) {
    if (args[i] === '--bucket') options.buckets.push(args[i + 1]);
    else if (names[args[i]]) options[names[args[i]]] = args[i + 1];
    else throw new Error(`unknown option ${args[i]}`);
  }
  if (!options.data || options.buckets.length === 0) throw new Error('--data and --bucket are needed');
  const front = await start(options);
  console.log(`ready on port ${front.ports.http}${front.ports.https ? ` and, by TLS, ${front.ports.https}` : ''}`);
  for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => front.stop().then(() => process.exit(0)));
}

if (process.argv[1] && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exit(1);
  });
}
