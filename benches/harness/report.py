"""Writes `docs/benchmarks.md` and its plots from the stored results."""

import importlib
import json
from pathlib import Path

from .goals import GOALS
from .formatting import table

ROOT = Path(__file__).resolve().parents[2]
TITLES = {
    "receiver": "A durable delivery",
    "latency": "Latency",
    "footprint": "Start and memory",
    "growth": "With more of everything",
    "embedded": "The embedded queue",
    "worker": "The worker",
    "reconcile": "Reconciliation",
    "index": "The index",
    "console": "The console",
    "tools": "The tools",
}
INTRODUCTION = """# Benchmarks

<!-- Written by benches/run from benches/harness; changes made here by hand are lost. -->

This page compares polyhook with other programs that do the same work, and with two bounds: a bare publisher with the same client library, and the lean
bound, a minimal receiver with the same duties and none of polyhook's features.

```sh
benches/run --quick                    # short rounds
benches/run                            # long rounds, an hour for the memory
benches/run --quick --only receiver    # one section
```

Figures are medians of the rounds, with least and greatest in parentheses. Contenders alternate within a round; ratios are taken within it. A run
fails if an accepted message is not durable. Only ratios carry over to other machines; on a busy or virtual one two runs differ by a third.
"""


def write(results):
    kept = {name: json.loads(path.read_text()) for name in TITLES if (path := results / f"{name}.json").exists()}
    found = {name: each["found"] for name, each in kept.items()}
    folder = ROOT / "docs/benchmarks"
    folder.mkdir(exist_ok=True)
    from . import plots

    pictures = plots.draw(found, folder)
    parts = [INTRODUCTION, provenance(kept), "## Goals\n", goals(found, TITLES)]
    parts.append((Path(__file__).parent / "notes.md").read_text())
    for name, each in kept.items():
        section = importlib.import_module(f".{name}", __package__)
        parts += [f"## {TITLES[name]}\n", section.markdown(each["found"])]
        parts += [f"![{title}](benchmarks/{file})\n" for of, title, file in pictures if of == name]
    (ROOT / "docs/benchmarks.md").write_text("\n".join(part.rstrip("\n") + "\n" for part in parts))


def show(name, found):
    """Returns the goals and the tables of one section."""
    section = importlib.import_module(f".{name}", __package__)
    return f"{goals({name: found}, [name])}\n{section.markdown(found)}"


def provenance(kept):
    """Returns a list that says how and where the sections were measured, with one item for all sections measured alike."""
    alike = {}
    for name, each in kept.items():
        on = each["on"]
        length = "short rounds (`--quick`)" if each["quick"] else "long rounds"
        machine = f"{on['cores']} cores of {on['cpu']}, Linux {on['kernel']}"
        alike.setdefault(f"{each['rounds']} {length}, profile `{each['profile']}`, {on['date']}, commit {on['commit']}, {machine}", []).append(TITLES[name])
    return "".join(f"- {'; '.join(titles)}: {how}.\n" for how, titles in alike.items())


def goals(found, sections):
    """Returns the table of the goals of these sections."""
    rows = [
        [what, f"{sign} {form.format(goal)}" if sign else "", outcome(find, found.get(section, {}), sign, goal, form)]
        for what, section, find, sign, goal, form in GOALS
        if section in sections
    ]
    return table(["what", "goal", "measured (bold: missed)"], rows)


def outcome(find, section, sign, goal, form):
    """Returns a figure as the table of goals shows it."""
    try:
        measured = find(section)
    except KeyError:
        return "not measured"
    shown = form.format(measured)
    met = not sign or (measured >= goal if sign == "≥" else measured <= goal)
    return shown if met else f"**{shown}**"
