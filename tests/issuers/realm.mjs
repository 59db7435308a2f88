// Writes a realm of Keycloak for tests: `node realm.mjs FOLDER BASE SECRET REALM_FILE`, as for provider.mjs.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const [folder, base, secret, file] = process.argv.slice(2);
const jwks = (name) => readFileSync(join(folder, `${name}.jwks.json`), 'utf8');
const scopes = ['system/*.rs', 'system/*.read', 'system/Patient.rs', 'user/Patient.rs', 'launch/patient'];

const backend = (id, alg, own) => ({
  clientId: id, enabled: true, serviceAccountsEnabled: true, standardFlowEnabled: false, clientAuthenticatorType: 'client-jwt',
  attributes: {
    'use.jwks.string': 'true', 'jwks.string': jwks(alg.toLowerCase()), 'token.endpoint.auth.signing.alg': alg,
    'access.token.signed.response.alg': 'ES384',
  },
  defaultClientScopes: own, optionalClientScopes: scopes,
});

writeFileSync(file, JSON.stringify({
  realm: 'clinic', enabled: true, accessTokenLifespan: 3600, defaultSignatureAlgorithm: 'ES384',
  components: {
    'org.keycloak.keys.KeyProvider': [
      { name: 'ec', providerId: 'ecdsa-generated', config: { priority: ['200'], ecdsaEllipticCurveKey: ['P-384'] } },
      { name: 'rsa', providerId: 'rsa-generated', config: { priority: ['100'], algorithm: ['RS256'] } },
    ],
  },
  clientScopes: [
    ...scopes.map((name) => ({ name, protocol: 'openid-connect', attributes: { 'include.in.token.scope': 'true' } })),
    {
      name: 'audience', protocol: 'openid-connect', attributes: { 'include.in.token.scope': 'false' },
      // It tells only those what a token is worth whom the token names.
      protocolMappers: [['base', 'included.custom.audience', base], ['asks', 'included.client.audience', 'offtake']].map(
        ([name, kind, audience]) => ({
          name, protocol: 'openid-connect', protocolMapper: 'oidc-audience-mapper',
          config: { [kind]: audience, 'access.token.claim': 'true', 'introspection.token.claim': 'true' },
        }),
      ),
    },
  ],
  clients: [
    backend('warehouse-es384', 'ES384', ['audience']),
    backend('warehouse-rs384', 'RS384', ['audience']),
    backend('stranger', 'ES384', ['audience']),
    backend('elsewhere', 'ES384', []),
    { clientId: 'offtake', enabled: true, secret, serviceAccountsEnabled: true, standardFlowEnabled: false },
    {
      clientId: 'portal', enabled: true, publicClient: true, standardFlowEnabled: true,
      redirectUris: ['http://127.0.0.1:1/callback'], defaultClientScopes: ['audience'], optionalClientScopes: scopes,
      attributes: { 'access.token.signed.response.alg': 'ES384', 'id.token.signed.response.alg': 'ES384' },
    },
  ],
  users: [{
    username: 'practitioner-1', enabled: true, email: 'practitioner-1@example.org', emailVerified: true, firstName: 'P',
    lastName: 'One', credentials: [{ type: 'password', value: 'practitioner-1', temporary: false }],
  }],
}));
