"""Dates in texts by plain rules: days, months and years that a memory is of, or that a query asks for."""

import calendar
import re
from datetime import datetime
from typing import NamedTuple

from sfm_graph.domain.words import words

_MONTHS = {
    name.casefold(): number
    for names in (calendar.month_name, calendar.month_abbr)
    for number, name in enumerate(names)
    if name
}
_DAY = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?$")
_YEAR = re.compile(r"(?:1[5-9]|20)\d\d$")
_ISO = re.compile(r"(?<![\d-])((?:1[5-9]|20)\d\d)-(\d\d)(?:-(\d\d))?(?![\d-])")


class PartialDate(NamedTuple):
    """A date with the parts that were said; at least one is."""

    year: int | None
    month: int | None
    day: int | None

    @property
    def packed(self) -> int:
        """(year x 16 + month) x 32 + day, 0 for a part that was not said; positive."""
        return ((self.year or 0) * 16 + (self.month or 0)) * 32 + (self.day or 0)

    def agrees(self, packed: int) -> bool:
        """Whether every part of this date is a packed date's."""
        year, month, day = packed >> 9, packed >> 5 & 15, packed & 31
        return self.year in (None, year) and self.month in (None, month) and self.day in (None, day)


def date_of(moment: datetime) -> PartialDate:
    """The day of a moment, in its own time zone."""
    return PartialDate(moment.year, moment.month, moment.day)


def dates_in(text: str) -> list[PartialDate]:
    """Dates like "2023-05-08", "8 May, 2023", "May 8th 2023", "in June", "1998", in order of kind, then of place.

    "may", "mar" and the like are months only with a day or a year beside them. Months by their English names.
    """
    found = [PartialDate(int(year), int(month), int(day) if day else None)
             for year, month, day in _ISO.findall(text)
             if 1 <= int(month) <= 12 and 1 <= int(day or 1) <= 31]  # fmt: skip
    return found + _said(words(_ISO.sub(" ", text)))


def _said(found: list[str]) -> list[PartialDate]:
    dates = []
    for at, word in enumerate(found):
        if word in _MONTHS:
            before = _DAY.match(found[at - 1]) if at else None
            after = None if before or at + 1 == len(found) else _DAY.match(found[at + 1])
            next_at = at + (2 if after else 1)
            year = int(found[next_at]) if next_at < len(found) and _YEAR.match(found[next_at]) else None
            day = before or after
            if day or year or len(word) > 3:
                said = int(day[1]) if day else 0
                dates.append(PartialDate(year, _MONTHS[word], said if 1 <= said <= 31 else None))
        elif _YEAR.match(word) and not any(near in _MONTHS for near in found[max(0, at - 2) : at]):
            dates.append(PartialDate(int(word), None, None))
    return dates
