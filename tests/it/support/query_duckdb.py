"""Runs SQL in DuckDB. Reads a JSON array of statements from standard input, and prints for each a line: its rows as a JSON array."""

import json
import sys

import duckdb

connection = duckdb.connect()
connection.execute("set timezone = 'UTC'")
for statement in json.load(sys.stdin):
    print(json.dumps(connection.execute(statement).fetchall(), default=str), flush=True)
