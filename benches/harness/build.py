"""Builds polyhook and the benchmark programs."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build(profile, programs):
    """Builds polyhook and these benchmark programs with a profile of Cargo.toml."""
    chosen = (word for name in ("polyhook", *sorted(programs)) for word in ("--bin", name))
    argv = ["cargo", "build", "--locked", "--profile", profile, "--package", "polyhook", "--package", "polyhook-bench", *chosen]
    subprocess.run(argv, cwd=ROOT, check=True)


def folder(profile):
    """Returns the folder of the programs."""
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / profile
