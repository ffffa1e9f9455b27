"""Builds polyhook and the benchmark programs."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build(profile):
    """Builds with a profile of Cargo.toml. polyhook is built alone, so that it has no features of the benchmark programs."""
    for words in ((), ("--package", "polyhook-bench")):
        subprocess.run(["cargo", "build", "--locked", "--profile", profile, *words], cwd=ROOT, check=True)


def folder(profile):
    """Returns the folder of the programs."""
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / profile
