"""Measures polyhook: `python -m harness --help`."""
