#!/usr/bin/env python3
"""openapi.json against the routes of the source, and against itself. (Its requests' fields are held to what
reads them by test_openapi.c.)

    test_openapi.py ROOT
"""
import json
import os
import re
import sys
import unittest


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return f.read()


def no_duplicates(pairs):
    assert len(dict(pairs)) == len(pairs), [k for k, _ in pairs]
    return dict(pairs)


class Document(unittest.TestCase):
    def setUp(self):
        self.document = json.loads(read("src/serve/openapi.json"), object_pairs_hook=no_duplicates)
        self.operations = {(method.upper(), path): o for path, item in self.document["paths"].items()
                           for method, o in item.items()}

    def test_form(self):
        self.assertEqual(self.document["openapi"], "3.1.0")
        version = re.search(r"^  version: '(.*)',$", read("meson.build"), re.M)[1]
        self.assertEqual(self.document["info"]["version"], version)
        ids = [o["operationId"] for o in self.operations.values()]
        self.assertEqual(len(set(ids)), len(ids))
        for (_, path), o in self.operations.items():
            self.assertTrue(o["responses"] and o["summary"])
            self.assertEqual(re.findall(r"{(\w+)}", path), [p["name"] for p in o.get("parameters", [])])

    def test_references(self):
        """All lead somewhere, and all that is there is led to."""
        used = set(re.findall(r'"\$ref": "#/components/(\w+/\w+)"', json.dumps(self.document)))
        there = {f"{kind}/{name}" for kind in ("schemas", "responses")
                 for name in self.document["components"][kind]}
        self.assertEqual(used, there)

    def test_routes(self):
        source = read("src/serve/routes.c")
        table = re.search(r"struct route routes\[\] = \{(.*?)^\};", source, re.S | re.M)[1]
        routes = set(re.findall(r'\{\s*"([A-Z]+)",\s*"([^"]+)"', table))
        self.assertGreater(len(routes), 8)
        self.assertEqual(len(routes), table.count("{"))
        self.assertIn('"/v1/models/"', source)  # the one with a name in it
        routes.add(("GET", "/v1/models/{model}"))
        self.assertEqual(routes - set(self.operations), set(), "not in openapi.json")
        self.assertEqual(set(self.operations) - routes, set(), "not in routes.c")

    def test_bodies(self):
        """What routes.c itself reads of a body."""
        source = read("src/serve/routes.c")
        fields = set(re.findall(r'\bmember\(body, n, "(\w+)"', source))
        for words in re.findall(r'\b\w+_fields\[\] = \{(.*?), NULL\}', source):
            fields |= set(re.findall(r'"(\w+)"', words))
        documented = set()
        for _, o in self.operations.items():
            schema = o.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            documented |= set(schema.get("properties", ()))
        self.assertGreaterEqual(len(fields), 4)
        self.assertEqual(fields, documented)

    def test_states(self):
        """Those of GET /health."""
        names = re.search(r"server_state_name\(.*?names\[\] = \{(.*?)\}", read("src/serve/server.c"), re.S)[1]
        states = self.document["components"]["schemas"]["State"]["enum"]
        self.assertEqual(re.findall(r'"(\w+)"', names), states)


if __name__ == "__main__":
    ROOT = sys.argv[1]
    unittest.main(argv=sys.argv[:1], verbosity=2)
