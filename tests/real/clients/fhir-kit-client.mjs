// fhir-kit-client.mjs PACKAGES BASE FOLDER TYPES [CLIENT KEY]: a Patient export by fhir-kit-client, its files in the folder.

import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { tokenFor } from './tokens.mjs';

const [packages, base, folder, types, clientId, key] = process.argv.slice(2);
const { Client } = await import(`${packages}/node_modules/fhir-kit-client/dist/index.js`);

const client = new Client({ baseUrl: base });
if (clientId) {
    client.bearerToken = await tokenFor(base, clientId, key);
}
const ask = async (url, more = {}) => {
    const body = await client.request(url, more);
    return { body, answer: Client.httpFor(body).response };
};

const { rest: [{ operation }] } = await client.capabilityStatement();
assert(operation.some(({ name }) => name === 'export'), 'the capability statement names the operation');
const { answer } = await ask(`Patient/$export?_type=${types}`, { options: { headers: { prefer: 'respond-async' } } });
assert.equal(answer.status, 202);
const status = answer.headers.get('content-location');
let last;
do {
    last = await ask(status);
    if (last.answer.status === 202) {
        const seconds = Number(last.answer.headers.get('retry-after'));
        assert(seconds > 0, 'it is told when to come back');
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(seconds, 2)));
    }
} while (last.answer.status === 202);
for (const [number, { url }] of last.body.output.entries()) {
    // It reads JSON only; links of files need no token.
    await writeFile(`${folder}/${number}.ndjson`, await (await fetch(url)).text());
}
assert.equal((await ask(status, { method: 'DELETE' })).answer.status, 202);
await assert.rejects(ask(status), (error) => error.response.status === 404);
