// Makes the keys of the clients that tests play, new in each run: `node keys.mjs FOLDER`. Private ones as PEM for the tests,
// public ones as JWK Sets for the issuers.
import { createHash, generateKeyPairSync } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = process.argv[2];

function keep(name, alg, pair) {
  const jwk = pair.publicKey.export({ format: 'jwk' });
  const kid = createHash('sha256').update(JSON.stringify(jwk)).digest('base64url');
  writeFileSync(join(folder, `${name}.pem`), pair.privateKey.export({ format: 'pem', type: 'pkcs8' }), { mode: 0o600 });
  writeFileSync(join(folder, `${name}.jwks.json`), JSON.stringify({ keys: [{ ...jwk, kid, alg, use: 'sig' }] }));
  writeFileSync(join(folder, `${name}.kid`), kid);
}

keep('es384', 'ES384', generateKeyPairSync('ec', { namedCurve: 'P-384' }));
keep('rs384', 'RS384', generateKeyPairSync('rsa', { modulusLength: 3072 }));
