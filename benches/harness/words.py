"""Numbers and tables as the report writes them."""

from statistics import median


def spread(values):
    """What is kept of the rounds."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def over(rounds, what):
    """The spread of something over rounds: `what` is given each."""
    return spread([what(each) for each in rounds])


def said(found, unit="", digits=2):
    """A median with its spread."""
    middle, least, most = (number(found[key], digits) for key in ("median", "min", "max"))
    return f"{middle}{unit} ({least}–{most})"


def number(value, digits=2):
    """Thousands are told apart, small numbers keep their digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def megabytes(value):
    return f"{value / 1e6:.1f} MB"


def table(head, rows):
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)
