"""Importance on a scale of its namespace: raw values, >= 0 and on whatever scale callers like, to [0.05, 0.95].

    light tails   0.05 + 0.9 x (raw - least) / (greatest - least)
    heavy tails   0.05 + 0.9 / (1 + exp(-(raw - median) / spread))
    all equal     0.5

Tails are heavy when a value lies beyond Tukey's outer fences, three interquartile ranges from the quartiles (Tukey
1977, "Exploratory Data Analysis"): min-max would press all others together then. The spread is the interquartile
range / 1.35, a normal distribution's standard deviation, as in the outlier-robust sigmoid of Fulcher, Little and
Jones 2013, "Highly comparative time-series analysis"; where that is 0, since most values are equal, it is the median
distance of the others from them. No memory is at 0, so that a product with its importance erases none; the middle is
0.5, so that the first memory that is told apart moves the others little.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST = 0.05
MOST = 0.95
ALL_EQUAL = 0.5
# Interquartile ranges from a quartile to Tukey's outer fence.
FENCE = 3.0
# The interquartile range of a normal distribution by its standard deviation.
_QUARTILES = 1.3489795003921634
# Bits of a double's fraction that bins leave out: 2 ** 10 bins from a power of 2 to the next, whole numbers to 1,024
# exact.
_CUT = 42


class Quartiles(NamedTuple):
    """Values that a quarter, half and three quarters of all do not exceed."""

    lower: float
    median: float
    upper: float


@dataclass(frozen=True, slots=True)
class ImportanceScale:
    """The formula above for one distribution; never falls as raw values rise, inside of the observed range or not.

    `low`, `high`: the ends of it, equal when all values are. `spread`: > 0 under heavy tails, else 0.
    """

    low: float = 0.0
    high: float = 0.0
    median: float = 0.0
    spread: float = 0.0

    def of(self, raw: Floats) -> Floats:
        """Values in [0.05, 0.95] of raw ones >= 0, shape (n,); equal for equal ones."""
        if self.low >= self.high:
            return np.full(len(raw), ALL_EQUAL)
        if self.spread:
            with np.errstate(over="ignore"):
                share = 1 / (1 + np.exp((self.median - raw) / self.spread))
        else:
            # Halved, since the difference of two of the greatest doubles is no double.
            share = (np.clip(raw, self.low, self.high) / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return LEAST + (MOST - LEAST) * np.clip(share, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often values occur, by bins of at most 0.1 % width: a histogram that is exact to add to and to take from.

    `bins` ascend, `counts` > 0; shape (b,) each. As Masson, Rim and Lee 2019, "DDSketch", but without logarithms: a
    bin is the first bits of a double.
    """

    bins: Ints
    counts: Ints

    def changed(self, gone: Floats, fresh: Floats) -> "Distribution":
        """Without some values that it holds, and with others. O(b log b)."""
        if not len(gone) and not len(fresh):
            return self
        bins, places = np.unique(np.concatenate([self.bins, _bins(gone), _bins(fresh)]), return_inverse=True)
        by = np.concatenate([self.counts, np.full(len(gone), -1), np.ones(len(fresh), np.int64)])
        counts = np.zeros(len(bins), np.int64)
        np.add.at(counts, places, by)
        return Distribution(bins[counts > 0], counts[counts > 0])

    def scale(self, ends: Floats | None = None) -> ImportanceScale:
        """The scale of the values; of none, one that gives 0.5. `ends`: values that only reach further. O(b)."""
        if not len(self.bins):
            return ImportanceScale()
        values = _values(self.bins)
        reached = values if ends is None else np.concatenate([values, _values(_bins(ends))])
        low, high = float(reached.min()), float(reached.max())
        if low == high:
            return ImportanceScale(low, high)
        found = _quartiles(values, self.counts)
        reach = FENCE * (found.upper - found.lower)
        if high - found.upper <= reach and found.lower - low <= reach:
            return ImportanceScale(low, high)
        spread = (found.upper - found.lower) / _QUARTILES
        if not spread:
            distances = np.abs(reached - found.median)
            counts = np.ones(len(reached), np.int64)
            counts[: len(values)] = self.counts
            spread = _quartiles(distances[distances > 0], counts[distances > 0]).median
        # Of values at the very ends of what a double can hold.
        spread = float(np.clip(spread, np.finfo(np.float64).tiny, np.finfo(np.float64).max))
        return ImportanceScale(low, high, found.median, spread)


NO_IMPORTANCES = Distribution(np.empty(0, np.int64), np.empty(0, np.int64))


def distribution(raw: Floats) -> Distribution:
    """The distribution of raw values >= 0."""
    bins, counts = np.unique(_bins(raw), return_counts=True)
    return Distribution(bins, counts.astype(np.int64))


def _quartiles(values: Floats, counts: Ints) -> Quartiles:
    """Each is a value that occurs. `values` in any order, at least one, each so many times."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    places = np.searchsorted(below, np.array([0.25, 0.5, 0.75]) * below[-1])
    return Quartiles(*values[order[places]].tolist())


def _values(bins: Ints) -> Floats:
    return (bins << _CUT).view(np.float64)


def _bins(raw: Floats) -> Ints:
    # Adding 0.0 makes 0.0 of -0.0, whose first bit is set.
    return (np.asarray(raw, np.float64) + 0.0).view(np.int64) >> _CUT
