"""Dates and numbers in one spelling, so that "8 May 2023" and "2023-05-08", "3,000" and "3000.0" are the same.

A referent is a name of one word that begins with "=", which no word of a text does: "=2023-05-08" with 0 for a part
that was not said, "=3000".
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from sfm_graph.domain.dates import PartialDate, dates_in
from sfm_graph.domain.names import MAX_TEXT_CHARS, Name
from sfm_graph.domain.words import STOP_WORDS, words

MAX_DIGITS = 30

# Not within a date, a time, a version, a word; thousands parted by commas.
_NUMBER = re.compile(r"(?<![\w.,:/-])(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+))?(?![\w:/-]|[.,]\d)", re.ASCII)
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
           "november", "december")  # fmt: skip


def referents_in(text: str) -> set[Name]:
    """The dates with a month and a day or year, and the numbers, in the first 100,000 characters of a text."""
    text = text[:MAX_TEXT_CHARS]
    dates = (_date(one) for one in dates_in(text))
    numbers = (_number(match) for match in _NUMBER.finditer(text))
    return {(one,) for one in (*dates, *numbers) if one is not None}


def referents_of(names: Iterable[str]) -> set[Name]:
    """The dates and numbers that something is called by: of names that are nothing else."""
    found: set[Name] = set()
    for name in names:
        number = _NUMBER.fullmatch(name.strip())
        referent = _number(number) if number else _only_date(name)
        if referent is not None:
            found.add((referent,))
    return found


def spellings(referent: Name) -> list[list[str]]:
    """Alternatives of words that a text has at least one of when it says a date or number; folded."""
    body = referent[0][1:]
    if "-" not in body:
        whole = body.partition(".")[0]
        grouped = f"{int(whole):,}".split(",")
        # How many zeros end a fraction is not known: such a number is looked for by its whole part.
        return [grouped, [whole]] if len(grouped) > 1 else [[whole]]
    year, month, day = map(int, body.split("-"))
    months = [_MONTHS[month - 1], _MONTHS[month - 1][:3], str(month), f"{month:02}"]
    days = [str(day), f"{day:02}", f"{day}{_ordinal(day)}"] if day else []
    years = [str(year)] if year else []
    return [[*years, one, *([other] if other else [])] for one in dict.fromkeys(months) for other in days or [""]]


def _ordinal(day: int) -> str:
    return "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def _date(one: PartialDate) -> str | None:
    if one.month is None or (one.year is None and one.day is None):
        return None
    return f"={one.year or 0:04}-{one.month:02}-{one.day or 0:02}"


def _number(match: re.Match[str]) -> str | None:
    whole, fraction = match[1].replace(",", ""), (match[2] or "").rstrip("0")
    if len(whole) + len(fraction) > MAX_DIGITS or (whole[0] == "0" and len(whole) > 1):
        return None  # a code rather than a number
    return f"={whole}.{fraction}" if fraction else f"={whole}"


def _only_date(name: str) -> str | None:
    found = dates_in(name)
    if len(found) != 1 or not all(word[0].isdigit() or word in STOP_WORDS or _is_month(word) for word in words(name)):
        return None
    return _date(found[0])


@lru_cache(maxsize=1_024)
def _is_month(word: str) -> bool:
    return any(one.month and one.day for one in dates_in(f"1 {word} 2000"))
