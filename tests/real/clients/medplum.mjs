// medplum.mjs PACKAGES BASE FOLDER TYPES [CLIENT KEY]: a System export by Medplum's SDK, its files in the folder.

import { writeFile } from 'node:fs/promises';
import { tokenFor } from './tokens.mjs';

const [packages, base, folder, types, clientId, key] = process.argv.slice(2);
// It is made for Node.js 22, which has one.
globalThis.WebSocket ??= class {};
const { MedplumClient } = await import(`${packages}/node_modules/@medplum/core/dist/esm/index.mjs`);

const { origin, pathname } = new URL(base);
const medplum = new MedplumClient({ baseUrl: `${origin}/`, fhirUrlPath: pathname.slice(1), fetch });
if (clientId) {
    medplum.setAccessToken(await tokenFor(base, clientId, key));
}
// It kicks off by POST, with parameters in the URL and no body.
const manifest = await medplum.bulkExport('', types, undefined, { pollStatusOnAccepted: true, pollStatusPeriod: 200 });
for (const [number, { url }] of manifest.output.entries()) {
    await writeFile(`${folder}/${number}.ndjson`, await (await medplum.download(url)).text());
}
