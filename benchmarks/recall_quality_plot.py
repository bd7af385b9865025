"""A picture of recall@5: a panel a data set, a bar for each leg alone, for all parts and with each part off."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ALL_PARTS = "all parts"
_ALONE, _ALL, _WITHOUT = "#9aa5b1", "#1f6feb", "#e09b3d"


def plot(sets: Mapping[str, Any], title: str, path: Path) -> None:
    """Bars of the mean in %, with lines of one standard error either way; the dashed line is at all parts.

    `sets`: data set -> {"recall": what was asked -> figures}. What a service refused is not drawn.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    asked = list(dict.fromkeys(name for one in sets.values() for name in _means(one)))
    size = (3 + 3.2 * len(sets), 1.4 + 0.3 * len(asked))
    figure, panels = pyplot.subplots(1, len(sets), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, (name, one) in zip(panels[0], sets.items(), strict=True):
        means = _means(one)
        places = [asked.index(each) for each in means]
        values = [mean for mean, _ in means.values()]
        errors = [error or 0.0 for _, error in means.values()]
        axes.barh(places, values, xerr=errors, color=[_colour(each) for each in means], error_kw={"elinewidth": 0.8})
        if ALL_PARTS in means:
            axes.axvline(means[ALL_PARTS][0], color=_ALL, linestyle="--", linewidth=0.8)
        axes.set_title(f"{name}: {one['questions']} questions", fontsize=10)
        axes.set_xlim(0, 100)
        axes.set_xlabel("%")
    panels[0][0].set_yticks(range(len(asked)), asked)
    panels[0][0].invert_yaxis()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _means(one: Mapping[str, Any]) -> dict[str, tuple[float, float | None]]:
    return {
        name: (found["all"]["recall@5"]["mean"], found["all"]["recall@5"]["error"])
        for name, found in one["recall"].items()
        if "refused" not in found
    }


def _colour(asked: str) -> str:
    if asked == ALL_PARTS:
        return _ALL
    return _WITHOUT if asked.startswith("without") else _ALONE
