"""The goals, and the place of each figure in the results. `benches/harness/notes.md` explains missed goals. The goal for the broker's CPU
holds for RabbitMQ 3.10; for 4.3 it is 55 µs."""

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


#: Description, section, function that finds the figure, comparison, goal, and format. A line without a goal only shows the figure.
GOALS = [
    ("CPU of the service per delivery against Fastify + amqplib", "receiver", median("cpu_ratio", "fastify_amqplib"), "≤", 0.6, "{:.2f} ×"),
    ("the same against the lean bound", "receiver", median("cpu_ratio", "lean"), None, None, "{:.2f} ×"),
    ("deliveries/s against Fastify + amqplib", "receiver", median("throughput_ratio", "fastify_amqplib"), "≥", 1.0, "{:.2f} ×"),
    ("the same, same exchange and headers on both sides", "receiver", median("throughput_ratio", "fastify_alike"), "≥", 1.3, "{:.2f} ×"),
    ("deliveries/s against the lean bound", "receiver", median("throughput_ratio", "lean"), None, None, "{:.2f} ×"),
    ("CPU of the broker per delivery", "receiver", median("broker_cpu_us", "polyhook"), "≤", 60, "{:.1f} µs"),
    ("p50 at 500/s against the bare publisher", "latency", median("500", "ratio", "p50"), "≤", 1.25, "{:.2f} ×"),
    ("p99 at 500/s against the bare publisher", "latency", median("500", "ratio", "p99"), "≤", 1.5, "{:.2f} ×"),
    ("p99 at 5,000/s against the bare publisher", "latency", median("5000", "ratio", "p99"), "≤", 2.5, "{:.2f} ×"),
    ("CPU per delivery with 1 connection against 64", "growth", median("ratio", "connections_1/connections_64"), "≤", 3, "{:.2f} ×"),
    ("the same for the lean bound", "growth", median("ratio", "lean_1/lean_64"), None, None, "{:.2f} ×"),
    ("idle memory after a million deliveries (`--quick`: 120,000)", "footprint", value("memory", "idle_bytes", scale=1 / MB), "≤", 25, "{:.1f} MB"),
    ("embedded queue against an appender that rejects duplicates", "embedded", median("queue/append_unique"), "≥", 0.9, "{:.2f} ×"),
    ("first 204, broker up", "footprint", median("start", "broker_up_ms"), "≤", 100, "{:.0f} ms"),
    ("first 204, broker down, with a spool", "footprint", median("start", "broker_away_ms"), "≤", 1000, "{:.0f} ms"),
    ("size of the stripped program", "footprint", value("binary_bytes", scale=1 / MB), "≤", 20, "{:.1f} MB"),
    ("cost with 100 projects against 1", "growth", median("ratio", "projects_100/one"), "≤", 1.1, "{:.2f} ×"),
    ("cost with 8 secrets against 1", "growth", median("ratio", "secrets_8/one"), "≤", 1.1, "{:.2f} ×"),
    ("cost with 1,000 connections against 64", "growth", median("ratio", "connections_1000/connections_64"), "≤", 1.1, "{:.2f} ×"),
    ("cost with 10,000 connections against 64, at 3,000/s", "growth", median("ratio", "at_rate_10000/at_rate_64"), "≤", 1.1, "{:.2f} ×"),
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
    ("a conversation is listed, 10,000 calls a day", "reconcile", lambda found: found["listed"][1]["listed_per_call"], "≤", 6, "{:.1f} times"),
    ("bytes listed per call with 100,000 calls a day against 1,000", "reconcile", value("growth"), "≤", 1.1, "{:.2f} ×"),
    ("age of a call at its archiving without webhooks, p95", "reconcile", value("archived", "ages_s", "p95"), "≤", 90, "{:.0f} s"),
]
