"""The table of the chart's values in deploy/helm/README.md, made from the comments in values.yaml."""

import json
import re
from pathlib import Path

import yaml

VALUES = Path("deploy/helm/polyhook/values.yaml")
README = Path("deploy/helm/README.md")
BEGIN, END = "<!-- `deploy/test/helm --write` makes this table from values.yaml. -->\n", "<!-- end of the table -->\n"


def comment_above(lines, key):
    """Returns the comment directly above a key, at the same indentation, as one line."""
    indent, found = " " * key.start_mark.column, []
    for line in reversed(lines[: key.start_mark.line]):
        if not re.match(rf"{indent}# ?\S", line):
            break
        found.insert(0, line.strip().removeprefix("#").strip())
    return " ".join(found)


def is_section(lines, node):
    """Returns whether a value is a map with a comment at one of its keys, which then have rows of their own."""
    return isinstance(node, yaml.MappingNode) and not node.flow_style and any(
        comment_above(lines, key) or is_section(lines, value) for key, value in node.value
    )


def rows(lines, node, prefix=""):
    """Yields path, default and description of each value."""
    loader = yaml.SafeLoader("")
    for key, value in node.value:
        if is_section(lines, value):
            yield from rows(lines, value, f"{prefix}{key.value}.")
        else:
            yield prefix + key.value, loader.construct_object(value, deep=True), comment_above(lines, key)


def table():
    """Returns the table, and the values without a comment."""
    text = VALUES.read_text(encoding="utf-8")
    found = list(rows(text.splitlines(), yaml.compose(text)))
    lines = ["| value | default | meaning |\n", "|---|---|---|\n"]
    for path, default, meaning in found:
        shown = "" if default in (None, "") else f"`{default if isinstance(default, str) else json.dumps(default)}`"
        lines.append(f"| `{path}` | {shown} | {meaning} |\n".replace("|  |", "| |"))
    return "".join(lines), [path for path, _, meaning in found if not meaning]


def readme():
    """Returns README.md as it is, as it should be, and the values without a comment."""
    wanted, bare = table()
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return text, f"{before}{BEGIN}\n{wanted}\n{END}{rest.split(END)[1]}", bare


if __name__ == "__main__":
    README.write_text(readme()[1], encoding="utf-8")
