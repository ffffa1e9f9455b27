"""The goals, and the place of each figure in the results. `benches/harness/notes.md` explains missed goals."""

MB = 1_000_000


def median(*path):
    """Returns a function that finds the median at this path."""
    return lambda found: dig(found, (*path, "median"))


def value(*path, scale=1.0):
    return lambda found: dig(found, path) * scale


def dig(found, path):
    for key in path:
        found = found[key]
    return found


#: Description, section, function that finds the figure, comparison, goal, and format.
GOALS = [
    ("CPU of the service per durable delivery", "receiver", median("shared", "cpu_us", "polyhook"), "≤", 10, "{:.1f} µs"),
    ("the same against Fastify + amqplib", "receiver", median("shared", "cpu_ratio", "fastify_amqplib"), "≤", 0.5, "{:.2f} ×"),
    ("deliveries/s against the bare publisher", "receiver", median("shared", "throughput_ratio", "publish"), "≥", 0.85, "{:.2f} ×"),
    ("the same, broker on a core of its own", "receiver", median("apart", "throughput_ratio", "publish"), "≥", 0.85, "{:.2f} ×"),
    (
        "the same, bare publisher with the same exchange and headers",
        "receiver",
        median("apart", "throughput_ratio", "publish_alike"),
        "≥",
        0.85,
        "{:.2f} ×",
    ),
    ("p50 at 500/s against the bare confirm", "latency", median("500", "ratio", "p50"), "≤", 1.2, "{:.2f} ×"),
    ("p99 at 500/s against the bare confirm", "latency", median("500", "ratio", "p99"), "≤", 1.43, "{:.2f} ×"),
    ("p99 at 5,000/s against the bare confirm", "latency", median("5000", "ratio", "p99"), "≤", 2, "{:.2f} ×"),
    ("idle memory after a million deliveries (`--quick`: 120,000)", "footprint", value("memory", "idle_bytes", scale=1 / MB), "≤", 20, "{:.1f} MB"),
    ("first 204, broker up", "footprint", median("start", "broker_up_ms"), "≤", 100, "{:.0f} ms"),
    ("first 204, broker down, with a spool", "footprint", median("start", "broker_away_ms"), "≤", 1000, "{:.0f} ms"),
    ("size of the stripped program", "footprint", value("binary_bytes", scale=1 / MB), "≤", 20, "{:.1f} MB"),
    ("cost with 100 projects against 1", "growth", median("ratio", "projects_100/one"), "≤", 1.1, "{:.2f} ×"),
    ("cost with 10 secrets against 1", "growth", median("ratio", "secrets_10/one"), "≤", 1.1, "{:.2f} ×"),
    ("cost with 1,000 connections against 64", "growth", median("ratio", "connections_1000/connections_64"), "≤", 1.1, "{:.2f} ×"),
    ("cost with 10,000 connections against 64, at 3,000/s", "growth", median("ratio", "at_rate_10000/at_rate_64"), "≤", 1.1, "{:.2f} ×"),
    ("cost with 1 connection against 64", "growth", median("ratio", "connections_1/connections_64"), "≤", 1.1, "{:.2f} ×"),
    ("embedded queue against a bare appender", "embedded", median("ratios", "queue"), "≥", 0.7, "{:.2f} ×"),
    (
        "worker's calls/s against a bare client that syncs each file",
        "worker",
        median("speed", "ratios", "embedded/download_sync", "calls_per_second"),
        "≥",
        0.9,
        "{:.2f} ×",
    ),
    (
        "worker's CPU per MB of audio against a bare client, large recordings",
        "worker",
        value("memory", "cpu_per_mb_ratio"),
        "≤",
        1.5,
        "{:.2f} ×",
    ),
    (
        "the same, recordings of 1 MB",
        "worker",
        median("speed", "ratios", "embedded/download", "cpu_ms_per_mb"),
        "≤",
        1.5,
        "{:.2f} ×",
    ),
    ("memory with eight large recordings at a time, folder", "worker", value("memory", "folder", "peak_rss", scale=1 / MB), "≤", 64, "{:.0f} MB"),
    ("the same, bucket", "worker", value("memory", "bucket", "peak_rss", scale=1 / MB), "≤", 64, "{:.0f} MB"),
]
