"""walk.py BASE FOLDER WORKERS TYPES…: what many write first who want everything of a FHIR server. Follows the links of one search
for each type, so many types at a time, and writes their resources as NDJSON. Nothing but the standard library."""

import concurrent.futures
import json
import sys
import urllib.request


def walk(base, folder, name):
    url = f"{base}/{name}?_count=1000"
    with open(f"{folder}/{name}.ndjson", "w", encoding="utf-8") as file:
        while url:
            with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": "application/fhir+json"})) as answer:
                page = json.load(answer)
            for entry in page.get("entry", []):
                json.dump(entry["resource"], file, ensure_ascii=False, separators=(",", ":"))
                file.write("\n")
            url = next((link["url"] for link in page.get("link", []) if link["relation"] == "next"), None)


base, folder, workers, *types = sys.argv[1:]
with concurrent.futures.ThreadPoolExecutor(int(workers)) as pool:
    for done in [pool.submit(walk, base, folder, name) for name in types]:
        done.result()
