"""Measures how the cost of the tools grows with the data: `audit` and `reconcile` in time, `dead list` in time and memory."""

import datetime
import json
import sqlite3
from contextlib import closing

from .archiving import manifests
from .site import BenchmarkError, Simulator, Site, eventually, run_once
from .formatting import megabytes, number, table

PROGRAMS = ()


def run(ctx):
    sizes = (250, 1000, 4000) if ctx.quick else (1000, 4000, 16000)
    letters = (2000, 20000) if ctx.quick else (10_000, 100_000, 1_000_000)
    listed = [compare(ctx, size) for size in sizes]
    return {
        "listed": listed,
        # The cost of an additional conversation between the middle and the largest size, divided by the cost between the smallest
        # and the middle size; 1 is linear. In CPU time, because a few tenths of a second are mostly noise.
        "growth": {what: growth(listed, what) for what in ("reconcile", "audit")},
        "dead": dead(ctx, letters),
    }


def growth(listed, what):
    a, b, c = ((each["conversations"], each[what]["cpu_seconds"]) for each in listed)
    return ((c[1] - b[1]) / (c[0] - b[0])) / ((b[1] - a[1]) / (b[0] - a[0]))


def compare(ctx, size):
    """Lists, archives and audits conversations without recordings, all of one past day."""
    day = datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=1)
    scenario = f"""
        calls = {size}
        epoch = "{day}T23:00:00Z"
        spacing = "1s"
        [mix]
        max_turns = 4
        chat = 1.0
        webchat = 0.0
        sandbox = 0.0
        pre_release = 0.0
    """
    simulator = Simulator(ctx, f"tools-{size}", scenario)
    site = Site(ctx, f"tools-{size}-site", simulator, {"reconcile": {"lookback": "50h"}})
    # Reconciliation waits while much is queued, so a worker runs beside the first one, whose time is that of the worker.
    service = site.start("work")
    missing = tool(site, "reconcile", "--once", "--json")
    eventually("all is archived", lambda: service.total("polyhook_jobs_total") == size, timeout=600, pause=0.1)
    service.stop()
    archived = tool(site, "reconcile", "--once", "--json")
    audit = tool(site, "audit", "--date", str(day), "--json")
    found = len(manifests(site))
    if found != size:
        raise BenchmarkError(f"{found} of {size} conversations are in the archive")
    check(size, missing.pop("report"), archived.pop("report"), audit.pop("report"))
    simulator.stop()
    site.remove()
    return {
        "conversations": size,
        "archiving": missing,
        "reconcile": archived,
        "audit": audit,
    }


def tool(site, *words):
    ran = run_once(site.argv(*words))
    return {**{key: ran[key] for key in ("seconds", "cpu_seconds", "peak_rss")}, "report": json.loads(ran["stdout"])}


def check(size, missing, archived, audit):
    """Fails unless each tool has covered all conversations and reports the right result."""
    report = audit["report"]
    counts = [missing["queued"] + missing["queued_before"], archived["archived"], report["listed"], report["archived"]]
    if any(each != size for each in counts) or archived["missing"] or report["findings"] or not report["complete"]:
        raise BenchmarkError(f"of {size} conversations: {missing}, {archived}, {report}")


def dead(ctx, letters):
    """Causes one dead letter, copies it in the file of the queue, and lists the copies."""
    simulator = Simulator(ctx, "tools-dead")
    # A conversation that PolyAI does not know ends as a dead letter at the end of the schedule.
    site = Site(ctx, "tools-dead-site", simulator, {"retry": {"delays": []}})
    service = site.start("run")
    (known,) = simulator.add_calls(1, script={"missing": True})
    simulator.deliver(service.url, [known])
    eventually("the dead letter exists", lambda: service.total("polyhook_queue_depth", 'queue="dead"') == 1)
    service.stop()
    simulator.stop()
    found = []
    for count in letters:
        multiply(site.queue_file, count)
        ran = run_once(site.argv("dead", "list", "--json"), keep=False)
        listed = run_once(["sh", "-c", '"$@" | wc -l', "count", *site.argv("dead", "list", "--json")])
        if int(listed["stdout"]) != count:
            raise BenchmarkError(f"dead list: {listed['stdout']} of {count} letters")
        found.append({"letters": count, **{key: ran[key] for key in ("seconds", "cpu_seconds", "peak_rss")}})
    site.remove()
    return found


def multiply(path, count):
    """Copies the first dead letter under other ids until there are `count`."""
    with closing(sqlite3.connect(path)) as file, file:
        columns = [row[1] for row in file.execute("PRAGMA table_info(messages)")]
        others = {"seq": "n", "dedup": "CAST(printf('%032d', n) AS BLOB)", "id": "printf('evt_copy_%d', n)"}
        chosen = ", ".join(others.get(column, column) for column in columns)
        numbers = "WITH RECURSIVE numbers(n) AS (SELECT ?1 + 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?2)"
        (last,) = file.execute("SELECT max(seq) FROM messages").fetchone()
        first = "(SELECT min(seq) FROM messages WHERE state = 'dead')"
        file.execute(
            f"{numbers} INSERT INTO messages ({', '.join(columns)}) "
            f"SELECT {chosen} FROM messages, numbers WHERE messages.seq = {first}",
            (last, count),
        )
        file.execute(
            f"{numbers} INSERT INTO bodies (seq, body) SELECT n, body FROM bodies, numbers WHERE seq = {first}",
            (last, count),
        )


def markdown(found):
    """Returns the section of the report."""
    largest = found["listed"][-1]
    listed = [[f"`{what}`", *costs(largest[what]), number(found["growth"][what])] for what in ("reconcile", "audit")]
    dead = [[number(each["letters"], 0), *costs(each)] for each in found["dead"]]
    kinds = ["seconds", "CPU seconds", "peak resident"]
    return "\n".join([
        f"With {number(largest['conversations'], 0)} conversations, all archived. Growth: CPU per conversation in the upper half of the range "
        "against the lower half (1 is linear).\n",
        table(["", *kinds, "growth"], listed),
        table(["dead letters", "`dead list`, seconds", "CPU seconds", "peak resident"], dead),
    ])


def costs(of):
    return [number(of["seconds"]), number(of["cpu_seconds"]), megabytes(of["peak_rss"])]
