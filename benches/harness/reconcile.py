"""Measures what reconciliation costs and how fresh the archive is: simulated days of calls without any webhook."""

import json
import shutil

from .site import BenchmarkError, run_once
from .formatting import number, table

PROGRAMS = ("day",)
#: Calls of the days on which only lists and calls in progress are read.
SIZES = (1000, 10_000, 100_000)
#: Calls of the day that is archived.
ARCHIVED = 10_000


def run(ctx):
    listed = [day(ctx, size) for size in SIZES]
    return {
        "listed": listed,
        "growth": listed[-1]["bytes_per_call"] / listed[0]["bytes_per_call"],
        "data_api": day(ctx, SIZES[1], "--data-api"),
        "archived": day(ctx, ARCHIVED, "--archive"),
    }


def day(ctx, calls, *flags):
    folder = ctx.work / f"day-{calls}{''.join(flags)}"
    found = json.loads(run_once([ctx.bin / "day", "--dir", folder, "--calls", calls, *flags], timeout=3600)["stdout"])
    shutil.rmtree(folder)
    if "--archive" in flags and found["ages_s"]["archived"] != calls:
        raise BenchmarkError(f"{found['ages_s']['archived']} of {calls} calls were archived")
    return found


def markdown(found):
    """Returns the section of the report."""
    rows = [(f"{number(each['calls'], 0)} calls a day", each) for each in found["listed"]]
    rows.append((f"{number(found['data_api']['calls'], 0)}, Data API", found["data_api"]))
    ages = found["archived"]["ages_s"]
    kinds = ["times listed", "kB per call", "lists per day", "requests for calls in progress, per call"]
    return "\n".join([
        "A day of calls without webhooks, until the last verification, with the default intervals on a simulated clock. The bytes are those on the wire, "
        "for lists and for calls in progress.\n",
        table(["", *kinds], [[name, *costs(each)] for name, each in rows]),
        f"All {number(ages['archived'], 0)} calls are in the archive with their recordings. Age of a call at its archiving, after its end: p50 {ages['p50']} s, "
        f"p95 {ages['p95']} s, at most {ages['max']} s, without the fetch itself, during which the simulated clock stands still.\n",
    ])


def costs(each):
    requests = {operation: sum(statuses.values()) for operation, statuses in each["requests"].items()}
    lists = sum(count for operation, count in requests.items() if operation.endswith("list"))
    followed = sum(count for operation, count in requests.items() if operation.endswith("conversation"))
    return [
        number(each["listed_per_call"], 1),
        number(each["bytes_per_call"] / 1000, 1),
        number(lists / each["simulated_days"], 0),
        number(followed / each["calls"], 1),
    ]
