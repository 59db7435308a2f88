// walk.mjs BASE FOLDER WORKERS TYPES…: what many write first who want everything of a FHIR server. Follows the links of one search
// for each type, so many types at a time, and writes their resources as NDJSON. Nothing but Node's own library.

import { createWriteStream } from 'node:fs';
import { once } from 'node:events';

const [base, folder, workers, ...types] = process.argv.slice(2);

async function walk(name) {
    const file = createWriteStream(`${folder}/${name}.ndjson`);
    let url = `${base}/${name}?_count=1000`;
    while (url) {
        const answer = await fetch(url, { headers: { Accept: 'application/fhir+json' } });
        if (!answer.ok) {
            throw new Error(`${url} was answered with ${answer.status}`);
        }
        const page = await answer.json();
        const lines = (page.entry ?? []).map((entry) => `${JSON.stringify(entry.resource)}\n`).join('');
        if (!file.write(lines)) {
            await once(file, 'drain');
        }
        url = page.link?.find((link) => link.relation === 'next')?.url;
    }
    file.end();
    await once(file, 'finish');
}

const next = types.values();
await Promise.all(Array.from({ length: Number(workers) }, async () => {
    for (const name of next) {
        await walk(name);
    }
}));
