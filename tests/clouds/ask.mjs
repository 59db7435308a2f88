// Asks a storage, by signatures that are made here, what is left in it, and does there what another program would:
//
//   ask.mjs NAME left                one line for each object, unfinished upload, and blob that has nothing but blocks
//   ask.mjs NAME put KEY             an object
//   ask.mjs NAME begin KEY           an upload with one part that is never ended
//   ask.mjs NAME publish BUCKET      a bucket or container that anybody may list and read
//   ask.mjs NAME token               a token for user delegation, which Azurite takes
import { azureHeaders, azureToken, gcsJwt, s3Url, send, stores } from './sign.mjs';

const [name, what, key] = process.argv.slice(2);
const store = stores()[name];

/** One request that the storage is to grant. */
async function call(method, rest, { query = {}, body, headers = {}, allowed } = {}) {
  const text = new URLSearchParams(query).toString();
  let url;
  let all = headers;
  if (store.account?.client_email) {
    url = `${store.endpoint}/${store.bucket}${rest && `/${rest}`}${text && `?${text}`}`;
    all = { authorization: `Bearer ${gcsJwt(store.account)}`, ...headers };
  } else if (store.container) {
    url = `${store.endpoint}/${store.container}${rest && `/${rest}`}${text && `?${text}`}`;
    all = azureHeaders(store, method, url, { headers, body });
  } else {
    url = s3Url(store, method, rest, { query });
  }
  const answer = await send(url, { method, body, headers: all, ca: store.ca });
  if (answer.status >= 300 && answer.status !== allowed) throw new Error(`${method} ${rest} ${text}: ${answer.status} ${answer.text}`);
  return answer;
}

const all = (text, element) => [...text.matchAll(new RegExp(`<${element}>(.*?)</${element}>`, 'gs'))].map(([, inner]) => inner);

async function left() {
  if (store.container) {
    const list = async (include) => (await call('GET', '', { query: { restype: 'container', comp: 'list', ...include } })).text;
    const objects = all(await list({}), 'Name');
    const blocks = all(await list({ include: 'uncommittedblobs' }), 'Name').filter((blob) => !objects.includes(blob));
    return [...objects.map((object) => `object ${object}`), ...blocks.map((blob) => `upload ${blob}`)];
  }
  const objects = all((await call('GET', '', { query: { 'list-type': 2 } })).text, 'Contents');
  const uploads = all((await call('GET', '', { query: { uploads: '' } })).text, 'Upload');
  const keys = (elements) => elements.map((element) => all(element, 'Key')[0]);
  return [...keys(objects).map((object) => `object ${object}`), ...keys(uploads).map((upload) => `upload ${upload}`)];
}

async function begin() {
  const part = Buffer.alloc(5 * 1024 * 1024, '\n');
  if (store.container) {
    await call('PUT', key, { query: { comp: 'block', blockid: Buffer.from('00000').toString('base64') }, body: part });
    return;
  }
  const uploadId = all((await call('POST', key, { query: { uploads: '' } })).text, 'UploadId')[0];
  await call('PUT', key, { query: { partNumber: 1, uploadId }, body: part });
}

async function publish() {
  if (store.container) {
    store.container = key;
    const access = { 'x-ms-blob-public-access': 'container' };
    await call('PUT', '', { query: { restype: 'container' }, headers: access, allowed: 409 });
    return;
  }
  store.bucket = key;
  await call('PUT', '', { allowed: 409 });
  const everybody = { Effect: 'Allow', Principal: '*' };
  const policy = JSON.stringify({ Version: '2012-10-17', Statement: [
    { ...everybody, Action: 's3:ListBucket', Resource: `arn:aws:s3:::${key}` },
    { ...everybody, Action: 's3:GetObject', Resource: `arn:aws:s3:::${key}/*` },
  ] });
  await call('PUT', '', { query: { policy: '' }, body: policy });
}

if (!store?.endpoint) throw new Error(`no such storage: ${name}`);
if (what === 'left') for (const line of await left()) console.log(line);
else if (what === 'put') await call('PUT', key, { body: 'of another program', headers: store.container ? { 'x-ms-blob-type': 'BlockBlob' } : {} });
else if (what === 'begin') await begin();
else if (what === 'publish') await publish();
else if (what === 'token') console.log(azureToken());
else throw new Error('left, put KEY, begin KEY, publish BUCKET or token');
