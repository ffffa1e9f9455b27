"""Numbers of several rounds."""

from statistics import median


def spread(values):
    """Median, least and greatest."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def over(rounds, what):
    """The spread of something over rounds: `what` is given each."""
    return spread([what(each) for each in rounds])
