"""Runs the DuckDB statements of docs/analyze.md against an archive, and compares their results with the archive's JSON files.

Arguments: the page, the archive, the key of the hashes of phone numbers, and a query for the number of calls of each channel. The
statements for other engines must name exactly the columns of the tables.
"""

import hashlib
import hmac
import json
import re
import sys
from collections import Counter
from pathlib import Path

import duckdb

PAGE, ARCHIVE, KEY = Path(sys.argv[1]).read_text(), Path(sys.argv[2]), sys.argv[3].encode()
CHANNELS = sys.argv[4]
# A column's type in DuckDB, Athena and Snowflake.
TYPES = {
    "VARCHAR": ("string", "varchar"),
    "JSON": ("string", "varchar"),
    "TIMESTAMP WITH TIME ZONE": ("timestamp", "timestamp_tz"),
    "DOUBLE": ("double", "double"),
    "BIGINT": ("bigint", "bigint"),
    "INTEGER": ("int", "int"),
    "BOOLEAN": ("boolean", "boolean"),
    "VARCHAR[]": ("array<string>", "array"),
    "MAP(VARCHAR, VARCHAR)": ("map<string, string>", "object"),
}
PARTITIONS = {"account_id", "project_id", "date"}


def statements():
    """Yields (title, statement) for DuckDB. The title is the last line in bold, or the heading."""
    title = ""
    for part in re.split(r"(^```sql\n.*?^```$)", PAGE, flags=re.S | re.M):
        if not part.startswith("```sql"):
            titles = re.findall(r"^(?:## |\*\*)([^*\n]+)", part, flags=re.M)
            title = titles[-1].strip() if titles else title
        elif title not in ("Athena", "BigQuery", "Snowflake"):
            yield title, part.removeprefix("```sql\n").removesuffix("```").replace("polyhook-demo/archive", str(ARCHIVE))


def conversations():
    for path in ARCHIVE.glob("account_id=*/*/*/*/manifest.json"):
        yield json.loads(path.read_text()), json.loads((path.parent / "conversation.json").read_text())


def rows(results, title):
    columns, found = results[title]
    return [dict(zip(columns, row)) for row in found]


def seconds(latency):
    """Returns the seconds of a latency, which is a number or an object."""
    return latency.get("perceived_latency") if isinstance(latency, dict) else latency


def check_results(results):
    """Compares the results with what the JSON files say."""
    calls = list(conversations())
    turns = [(manifest, turn) for manifest, call in calls for turn in call["turns"]]
    handoffs = [manifest for manifest, _ in calls if "handoff" in manifest]

    hours = rows(results, "Calls per hour")
    assert sum(hour["calls"] for hour in hours) == len(calls), hours
    assert sum(hour["handoffs"] for hour in hours) == len(handoffs), hours
    reasons = Counter(manifest["handoff"].get("reason") for manifest in handoffs)
    assert {row["handoff_reason"]: row["calls"] for row in rows(results, "Handoffs by reason")} == reasons
    silences = sum(turn.get("is_silence") is True for _, turn in turns)
    assert len(rows(results, "Longest silences")) == min(20, silences), silences
    latencies = sum(seconds(turn.get("latency")) is not None for _, turn in turns)
    assert sum(row["turns"] for row in rows(results, "Latency per variant")) == latencies
    unrecorded = [manifest for manifest, _ in calls if "VOICE" in manifest["channel"] and manifest["audio"]["status"] != "ready"]
    assert sum(row["calls"] for row in rows(results, "Calls without a recording")) == len(unrecorded)
    texts = ("user_input", "agent_response", "translated_user_input", "english_agent_response")
    said = [turn for _, turn in turns if "booking" in " ".join(turn.get(text) or "" for text in texts).lower()]
    assert len(rows(results, "Phrases in transcripts")) == len(said) > 0
    contained = rows(results, "Containment rate")
    ended = sum(not manifest["in_progress"] for manifest, _ in calls)
    assert sum(row["calls"] for row in contained) == ended
    assert all(0 <= row["contained_percent"] <= 100 for row in contained)
    numbers = Counter(call.get("from_number") or call.get("fromNumber") for _, call in calls)
    numbers = {hmac.new(KEY, number.encode(), hashlib.sha256).hexdigest(): count for number, count in numbers.items() if number}
    people = {row["from_number"]: row["calls"] for row in rows(results, "A person's calls")}
    assert people and people.items() <= numbers.items() and sum(people.values()) <= sum(numbers.values()), people
    refreshed = sum(manifest["revision"] > 1 for manifest, _ in calls)
    assert len(rows(results, "What changed on refresh")) == refreshed
    minutes = sum(manifest.get("polyai_duration_s") or 0 for manifest, _ in calls) / 60
    assert abs(sum(row["cost"] for row in rows(results, "Cost of a month")) - minutes * 0.12) < 0.1
    channels = Counter(manifest["channel"] for manifest, _ in calls)
    assert {row["channel"]: row["calls"] for row in rows(results, CHANNELS)} == channels
    raw = {row["conversation_id"]: row["audio_status"] for row in rows(results, "The raw bytes")}
    assert raw == {manifest["conversation_id"]: manifest["audio"]["status"] for manifest, _ in calls}


def check_other_engines(connection):
    """Compares the column lists for Athena and Snowflake with the tables."""
    for table in ("calls", "turns"):
        columns = connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE {table})").fetchall()
        columns = {name: TYPES[kind] for name, kind in columns if name not in PARTITIONS}
        athena = re.search(rf"CREATE EXTERNAL TABLE {table} \(\n(.*?)\n\)\nPARTITIONED", PAGE, re.S)[1]
        named = re.findall(r"(\w+) ([a-z]+(?:<[^>]*>)?)(?:,|$)", athena, re.M)
        assert dict(named) == {name: kinds[0] for name, kinds in columns.items()}, (table, "Athena")
        snowflake = re.search(rf"CREATE VIEW {table} AS SELECT(.*?)FROM {table}_files;", PAGE, re.S)[1]
        named = re.findall(r"value:(\w+)::(\w+) AS (\w+)", snowflake)
        assert all(source == name for source, _, name in named), (table, "Snowflake")
        assert {name: kind for name, kind, _ in named} == {name: kinds[1] for name, kinds in columns.items()}, (table, "Snowflake")
        documented = re.search(rf"^### {table}\n(.*?)\n(?:#|Transcripts)", PAGE, re.S | re.M)[1]
        assert set(re.findall(r"^\| `(\w+)` \|", documented, re.M)) == set(columns), (table, "columns")


def main():
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    results = {}
    for title, text in [*statements(), (CHANNELS, CHANNELS)]:
        found = connection.execute(text)
        results[title] = ([column[0] for column in found.description or []], found.fetchall())
    assert len(results) >= 12, sorted(results)
    check_results(results)
    check_other_engines(connection)
    print(f"{len(results)} statements, {sum(len(found) for _, found in results.values())} rows")


main()
