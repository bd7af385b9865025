"""A picture of the latencies: one group of bars for each operation, one bar for each store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.graph_questions import OPERATIONS


def plot(stores: Mapping[str, Any], title: str, path: Path) -> None:
    """Bars of p50 with lines up to p99, on a logarithmic scale; a hatched bar is a lower bound."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 5), layout="constrained")
    measured = {name: store["operations"] for name, store in stores.items() if "operations" in store}
    width = 0.8 / max(1, len(measured))
    for index, (name, operations) in enumerate(measured.items()):
        places, middles, highs, bounds = [], [], [], []
        for place, operation in enumerate(OPERATIONS):
            latencies = operations[operation]
            if isinstance(latencies, str):
                continue
            places.append(place + (index - (len(measured) - 1) / 2) * width)
            middles.append(_milliseconds(latencies["p50_ms"]))
            highs.append(_milliseconds(latencies["p99_ms"]))
            bounds.append(isinstance(latencies["p50_ms"], str))
        above = [[0.0] * len(highs), [high - middle for high, middle in zip(highs, middles, strict=True)]]
        bars = axes.bar(places, middles, width, yerr=above, label=name, error_kw={"elinewidth": 0.8, "capsize": 2})
        for bar, bound in zip(bars, bounds, strict=True):
            bar.set_hatch("//" if bound else "")
    axes.set_yscale("log")
    axes.set_xticks(range(len(OPERATIONS)), [operation.replace("_", " ") for operation in OPERATIONS])
    axes.set_ylabel("ms: p50, line to p99")
    axes.set_title(title)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _milliseconds(value: float | str) -> float:
    return max(0.001, float(str(value).removeprefix(">= ")))
