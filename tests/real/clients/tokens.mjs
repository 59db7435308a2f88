// An access token of SMART Backend Services for a client with this private key (a file with a JWK Set, ES384).

import { createPrivateKey, randomUUID, sign } from 'node:crypto';
import { readFile } from 'node:fs/promises';

export async function tokenFor(base, clientId, file) {
    const { token_endpoint: aud } = await (await fetch(`${base}/.well-known/smart-configuration`)).json();
    const { keys: [key] } = JSON.parse(await readFile(file, 'utf8'));
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const exp = Math.floor(Date.now() / 1000) + 240;
    const claims = { iss: clientId, sub: clientId, aud, exp, jti: randomUUID() };
    const text = `${part({ alg: 'ES384', typ: 'JWT', kid: key.kid })}.${part(claims)}`;
    const signer = { key: createPrivateKey({ key, format: 'jwk' }), dsaEncoding: 'ieee-p1363' };
    const body = new URLSearchParams({
        grant_type: 'client_credentials',
        scope: 'system/*.rs',
        client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
        client_assertion: `${text}.${sign('sha384', Buffer.from(text), signer).toString('base64url')}`,
    });
    const answer = await fetch(aud, { method: 'POST', body });
    if (!answer.ok) {
        throw new Error(`no token: ${answer.status} ${await answer.text()}`);
    }
    return (await answer.json()).access_token;
}
