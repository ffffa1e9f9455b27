"""Draws a flame graph of `polyhook receive` under a closed loop of 64 connections.

`perf` samples the stack of each thread some hundred times per second. Its own cost is included, so the figures are shares of
the CPU time and not the cost of a delivery.
"""

import shutil
import subprocess
import time

from . import contenders
from .contenders import load
from .site import BenchmarkError

PROGRAMS = ("load",)
HERTZ = 499
STACK_BYTES = 16384
#: Narrower boxes, in percent, are left out.
MIN_WIDTH = "0.4"


def draw(ctx, folder):
    """Writes `receiver-flame.svg`. Needs a build with symbols, and `perf` and `inferno` on the path."""
    for program in ("perf", "inferno-collapse-perf", "inferno-flamegraph"):
        if not shutil.which(program):
            raise BenchmarkError(f"{program} is missing: `perf` comes with the kernel's tools; benches/run installs inferno")
    running = contenders.polyhook(ctx, "flame")
    samples, stacks = ctx.work / "perf.data", ctx.work / "stacks"
    pid = running.process.family()[-1]
    words = ["record", "--quiet", "--event", "cpu-clock", "--freq", HERTZ, "--call-graph", f"dwarf,{STACK_BYTES}"]
    perf = ctx.start("perf", ["perf", *words, "--output", samples, "--pid", pid], {})
    time.sleep(1)
    report = load(ctx, running, "--connections", 64, "--duration", "4s", "--warmup", "500ms")
    perf.stop()
    contenders.durable("flame", report, ctx.broker().take(running.queue))
    running.stop()
    with open(stacks, "wb") as out:
        subprocess.run(["perf", "script", "--no-inline", "--input", samples], stdout=out, stderr=subprocess.DEVNULL, check=True)
    folded = subprocess.run(["inferno-collapse-perf", "--all", stacks], capture_output=True, check=True).stdout
    words = ["--title", "polyhook receive: shares of its CPU by stack", "--minwidth", MIN_WIDTH, "--hash", "--countname", "ns"]
    drawn = subprocess.run(["inferno-flamegraph", *words], input=folded, capture_output=True, check=True).stdout
    (folder / "receiver-flame.svg").write_bytes(drawn)
