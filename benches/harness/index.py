"""Measures the index: how long a day takes to build and to update, what that costs, and how long queries take with and without it."""

import datetime
import hashlib
import json
import random
import shutil
import sys
import time
import uuid
from pathlib import Path

from .formatting import megabytes, number, table
from .site import BenchmarkError, Simulator, Site, eventually, run_once
from .seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, Seaweed

PROGRAMS = ()
#: Calls of the day.
SIZES = (1000, 10_000, 100_000)
#: Without the index on S3, each call costs two requests.
MOST_WITHOUT_INDEX_ON_S3 = 1000
#: Conversations of the simulator that are copied under other ids.
TEMPLATES = 40
#: Calls that are archived while the service runs, to see when they appear.
FRESH = 5
#: The seconds between two of them, at most.
FRESH_INTERVAL = 15
QUERIES = {
    "calls per hour": (
        "SELECT date_trunc('hour', started_at) AS hour, count(*) FROM calls GROUP BY hour",
        "SELECT date_trunc('hour', started_at) AS hour, count(*) FROM manifests GROUP BY hour",
    ),
    "handoffs by reason": (
        "SELECT handoff_reason, count(*) FROM calls WHERE handoff GROUP BY ALL",
        "SELECT handoff.reason, count(*) FROM manifests WHERE handoff IS NOT NULL GROUP BY ALL",
    ),
    "calls without a recording": (
        "SELECT count(*) FROM calls WHERE audio_status <> 'ready'",
        "SELECT count(*) FROM manifests WHERE audio.status <> 'ready'",
    ),
    "a phrase in the transcripts": (
        "SELECT count(*) FROM turns WHERE user_input ILIKE '%booking%'",
        "SELECT count(*) FROM (SELECT unnest(turns) AS turn FROM conversations) WHERE turn.user_input ILIKE '%booking%'",
    ),
    "mean number of words": (
        "SELECT avg(len(string_split(agent_response, ' '))) FROM turns",
        "SELECT avg(len(string_split(turn.agent_response, ' '))) FROM (SELECT unnest(turns) AS turn FROM conversations)",
    ),
}
INDEX_VIEWS = (
    "CREATE VIEW calls AS FROM read_parquet('{root}/index/calls/**/*.parquet')",
    "CREATE VIEW turns AS FROM read_parquet('{root}/index/turns/**/*.parquet')",
)
#: DuckDB lists all their files when it creates them, which takes minutes on S3.
ARCHIVE_VIEWS = (
    "CREATE VIEW manifests AS FROM read_json('{root}/account_id=*/*/*/*/manifest.json', columns = {{started_at: 'TIMESTAMPTZ', "
    "handoff: 'STRUCT(reason VARCHAR)', audio: 'STRUCT(status VARCHAR)'}})",
    "CREATE VIEW conversations AS FROM read_json('{root}/account_id=*/*/*/*/conversation.json', "
    "columns = {{turns: 'STRUCT(user_input VARCHAR, agent_response VARCHAR)[]'}}, maximum_object_size = 100000000)",
)


def run(ctx):
    """With `--quick`, the largest day is left out."""
    sizes = SIZES[:2] if ctx.quick else SIZES
    templates = Templates(ctx)
    found = [measure(ctx, templates, size, None) for size in sizes]
    seaweed = Seaweed(ctx)
    try:
        found += [measure(ctx, templates, size, seaweed) for size in sizes]
    finally:
        seaweed.stop()
    templates.simulator.stop()
    return {"days": found}


class Templates:
    """Archived conversations, which are copied under other ids."""

    def __init__(self, ctx):
        self.simulator = Simulator(ctx, "index", f"calls = {TEMPLATES}\n[mix]\nchat = 1.0\nwebchat = 0.0\nmax_turns = 12\n")
        site = Site(ctx, "index-templates", self.simulator, {"index": {"enabled": False}, "worker": {"environments": ["live", "sandbox", "pre-release"]}})
        service = site.start("run")
        ids = [call["id"] for call in self.simulator.control("GET", "calls")["calls"]]
        self.simulator.deliver(service.url, ids)
        paths = eventually("the templates are archived", lambda: complete(site.archive, len(ids)))
        service.stop()
        self.found = [(json.loads(path.read_text()), (path.parent / "conversation.json").read_text()) for path in paths]
        self.random = random.Random(1)

    def copies(self, count, day):
        """Yields (folder, manifest, conversation) of `count` conversations of one day."""
        midnight = datetime.datetime.combine(day, datetime.time(), datetime.timezone.utc)
        for _ in range(count):
            manifest, conversation = self.random.choice(self.found)
            name = str(uuid.UUID(int=self.random.getrandbits(128)))
            started = midnight + datetime.timedelta(seconds=self.random.randrange(86_000))
            text = conversation.replace(manifest["conversation_id"], name)
            document = {**manifest["objects"][0], "size_bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
            copy = {**manifest, "conversation_id": name, "started_at": started.isoformat().replace("+00:00", "Z"), "objects": [document]}
            folder = f"account_id={manifest['account_id']}/project_id={manifest['project_id']}/date={day}/{name}"
            yield folder, json.dumps(copy, indent=2), text


def complete(archive, count):
    paths = list(archive.glob("account_id=*/*/*/*/manifest.json"))
    return paths if len(paths) == count else None


class Store:
    """The folder or bucket of one measurement."""

    def __init__(self, ctx, size, seaweed):
        self.size, self.seaweed = size, seaweed
        self.prefix = f"index-{size}"
        self.folder = Path(ctx.work) / f"{self.prefix}-archive"
        if seaweed:
            import s3fs

            self.files = s3fs.S3FileSystem(
                key=ACCESS_KEY, secret=SECRET_KEY, client_kwargs={"endpoint_url": f"http://127.0.0.1:{seaweed.port}"}, use_listings_cache=False
            )
            self.root = f"s3://{BUCKET}/{self.prefix}"
            self.config = seaweed.archive(self.prefix)
        else:
            self.root, self.config = str(self.folder), {"url": f"file:{self.folder}"}

    def write(self, copies):
        """Writes the copies. Those of a bucket are written to a folder first, which its server copies much faster than S3 requests."""
        for folder, manifest, conversation in copies:
            for name, content in (("conversation.json", conversation), ("manifest.json", manifest)):
                path = self.folder / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
        if self.seaweed:
            self.seaweed.copy(self.folder, self.prefix)
            shutil.rmtree(self.folder)

    def put(self, batch):
        if self.seaweed:
            self.files.pipe({f"{self.root}/{key}": content for key, content in batch.items()})
            return
        for key, content in batch.items():
            path = self.folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def index_sizes(self):
        if self.seaweed:
            return [self.files.info(path)["size"] for path in self.files.glob(f"{self.root}/index/**/*.parquet")]
        return [path.stat().st_size for path in self.folder.glob("index/**/*.parquet")]

    def requests(self):
        """Returns the number of requests that the server has answered, or `None` for a folder."""
        return self.seaweed.requests() if self.seaweed else None

    def connection(self, views=INDEX_VIEWS):
        import duckdb

        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        if self.seaweed:
            connection.register_filesystem(self.files)
        for view in views:
            connection.execute(view.format(root=self.root))
        return connection


def measure(ctx, templates, size, seaweed):
    day = datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=2)
    store = Store(ctx, size, seaweed)
    store.write(templates.copies(size, day))
    name = f"index-{size}-{'s3' if seaweed else 'folder'}"
    site = Site(ctx, name, templates.simulator, {"archive": store.config, "index": {"enabled": True}})
    before = store.requests()
    built = run_once(site.argv("index", "build", "--date", str(day), "--json"), timeout=3600)
    requests = store.requests() - before if seaweed else None
    again = run_once(site.argv("index", "build", "--date", str(day), "--json"), timeout=3600)
    store.write(templates.copies(1, day))
    updated = run_once(site.argv("index", "build", "--date", str(day), "--json"), timeout=3600)
    verified = run_once(site.argv("index", "verify", "--date", str(day), "--json"), timeout=3600)
    sizes = store.index_sizes()
    without_index = not seaweed or size <= MOST_WITHOUT_INDEX_ON_S3
    connection = store.connection(INDEX_VIEWS + ARCHIVE_VIEWS if without_index else INDEX_VIEWS)
    (rows,) = connection.execute("SELECT count(*) FROM calls").fetchone()
    if rows != size + 1:
        raise BenchmarkError(f"the index has {rows} of {size + 1} calls")
    found = {
        "calls": size,
        "store": "S3" if seaweed else "folder",
        "build": {key: built[key] for key in ("seconds", "cpu_seconds", "peak_rss")},
        "requests": requests,
        "unchanged_seconds": again["seconds"],
        "update": {key: updated[key] for key in ("seconds", "cpu_seconds", "peak_rss")},
        "verify_seconds": verified["seconds"],
        "files": len(sizes),
        "bytes": sum(sizes),
        "queries": queries(connection, without_index),
        "ages_s": ages(templates, store, site, day),
    }
    site.remove()
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def queries(connection, without_index):
    """Returns the seconds of each query, with and without the index."""
    found = {}
    for name, (indexed, raw) in QUERIES.items():
        found[name] = [seconds(connection, indexed), seconds(connection, raw) if without_index else None]
    return found


def seconds(connection, query):
    start = time.monotonic()
    connection.execute(query).fetchall()
    return time.monotonic() - start


def ages(templates, store, site, day):
    """Archives conversations with their notes while the service runs, and returns the seconds until each is in the index."""
    import duckdb

    service = site.start("work")
    written, found = {}, {}

    def look():
        names = ", ".join(f"'{name}'" for name in written)
        query = f"SELECT conversation_id FROM calls WHERE conversation_id IN ({names})"
        try:
            rows = store.connection().execute(query).fetchall()
        except duckdb.Error:  # the file was replaced while it was read
            return False
        for (name,) in rows:
            found.setdefault(name, time.monotonic() - written[name])
        return len(found) == len(written)

    for folder, manifest, conversation in templates.copies(FRESH, day):
        store.put({f"{folder}/conversation.json": conversation.encode(), f"{folder}/manifest.json": manifest.encode()})
        store.put({note_key(folder): b""})
        written[Path(folder).name] = time.monotonic()
        eventually("the next call", lambda: look() or time.monotonic() > max(written.values()) + FRESH_INTERVAL, pause=0.5)
    eventually("the calls are in the index", look, timeout=600, pause=0.5)
    service.stop()
    return sorted(found.values())


def note_key(folder):
    """Returns the key of the note that a worker leaves for the service."""
    return f".polyhook/index-changes/{folder}.{uuid.uuid4()}"


def markdown(found):
    """Returns the section of the report."""
    days = found["days"]
    costs = [
        "build, s", "CPU, s", "peak resident", "requests per call", "one more call, s", "verify, s", "files", "bytes per call", "age of a new call, s",
    ]
    names = [f"{number(each['calls'], 0)} calls, {each['store']}" for each in days]
    rows = [
        [
            name,
            number(each["build"]["seconds"], 1),
            number(each["build"]["cpu_seconds"], 1),
            megabytes(each["build"]["peak_rss"]),
            number(each["requests"] / each["calls"], 1) if each["requests"] else "",
            number(each["update"]["seconds"], 2),
            number(each["verify_seconds"], 2),
            each["files"],
            number(each["bytes"] / each["calls"], 0),
            f"{each['ages_s'][len(each['ages_s']) // 2]:.0f} (at most {each['ages_s'][-1]:.0f})",
        ]
        for name, each in zip(names, days)
    ]
    timed = [
        [name, *(f"{pair[0]:.2f} / {pair[1]:.2f}" if pair[1] is not None else f"{pair[0]:.2f} / –" for pair in each["queries"].values())]
        for name, each in zip(names, days)
    ]
    return "\n".join([
        "One day of one project, built with `polyhook index build`. The age is the time from the archiving of a call until a query finds it, "
        "while the service runs with the default interval.\n",
        table(["", *costs], rows),
        "Seconds of a query in DuckDB, with the index / with `read_json` on the archive:\n",
        table(["", *QUERIES], timed),
    ])
