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
    "footprint": "Start, memory, size",
    "growth": "With more of everything",
    "embedded": "The embedded queue",
    "worker": "The worker",
    "tools": "The tools",
}
INTRODUCTION = """# Benchmarks

<!-- Written by benches/run from benches/harness; changes made here by hand are lost. -->

What a delivery, a job and the tools cost, beside other programs that do the same work and beside the bare libraries. The goals are ambitious, and
several are missed; the reasons follow the table.

```sh
benches/run --quick      # short rounds
benches/run              # longer rounds, an hour for the memory
```

Contenders alternate within a round. Figures are medians of the rounds, with least and greatest in parentheses; ratios are taken within a round. CPU is
the kernel's accounting of each process. Every run checks that what was accepted is what is durable, and fails if not. Only ratios mean anything on
other machines: on a busy or virtual one the figures of two runs differ by a third.
"""


def write(results):
    kept = {name: json.loads(path.read_text()) for name in TITLES if (path := results / f"{name}.json").exists()}
    found = {name: each["found"] for name, each in kept.items()}
    folder = ROOT / "docs/benchmarks"
    folder.mkdir(exist_ok=True)
    from . import plots

    pictures = plots.draw(found, folder)
    parts = [INTRODUCTION, "## Goals\n", goals(found)]
    parts.append((Path(__file__).parent / "notes.md").read_text())
    for name, each in kept.items():
        section = importlib.import_module(f".{name}", __package__)
        parts += [f"## {TITLES[name]}\n", about(each), section.markdown(each["found"])]
        parts += [f"![{title}](benchmarks/{file})\n" for of, title, file in pictures if of == name]
    (ROOT / "docs/benchmarks.md").write_text("\n".join(part.rstrip("\n") + "\n" for part in parts))


def about(each):
    on = each["on"]
    length = "short rounds (`--quick`)" if each["quick"] else "long rounds"
    return (
        f"{each['rounds']} {length}, {each['took_seconds']:.0f} s; {on['date']}, commit {on['commit']}, {on['cores']} cores of "
        f"{on['cpu']}, Linux {on['kernel']}.\n"
    )


def goals(found):
    rows = []
    for what, section, find, sign, goal, form in GOALS:
        if section not in found:
            rows.append([what, f"{sign} {form.format(goal)}", "not measured", ""])
            continue
        measured = find(found[section])
        met = measured >= goal if sign == "≥" else measured <= goal
        rows.append([what, f"{sign} {form.format(goal)}", form.format(measured), "yes" if met else "**no**"])
    return table(["what", "goal", "measured", "met"], rows)
