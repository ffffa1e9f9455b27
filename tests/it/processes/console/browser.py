"""Checks the console in one Chromium, as people use it: by roles, labels and visible text.

`mod.rs` starts the services and passes their addresses as JSON. Further arguments choose checks by a part of their names. All checks
run, also after one failed.
"""

import json
import os
import sys
import time
import traceback

import access
import everyone
import hostile
import pages
from services import Site, chromium

CHECKS = [check for module in (pages, access, hostile, everyone) for check in module.CHECKS]


def show(error):
    """Prints an error with the lines of these checks that led to it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    print("".join(traceback.format_list(frames)) + f"{type(error).__name__}: {str(error)[:3000]}", file=sys.stderr)


def main():
    setup, chosen = json.loads(sys.argv[1]), sys.argv[2:] or os.environ.get("CONSOLE_CHECKS", "").split()
    failed, ran = [], 0
    with chromium.start() as browser:
        site = Site(browser, setup)
        for check in CHECKS:
            if chosen and not any(part in check.__name__ for part in chosen):
                continue
            started, ran = time.monotonic(), ran + 1
            try:
                check(site)
            except Exception as error:
                failed.append(check.__name__)
                show(error)
                site.show_failure()
            print(f"{'FAILED' if check.__name__ in failed else 'ok    '} {check.__name__} {time.monotonic() - started:.1f} s")
    assert ran, f"no check has a name with {chosen}"
    if failed:
        sys.exit(f"{len(failed)} of {ran} checks of the console failed: {', '.join(failed)}")


main()
