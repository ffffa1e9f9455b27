"""Measures the pages of the console: the first byte, the whole page, and the memory, with many conversations in a folder and on S3."""

import datetime
import html
import http.client
import json
import random
import re
import shutil
import sys
import time
from pathlib import Path
from statistics import median

from .formatting import megabytes, number, table
from .index import Store, Templates
from .seaweed import Seaweed
from .site import BenchmarkError, Site, answers, eventually, free_ports, peak_rss, run_once

PROGRAMS = ()
#: Calls of a day, and days of the folder. S3 has one day.
CALLS_PER_DAY = 100_000
DAYS = 10
ROUNDS = 5
#: What some callers say. Of 100,000 calls, 5,000 have the first phrase and 3 the second one.
FREQUENT, RARE = "a refund please", "zebra crossing"
FREQUENT_EVERY, RARE_EVERY = 20, 33_333
#: Viewers who search at the same time, for the memory.
VIEWERS = 16


def run(ctx):
    """With `--quick`, a day has a tenth of the calls."""
    calls = CALLS_PER_DAY // 10 if ctx.quick else CALLS_PER_DAY
    templates = Templates(ctx)
    day = datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=2)
    folder = Store(ctx, calls, None)
    folder.write(spoken(templates.copies(calls, day)))
    site = Site(ctx, "console-folder", templates.simulator, {"archive": folder.config, "index": {"enabled": True}})
    built = run_once(site.argv("index", "build", "--date", str(day), "--json"), timeout=3600)
    print(f"built in {built['seconds']:.0f} s", file=sys.stderr, flush=True)
    files = {path.relative_to(folder.folder): path for path in folder.folder.glob("index/**/*.parquet")}
    for back in range(1, DAYS):
        for key, path in files.items():
            copy = folder.folder / dated(key, day, back)
            copy.parent.mkdir(parents=True)
            shutil.copyfile(path, copy)
    found = {
        "calls_per_day": calls,
        "bytes_per_day": sum(path.stat().st_size for path in files.values()),
        "folder": {"calls": calls * DAYS, **measure(ctx, site)},
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    seaweed = Seaweed(ctx)
    try:
        bucket = Store(ctx, calls, seaweed)
        bucket.put({str(key): path.read_bytes() for key, path in files.items()})
        site = Site(ctx, "console-s3", templates.simulator, {"archive": bucket.config, "index": {"enabled": True}})
        before = bucket.requests()
        found["s3"] = {"calls": calls, **measure(ctx, site)}
        found["s3"]["requests"] = bucket.requests() - before
    finally:
        seaweed.stop()
    templates.simulator.stop()
    return found


def dated(key, day, back):
    """Returns the key of a file `back` days earlier."""
    return str(key).replace(f"date={day}", f"date={day - datetime.timedelta(days=back)}")


def spoken(copies):
    """Gives each conversation its own texts, so that they compress like those of real callers."""
    source = random.Random(2)
    words = ["".join(source.choices("etaoinshrdlcumwfgypbvk", k=source.randint(2, 9))) for _ in range(5000)]
    weights = [1 / (rank + 5) for rank in range(len(words))]
    for count, (folder, manifest, conversation) in enumerate(copies):
        conversation = json.loads(conversation)
        for turn in conversation["turns"]:
            for field in ("user_input", "agent_response"):
                turn[field] = " ".join(source.choices(words, weights, k=source.randint(5, 25)))
        phrase = RARE if count % RARE_EVERY == 7 else FREQUENT if count % FREQUENT_EVERY == 0 else None
        if phrase and conversation["turns"]:
            source.choice(conversation["turns"])["user_input"] += f" {phrase.title()}."
        # The index reads no hash.
        text = json.dumps(conversation)
        manifest = json.loads(manifest)
        manifest["objects"][0]["size_bytes"] = len(text)
        yield folder, json.dumps(manifest), text


class Console:
    """A running console and one connection to it."""

    def __init__(self, ctx, site):
        (self.port,) = free_ports(1)
        self.process = ctx.start(f"{site.name}-console", site.argv("console", "--set", f"console.listen=127.0.0.1:{self.port}"), {})
        eventually("the console answers", lambda: answers(f"http://127.0.0.1:{self.port}/livez"))
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def get(self, path):
        """Returns a page with the seconds until its first byte and until its end."""
        begin = time.monotonic()
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        first = time.monotonic() - begin
        body = answer.read().decode()
        if answer.status != 200:
            raise BenchmarkError(f"{path}: {answer.status}: {body[-400:]}")
        return Page(body, first, time.monotonic() - begin)


class Page:
    """A page as it was received."""

    def __init__(self, body, first, whole):
        self.body, self.first, self.whole = body, first, whole
        found = re.search(r'rel="next" href="([^"]+)"', body)
        self.next = html.unescape(found.group(1)) if found else None
        self.calls = body.count('class="id mono"')


def measure(ctx, site):
    console = Console(ctx, site)
    rest = console.process.rss()
    pages = {name: repeat(console, path) for name, path in PAGES.items()}
    pages |= {f"page 10 of {name}": repeat(console, tenth(console, path)) for name, path in DEEP.items()}
    found = {"pages": pages, "rare": whole_search(console, f"/conversations?text={RARE.replace(' ', '+')}")}
    found["memory"] = {"rest": rest, "peak": peak_rss(console.process.pid)}
    many_viewers(console)
    found["memory"]["viewers_peak"] = peak_rss(console.process.pid)
    console.process.stop()
    return found


#: The pages by name.
PAGES = {
    "all": "/conversations",
    "handoffs of a channel": "/conversations?channel=CHAT&handoff=yes",
    "no match": "/conversations?audio=failed",
    "a frequent phrase": f"/conversations?text={FREQUENT.replace(' ', '+')}",
    "a rare phrase, first answer": f"/conversations?text={RARE.replace(' ', '+')}",
    "the beginning of an id": "/conversations?id=7f3",
}
#: Pages whose tenth page is measured, too.
DEEP = {"all": "/conversations", "a frequent phrase": PAGES["a frequent phrase"]}


def repeat(console, path):
    """Returns the medians of several requests, and the first one, in milliseconds."""
    got = [console.get(path) for _ in range(ROUNDS)]
    return {
        "first_byte_ms": 1000 * median(page.first for page in got),
        "whole_ms": 1000 * median(page.whole for page in got),
        "slowest_ms": 1000 * max(page.whole for page in got),
        "bytes": len(got[0].body),
        "calls": got[0].calls,
    }


def tenth(console, path):
    for _ in range(9):
        path = console.get(path).next or path
    return path


def whole_search(console, path):
    """Follows a search to its end."""
    answers_, calls, begin = 0, 0, time.monotonic()
    while path:
        page = console.get(path)
        answers_, calls, path = answers_ + 1, calls + page.calls, page.next
    return {"answers": answers_, "calls": calls, "seconds": time.monotonic() - begin}


def many_viewers(console):
    """Searches for a phrase that does not occur on many connections at the same time."""
    connections = [http.client.HTTPConnection("127.0.0.1", console.port, timeout=120) for _ in range(VIEWERS)]
    for connection in connections:
        connection.request("GET", "/conversations?text=nobody+says+this")
    for connection in connections:
        if connection.getresponse().status != 200:
            raise BenchmarkError("a viewer got no page")


def markdown(found):
    """Returns the section of the report."""
    parts = [
        f"A day has {number(found['calls_per_day'], 0)} calls in one project, {megabytes(found['bytes_per_day'])} of index, in no order of time. "
        f"The other days are copies of its files. S3 is SeaweedFS on the same machine.\n",
    ]
    for name, title in (("folder", "a folder"), ("s3", "S3")):
        each = found[name]
        rows = [
            [page, *(number(of[key], 0) for key in ("first_byte_ms", "whole_ms", "slowest_ms")), f"{of['bytes'] / 1000:.0f} kB", of["calls"]]
            for page, of in each["pages"].items()
        ]
        rare, memory = each["rare"], each["memory"]
        parts += [
            f"{number(each['calls'], 0)} conversations in {title}, in milliseconds:\n",
            table(["page", "first byte", "whole", "slowest", "size", "calls on it"], rows),
            f"A search for a phrase in {rare['calls']} calls needs {rare['answers']} answers and {rare['seconds']:.1f} s for all days. Memory: "
            f"{megabytes(memory['rest'])} at rest, at most {megabytes(memory['peak'])} for one viewer, at most "
            f"{megabytes(memory['viewers_peak'])} with {VIEWERS} searches at the same time.\n",
        ]
    return "\n".join(parts)
