// Signatures for the three clouds, written from their documents and independent of Rust: what signs here and what signs
// in the product have only the server between them. And the HTTP client of the checks, which sends what it is told to.
import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import tls from 'node:tls';

const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');
const hmac = (key, data) => crypto.createHmac('sha256', key).update(data).digest();
const strict = (text) =>
  encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
const strictPath = (text) => text.split('/').map(strict).join('/');
const compact = (date) => date.toISOString().replace(/[-:]|\.\d+/g, '');
const plain = (date) => `${date.toISOString().slice(0, 19)}Z`;

/** The query in the order that signatures want. */
function canonicalQuery(query) {
  return Object.entries(query).map(([name, value]) => [strict(name), strict(String(value))])
    .sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => `${name}=${value}`).join('&');
}

/** A connection to the host of an https URL through a proxy. */
function tunnel(proxy, target, ca) {
  const { hostname, port } = new URL(proxy);
  return new Promise((resolve, reject) => {
    http.request({ host: hostname, port, method: 'CONNECT', path: `${target.hostname}:${target.port || 443}` })
      .on('connect', (answer, socket) => {
        if (answer.statusCode === 200) resolve(tls.connect({ socket, servername: target.hostname, ca }));
        else reject(new Error(`proxy: ${answer.statusCode}`));
      }).on('error', reject).end();
  });
}

/** One request; the path is sent as it stands in `url`. `connect` is another address, `proxy` the URL of a proxy. */
export async function send(url, { method = 'GET', headers = {}, body, ca, connect, proxy } = {}) {
  const target = new URL(url);
  const options = {
    host: target.hostname, port: target.port, ...connect, method, ca, agent: proxy ? undefined : false,
    path: url.slice(url.indexOf('/', url.indexOf('//') + 2)),
    servername: /^[\d.]+$/.test(target.hostname) ? undefined : target.hostname,
    headers: { host: target.host, ...(body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }), ...headers },
  };
  if (proxy) {
    const socket = await tunnel(proxy, target, ca);
    options.createConnection = () => socket;
  }
  const client = target.protocol === 'https:' && !proxy ? https : http; // a tunnel brings its TLS
  return new Promise((resolve, reject) => {
    const request = client.request(options, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const bytes = Buffer.concat(chunks);
        resolve({ status: response.statusCode, headers: response.headers, bytes, text: bytes.toString('latin1') });
      });
    });
    request.on('error', reject);
    request.setTimeout(30000, () => request.destroy(new Error('no answer within 30 s')));
    request.end(body);
  });
}

// ---- S3: AWS Signature Version 4, in the query

/** `store` has endpoint, region, accessKey, secretKey and bucket. */
export function s3Url(store, method, key, { query = {}, expires = 300, date = new Date() } = {}) {
  const { host } = new URL(store.endpoint);
  const path = `/${store.bucket}${key === '' ? '' : `/${strictPath(key)}`}`;
  const day = compact(date).slice(0, 8);
  const scope = `${day}/${store.region}/s3/aws4_request`;
  const all = {
    ...query,
    'X-Amz-Algorithm': 'AWS4-HMAC-SHA256',
    'X-Amz-Credential': `${store.accessKey}/${scope}`,
    'X-Amz-Date': compact(date),
    'X-Amz-Expires': expires,
    'X-Amz-SignedHeaders': 'host',
  };
  const canonical = [method, path, canonicalQuery(all), `host:${host}\n`, 'host', 'UNSIGNED-PAYLOAD'].join('\n');
  const text = ['AWS4-HMAC-SHA256', compact(date), scope, sha256(canonical)].join('\n');
  const signing = [day, store.region, 's3', 'aws4_request'].reduce(hmac, `AWS4${store.secretKey}`);
  const signature = hmac(signing, text).toString('hex');
  return `${store.endpoint}${path}?${canonicalQuery(all)}&X-Amz-Signature=${signature}`;
}

// ---- Google Cloud Storage: V4 in the query, and JSON web tokens

/** `account` is a service-account key file's content, `host` what is signed as the host. */
export function gcsUrl(account, { base, host = new URL(base).host, bucket, method, key, query = {}, headers = {}, expires = 300,
  date = new Date() }) {
  const path = `/${bucket}${key === '' ? '' : `/${strictPath(key)}`}`;
  const scope = `${compact(date).slice(0, 8)}/auto/storage/goog4_request`;
  const signed = Object.entries({ host, ...headers }).sort(([a], [b]) => (a < b ? -1 : 1));
  const names = signed.map(([name]) => name).join(';');
  const all = {
    ...query,
    'X-Goog-Algorithm': 'GOOG4-RSA-SHA256',
    'X-Goog-Credential': `${account.client_email}/${scope}`,
    'X-Goog-Date': compact(date),
    'X-Goog-Expires': expires,
    'X-Goog-SignedHeaders': names,
  };
  const canonical = [method, path, canonicalQuery(all), signed.map((pair) => `${pair.join(':')}\n`).join(''), names,
    'UNSIGNED-PAYLOAD'].join('\n');
  const text = ['GOOG4-RSA-SHA256', compact(date), scope, sha256(canonical)].join('\n');
  const signature = crypto.sign('RSA-SHA256', Buffer.from(text), account.private_key).toString('hex');
  return `${base}${path}?${canonicalQuery(all)}&X-Goog-Signature=${signature}`;
}

export const GCS_SCOPE = 'https://www.googleapis.com/auth/cloud-platform';

/** A JWT that a service account signs: a bearer token by itself with `scope`, an assertion with `aud`. */
export function gcsJwt(account, claims = { scope: GCS_SCOPE }) {
  const now = Math.floor(Date.now() / 1000);
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${encode({ alg: 'RS256', typ: 'JWT', kid: account.private_key_id })}.${encode({
    iss: account.client_email, sub: account.client_email, iat: now, exp: now + 3600, ...claims,
  })}`;
  return `${text}.${crypto.sign('RSA-SHA256', Buffer.from(text), account.private_key).toString('base64url')}`;
}

// ---- Azure Blob Storage: shared key, service SAS, user-delegation SAS

const AZURE_VERSION = '2023-11-03';

/** The headers of a request with the account's key. `store` has endpoint (which ends in the account), account, key. */
export function azureHeaders(store, method, url, { headers = {}, body } = {}) {
  const target = new URL(url);
  const all = { 'x-ms-date': new Date().toUTCString(), 'x-ms-version': AZURE_VERSION, ...headers };
  const of = (name) => all[name] ?? '';
  const length = body === undefined || body.length === 0 ? '' : String(Buffer.byteLength(body));
  const named = Object.entries(all).filter(([name]) => name.startsWith('x-ms-')).sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name}:${value}\n`).join('');
  const query = [...target.searchParams].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => `\n${name}:${value}`).join('');
  const text = [method, of('content-encoding'), of('content-language'), length, of('content-md5'), of('content-type'), '', '',
    of('if-match'), of('if-none-match'), '', of('range'), `${named}/${store.account}${target.pathname}${query}`].join('\n');
  const signature = hmac(Buffer.from(store.key, 'base64'), text).toString('base64');
  return { ...all, authorization: `SharedKey ${store.account}:${signature}` };
}

/**
 * A bearer token that Azurite takes under `--oauth basic`: it looks at issuer, audience and times and at no signature.
 * The real service takes none of this.
 */
export function azureToken({ lifetime = 3600, audience = 'https://storage.azure.com', tenant = 'ab1f708d-50f6-404c-a006-d71b2ac7a606' } = {}) {
  const now = Math.floor(Date.now() / 1000);
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  return [encode({ alg: 'none', typ: 'JWT' }), encode({
    aud: audience, iss: `https://sts.windows.net/${tenant}/`, iat: now - 60, nbf: now - 60, exp: now + lifetime,
    oid: '23657296-5cd5-45b0-a809-d972a7f4dfe1', tid: tenant, ver: '1.0',
  }), 'AA'].join('.');
}

/** Asks for the key that user-delegation SAS are signed with. */
export async function azureDelegationKey(store, token, lifetime = 3600) {
  const now = Date.now();
  const body = `<?xml version="1.0" encoding="utf-8"?><KeyInfo><Start>${plain(new Date(now - 60000))}</Start><Expiry>${
    plain(new Date(now + lifetime * 1000))}</Expiry></KeyInfo>`;
  const answer = await send(`${store.endpoint}?restype=service&comp=userdelegationkey`, {
    method: 'POST', body, ca: store.ca,
    headers: { authorization: `Bearer ${token}`, 'x-ms-version': AZURE_VERSION, 'content-type': 'application/xml' },
  });
  if (answer.status !== 200) throw new Error(`user delegation key: ${answer.status} ${answer.text}`);
  const value = (name) => new RegExp(`<${name}>([^<]*)</${name}>`).exec(answer.text)?.[1];
  return { oid: value('SignedOid'), tid: value('SignedTid'), start: value('SignedStart'), expiry: value('SignedExpiry'),
    service: value('SignedService'), version: value('SignedVersion'), key: value('Value') };
}

/** A SAS for one blob: with the account's key, or with a delegation key if there is one. */
export function azureUrl(store, blob, { permissions = 'r', start = new Date(Date.now() - 60000), expires = 300,
  expiry = new Date(Date.now() + expires * 1000), delegation } = {}) {
  const resource = `/blob/${store.account}/${store.container}/${blob}`;
  const [st, se] = [plain(start), plain(expiry)];
  const fields = delegation
    ? [permissions, st, se, resource, delegation.oid, delegation.tid, delegation.start, delegation.expiry, delegation.service,
      delegation.version, '', '', '', '', '', AZURE_VERSION, 'b', '', '', '', '', '', '', '']
    : [permissions, st, se, resource, '', '', '', AZURE_VERSION, 'b', '', '', '', '', '', '', ''];
  const sig = hmac(Buffer.from(delegation?.key ?? store.key, 'base64'), fields.join('\n')).toString('base64');
  const query = { sv: AZURE_VERSION, sr: 'b', sp: permissions, st, se, ...(delegation && { skoid: delegation.oid, sktid: delegation.tid,
    skt: delegation.start, ske: delegation.expiry, sks: delegation.service, skv: delegation.version }), sig };
  return `${store.endpoint}/${store.container}/${strictPath(blob)}?${canonicalQuery(query)}`;
}

/** What `tests/clouds/run` says of the stores, by name. */
export function stores(env = process.env) {
  const ca = (file) => (file ? fs.readFileSync(file) : undefined);
  const s3 = { endpoint: env.OFFTAKE_S3_ENDPOINT, region: env.OFFTAKE_S3_REGION, accessKey: env.OFFTAKE_S3_ACCESS_KEY,
    secretKey: env.OFFTAKE_S3_SECRET_KEY, bucket: env.OFFTAKE_S3_BUCKET };
  const azure = { account: env.OFFTAKE_AZURE_ACCOUNT, key: env.OFFTAKE_AZURE_KEY, container: env.OFFTAKE_AZURE_CONTAINER };
  return {
    versitygw: s3,
    minio: s3,
    azurite: { ...azure, endpoint: env.OFFTAKE_AZURE_ENDPOINT },
    'azurite-https': { ...azure, endpoint: env.OFFTAKE_AZURE_HTTPS_ENDPOINT, ca: ca(env.OFFTAKE_AZURE_CA_FILE) },
    gcs: { endpoint: env.OFFTAKE_GCS_ENDPOINT, secure: env.OFFTAKE_GCS_HTTPS_ENDPOINT, proxy: env.OFFTAKE_GCS_PROXY,
      bucket: env.OFFTAKE_GCS_BUCKET, ca: ca(env.OFFTAKE_GCS_CA_FILE),
      account: env.OFFTAKE_GCS_KEY_FILE && JSON.parse(fs.readFileSync(env.OFFTAKE_GCS_KEY_FILE, 'utf8')) },
  };
}
