// A real OpenID provider for tests: `node provider.mjs FOLDER PORT jwt|opaque BASE SECRET`, where FOLDER holds what keys.mjs
// made, BASE is the FHIR base that tokens are for, and SECRET that of the client which asks what tokens are worth.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [folder, port, format, base, secret] = process.argv.slice(2);
// It lies where it was installed, not beside this file.
const require = createRequire(join(process.env.OFFTAKE_OIDC_PROVIDER, 'package.json'));
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));

const jwks = (name) => JSON.parse(readFileSync(join(folder, `${name}.jwks.json`)));
const signing = (kind, options, alg) =>
  ({ ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: `issuer-${alg}` });

const resourceScopes = 'system/*.rs system/*.read system/Patient.rs user/Patient.rs launch/patient';
const backend = (id, alg) => ({
  client_id: id, token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: alg,
  grant_types: ['client_credentials'], response_types: [], redirect_uris: [], jwks: jwks(alg.toLowerCase()),
});

const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  jwks: { keys: [signing('ec', { namedCurve: 'P-384' }, 'ES384'), signing('rsa', { modulusLength: 2048 }, 'RS256')] },
  clients: [
    backend('warehouse-es384', 'ES384'),
    backend('warehouse-rs384', 'RS384'),
    backend('stranger', 'ES384'),
    { client_id: 'offtake', client_secret: secret, grant_types: [], response_types: [], redirect_uris: [] },
    {
      client_id: 'portal', token_endpoint_auth_method: 'none', application_type: 'native',
      grant_types: ['authorization_code'], response_types: ['code'], redirect_uris: ['http://127.0.0.1:1/callback'],
    },
  ],
  clientAuthMethods: ['private_key_jwt', 'client_secret_basic', 'none'],
  enabledJWA: { clientAuthSigningAlgValues: ['ES384', 'RS384'] },
  scopes: ['openid'],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: async (_context, _client, oneOf) => oneOf ?? base,
      useGrantedResource: async () => true,
      getResourceServerInfo: async (_context, resource) => ({
        scope: resourceScopes, audience: resource, accessTokenTTL: 3600, accessTokenFormat: format, jwt: { sign: { alg: 'ES384' } },
      }),
    },
  },
  ttl: { AccessToken: 3600, ClientCredentials: 3600, Grant: 3600, IdToken: 3600, Interaction: 600, Session: 600 },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  findAccount: async (_context, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  interactions: { url: (_context, interaction) => `/interaction/${interaction.uid}` },
});

// Whoever comes is the same user, and agrees to everything.
async function interact(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: 'practitioner-1' } });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope('openid');
  grant.addResourceScope(base, resourceScopes);
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

const handle = provider.callback();
createServer((request, response) => {
  if (!request.url.startsWith('/interaction/')) return handle(request, response);
  return interact(request, response).catch((error) => {
    response.statusCode = 500;
    response.end(String(error));
  });
}).listen(Number(port), '127.0.0.1');
