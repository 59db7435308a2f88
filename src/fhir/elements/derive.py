#!/usr/bin/env python3
"""Writes the tables of root elements, r4.tsv and r5.tsv, from HL7's StructureDefinitions.

    derive.py R4/profiles-resources.json R4B/profiles-resources.json > r4.tsv
    derive.py R5/profiles-resources.json > r5.tsv

Each line is a resource type, a tab, and the elements of its root but for those that all have. `!` marks one that is
mandatory or a modifier: without it nobody could read the rest. What any of the versions given says, counts.
"""

import json
import sys

COMMON = {
    "id", "meta", "implicitRules", "language", "text", "contained", "extension", "modifierExtension",
}


def main(paths):
    table = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            entries = [entry["resource"] for entry in json.load(file)["entry"]]
        for definition in entries:
            is_type = definition.get("kind") == "resource" and definition.get("derivation") == "specialization"
            if definition["resourceType"] != "StructureDefinition" or not is_type or definition.get("abstract"):
                continue
            elements = table.setdefault(definition["type"], {})
            for element in definition["snapshot"]["element"]:
                name = element["path"].partition(".")[2]
                if name and "." not in name and name not in COMMON:
                    stays = element["min"] > 0 or element.get("isModifier", False)
                    elements[name] = elements.get(name, False) or stays
    for name in sorted(table):
        elements = (element + ("!" if stays else "") for element, stays in table[name].items())
        print(name, " ".join(elements), sep="\t")


main(sys.argv[1:])
