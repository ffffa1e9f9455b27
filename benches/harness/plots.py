"""Draws the plots as SVG for light and dark backgrounds."""

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

from .latency import NAMES  # noqa: E402

GREY = "#888888"
STYLE = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": GREY,
    "figure.figsize": (7, 3.2),
    "font.size": 9,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "polyhook",
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def draw(found, folder):
    """Draws a plot for every result and returns section, title and file of each."""
    drawn = []
    with matplotlib.rc_context(STYLE):
        for rate, of in found.get("latency", {}).items():
            drawn.append(percentiles(rate, of, folder))
        if "growth" in found:
            drawn.append(connections(found["growth"], folder))
        if "footprint" in found:
            drawn.append(memory(found["footprint"]["memory"], folder))
    return drawn


def save(figure, folder, file):
    figure.tight_layout()
    figure.savefig(folder / file, metadata={"Date": None})
    pyplot.close(figure)


def percentiles(rate, of, folder):
    figure, axes = pyplot.subplots()
    for name, line in of["percentiles"].items():
        points = [(1 / (1 - at), us / 1000) for at, us in line if at < 0.99995]
        axes.plot(*zip(*points, strict=True), label=NAMES[name])
    axes.set_xscale("log")
    marks = (2, 10, 100, 1000, 10_000)
    axes.set_xticks(marks, ["50 %", "90 %", "99 %", "99.9 %", "99.99 %"])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ms")
    axes.legend()
    title, file = f"Latency by percentile at {int(rate):,} deliveries a second", f"latency-{rate}.svg"
    axes.set_title(title)
    save(figure, folder, file)
    return "latency", title, file


def connections(found, folder):
    figure, axes = pyplot.subplots()
    points = sorted(
        (int(name.removeprefix("connections_")), of["median"])
        for name, of in found["per_second"].items()
        if name.startswith("connections_")
    )
    axes.plot(*zip(*points, strict=True), marker="o")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections")
    axes.set_ylabel("deliveries a second")
    title, file = "Throughput against connections", "connections.svg"
    axes.set_title(title)
    save(figure, folder, file)
    return "growth", title, file


def memory(found, folder):
    figure, axes = pyplot.subplots()
    axes.plot([at for at, _ in found["series"]], [rss / 1e6 for _, rss in found["series"]])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s")
    axes.set_ylabel("MB resident")
    title, file = f"Memory at {found['rate']:,} deliveries a second", "memory.svg"
    axes.set_title(title)
    save(figure, folder, file)
    return "footprint", title, file
