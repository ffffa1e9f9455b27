"""Formats numbers and tables for the report."""

from statistics import median


def spread(values):
    """Returns median, least and greatest of the rounds."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def spread_over(rounds, value):
    """Returns the spread of `value(round)` over the rounds."""
    return spread([value(each) for each in rounds])


def with_spread(found, unit="", digits=2):
    """Formats a median with its spread."""
    middle, least, most = (number(found[key], digits) for key in ("median", "min", "max"))
    return f"{middle}{unit} ({least}–{most})"


def number(value, digits=2):
    """Formats a number: thousands with separators, smaller ones with decimals."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def megabytes(value):
    return f"{value / 1e6:.1f} MB"


def table(head, rows):
    """Returns a Markdown table."""
    first, *rest = (f"| {' | '.join(str(cell) for cell in line)} |\n" for line in [head, *rows])
    return "".join([first, f"|{'---|' * len(head)}\n", *rest])
