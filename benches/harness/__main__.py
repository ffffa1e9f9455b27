"""Runs the sections, stores their results, and writes the report."""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

EXAMPLES = """examples:
  benches/run --quick                     all sections with short rounds; writes docs/benchmarks.md
  benches/run                             the same with long rounds, and an hour for the memory
  benches/run --quick --only receiver     one section; stores and prints its results, writes no report
  benches/run --quick --only receiver --profile profiling --rounds 3 --contenders lean,fastify_amqplib
                                          a first impression, quick to build; stores nothing
  benches/run --report                    writes the report from the stored results
  benches/run --flame                     draws a flame graph: docs/benchmarks/receiver-flame.svg
"""
PROFILES = ("release", "profiling")
SECTIONS = ("receiver", "latency", "footprint", "growth", "embedded", "worker", "reconcile", "index", "console", "tools")


def main():
    parser = argparse.ArgumentParser(
        "benches/run", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short rounds")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"run only these sections: {', '.join(SECTIONS)}")
    parser.add_argument(
        "--contenders", type=lambda names: names.split(","), default=[], metavar="NAME,…",
        help="compare polyhook only with these receivers and publishers; prints the results, stores nothing",
    )
    parser.add_argument("--profile", choices=PROFILES, default="release", help="profile of the build (default: release)")
    parser.add_argument("--report", action="store_true", help="only write the report from the stored results")
    parser.add_argument("--flame", action="store_true", help="only draw a flame graph of the receiver")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Path(__file__).resolve().parents[1] / "results"
    results.mkdir(exist_ok=True)
    if args.flame:
        return flame()
    if not args.report:
        measure(args, results)
    if not args.only and not args.contenders:
        from . import report

        report.write(results)


def measure(args, results):
    import importlib

    from . import build, report
    from .context import Context
    from .receiver import CONTENDERS

    if unknown := set(args.contenders) - set(CONTENDERS):
        sys.exit(f"benches/run: unknown contenders {', '.join(unknown)}; choose from {', '.join(CONTENDERS)}")
    sections = {name: importlib.import_module(f".{name}", __package__) for name in args.only or SECTIONS}
    build.build(args.profile, {program for section in sections.values() for program in section.PROGRAMS})
    for name, section in sections.items():
        begin = time.monotonic()
        print(f"{name}: …", end=" ", file=sys.stderr, flush=True)
        # A new context for each section, so that nothing is left from the one before.
        ctx = Context(args.quick, args.rounds, args.profile, args.contenders)
        try:
            found = section.run(ctx)
        finally:
            ctx.close()
        seconds = time.monotonic() - begin
        print(f"{seconds:.0f} s", file=sys.stderr)
        if args.only or args.contenders:
            print(report.show(name, found))
        if not args.contenders:
            about = {"quick": args.quick, "rounds": args.rounds, "profile": args.profile, "took_seconds": seconds, "on": machine()}
            (results / f"{name}.json").write_text(json.dumps({**about, "found": found}, indent=1))


def flame():
    from . import flame as section
    from . import build
    from .context import ROOT, Context

    build.build("profiling", section.PROGRAMS)
    ctx = Context(quick=True, rounds=1, profile="profiling")
    try:
        section.draw(ctx, ROOT / "docs/benchmarks")
    finally:
        ctx.close()


def machine():
    """Describes the machine, the date and the commit."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "commit": commit,
    }


if __name__ == "__main__":
    main()
