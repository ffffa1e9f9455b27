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
    "tools": "The tools",
}
INTRODUCTION = """# Benchmarks

<!-- Written by benches/run from benches/harness; changes made here by hand are lost. -->

polyhook beside other programs that do the same work, and beside the bare libraries.

```sh
benches/run --quick                    # short rounds
benches/run                            # long rounds, an hour for the memory
benches/run --quick --only receiver    # one section
```

Figures are medians of the rounds, with least and greatest in parentheses; contenders alternate within a round, and ratios are taken within it. A run
fails if anything that was accepted is not durable. Only ratios carry over to other machines; on a busy or virtual one two runs differ by a third.
"""


def write(results):
    kept = {name: json.loads(path.read_text()) for name in TITLES if (path := results / f"{name}.json").exists()}
    found = {name: each["found"] for name, each in kept.items()}
    folder = ROOT / "docs/benchmarks"
    folder.mkdir(exist_ok=True)
    from . import plots

    pictures = plots.draw(found, folder)
    parts = [INTRODUCTION, provenance(kept), "## Goals\n", goals(found)]
    parts.append((Path(__file__).parent / "notes.md").read_text())
    for name, each in kept.items():
        section = importlib.import_module(f".{name}", __package__)
        parts += [f"## {TITLES[name]}\n", section.markdown(each["found"])]
        parts += [f"![{title}](benchmarks/{file})\n" for of, title, file in pictures if of == name]
    (ROOT / "docs/benchmarks.md").write_text("\n".join(part.rstrip("\n") + "\n" for part in parts))


def provenance(kept):
    """Returns a list that says how and where the sections were measured, with one item for all sections measured alike."""
    alike = {}
    for name, each in kept.items():
        on = each["on"]
        length = "short rounds (`--quick`)" if each["quick"] else "long rounds"
        machine = f"{on['cores']} cores of {on['cpu']}, Linux {on['kernel']}"
        alike.setdefault(f"{each['rounds']} {length}, {on['date']}, commit {on['commit']}, {machine}", []).append(TITLES[name])
    return "".join(f"- {'; '.join(titles)}: {how}.\n" for how, titles in alike.items())


def goals(found):
    rows = []
    for what, section, find, sign, goal, form in GOALS:
        if section not in found:
            rows.append([what, f"{sign} {form.format(goal)}", "not measured"])
            continue
        measured = find(found[section])
        met = measured >= goal if sign == "≥" else measured <= goal
        shown = form.format(measured)
        rows.append([what, f"{sign} {form.format(goal)}", shown if met else f"**{shown}**"])
    return table(["what", "goal", "measured (bold: missed)"], rows)
