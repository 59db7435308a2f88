// Logs a user in at an issuer, by the code flow with PKCE as an app does it, and prints what came of it as JSON:
// `node login.mjs ISSUER CLIENT SCOPE REDIRECT_URI`. A page with a form of a name and a password is filled in.
import { createHash, randomBytes } from 'node:crypto';

const [issuer, client, scope, redirect] = process.argv.slice(2);
const metadata = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
const verifier = randomBytes(32).toString('base64url');
const cookies = new Map();

async function go(url, form) {
  for (let hop = 0; hop < 20; hop += 1) {
    const headers = { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; ') };
    const answer = await fetch(url, { redirect: 'manual', headers, method: form ? 'POST' : 'GET', body: form });
    for (const cookie of answer.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
      if (value) cookies.set(name, value);
      else cookies.delete(name);
    }
    const location = answer.headers.get('location');
    if (location?.startsWith(redirect)) return new URL(location);
    form = undefined;
    if (location) {
      url = new URL(location, url);
      continue;
    }
    const page = await answer.text();
    const action = /<form[^>]+action="([^"]+)"/.exec(page);
    if (!action) throw new Error(`${answer.status} at ${url}: ${page.slice(0, 300)}`);
    url = new URL(action[1].replaceAll('&amp;', '&'), url);
    form = new URLSearchParams({ username: 'practitioner-1', password: 'practitioner-1' });
  }
  throw new Error('it goes round in circles');
}

const authorize = new URL(metadata.authorization_endpoint);
authorize.search = new URLSearchParams({
  client_id: client, response_type: 'code', scope, redirect_uri: redirect, state: 'x', nonce: randomBytes(8).toString('hex'),
  code_challenge: createHash('sha256').update(verifier).digest('base64url'), code_challenge_method: 'S256',
});
const code = (await go(authorize)).searchParams.get('code');
const answer = await fetch(metadata.token_endpoint, {
  method: 'POST',
  body: new URLSearchParams({ grant_type: 'authorization_code', code, client_id: client, redirect_uri: redirect, code_verifier: verifier }),
});
console.log(JSON.stringify(await answer.json()));
