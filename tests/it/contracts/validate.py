"""Reads YAML and validates values against JSON Schemas, for the tests in this folder.

    validate.py load FILE     prints the YAML file as JSON
    validate.py check FOLDER  reads a list of {"schema", "closed", "instances"} from standard input; prints, for each entry, a
                              list of errors for each instance

A schema is named by its file in FOLDER and, after a #, its path in the file. "closed" rejects fields that the schema does
not name.
"""

import json
import re
import sys
from pathlib import Path

from jsonschema import Draft7Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT7
from ruamel.yaml import YAML

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
FORMATS = FormatChecker()


@FORMATS.checks("date-time")
def is_date_time(value):
    return not isinstance(value, str) or RFC3339.fullmatch(value) is not None


def close(node):
    if isinstance(node, list):
        return [close(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: value if key in ("enum", "const", "examples") else close(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict):
        node.setdefault("additionalProperties", False)
    return node


def check(folder, request):
    def retrieve(uri):
        contents = read(Path(uri.removeprefix("file://")))
        return DRAFT7.create_resource(close(contents) if request["closed"] else contents)

    schema = {"$ref": f"file://{folder.resolve()}/{request['schema']}"}
    validator = Draft7Validator(schema, registry=Registry(retrieve=retrieve), format_checker=FORMATS)
    return [
        [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(instance)]
        for instance in request["instances"]
    ]


def read(path):
    return YAML(typ="safe", pure=True).load(path) if path.suffix == ".yaml" else json.loads(path.read_text())


if __name__ == "__main__":
    command, path = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(read(path) if command == "load" else [check(path, request) for request in json.load(sys.stdin)]))
