"""Secrets and personal data in texts: where they stand. Every search takes time in proportion to the text.

Quantifiers are possessive or bounded, and a run of characters is entered at its beginning, or where its groups begin,
so that no text makes a search begin over and over. Checksums tell numbers of cards and accounts from others.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final, NamedTuple


class Span(NamedTuple):
    """Characters [start, end) of a text."""

    start: int
    end: int


Finder = Callable[[str], Iterator[Span]]

_REDACTED: Final = "[redacted:"
_ASSIGNEE: Final = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|token|(?:api|access|secret|auth)[_-]?(?:key|token)|credentials?)"
)
_ASSIGNED = re.compile(
    rf"(?i:(?<![a-z0-9]){_ASSIGNEE})[\"']?[ \t]{{0,3}}+[:=][ \t]{{0,3}}+[\"']?+([^\s\"',;&<>]{{8,200}}+)"
)
_NAMES_SECRET = re.compile(rf"(?i:.{{0,64}}{_ASSIGNEE})")
# Of random letters and digits, 8 have 3 bits for each; words and repetitions have less, or one class of characters.
_LEAST_BITS: Final = 2.5
_BLOCK = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_BLOCK_END: Final = "-----END"
_EMAIL_LOCAL: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-")
_EMAIL_DOMAIN = re.compile(r"@(?:[^\W_](?:[\w-]{0,62})\.){1,8}[^\W\d_]{2,63}")
_IBAN_HEAD = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?= ?[A-Z0-9])")
_IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20,
    "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27,
    "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
_IBAN_REST: Final = {
    length: re.compile(rf"(?: ?[A-Z0-9]){{{length - 4}}}(?![^\W_])") for length in set(_IBAN_LENGTHS.values())
}
_IBAN_DIGITS: Final = {ord(one): str(int(one, 36)) for one in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"} | {ord(" "): None}
# 8 to 15 digits right after a plus sign are a phone number.
_DIGITS = re.compile(r"(?<![0-9])(?!(?<=\+)[0-9](?:[ -]?[0-9]){7,14}+(?![ -]?[0-9]))[0-9](?:[ -]?[0-9]){12,}+")
_SEPARATOR = re.compile("[ -]")
_NO_SEPARATORS: Final = str.maketrans("", "", " -")
# How many digits the issuers' cards have, by the first two.
_CARD_LENGTHS: Final[dict[bytes, tuple[int, ...]]] = {
    **{str(head).encode(): (16,) for head in (*range(20, 30), *range(50, 60))},
    **{str(head).encode(): (16, 14) for head in range(30, 40)},
    **{str(head).encode(): (16, 19, 13) for head in range(40, 50)},
    **{str(head).encode(): (16, 19, 18, 17) for head in range(60, 70)},
    b"34": (15,), b"37": (15,),
}  # fmt: skip
# Within a run of digits a card may begin with a group of so many: groups of fewer begin too often.
_LEAST_GROUP: Final = 3
# Twice a digit, and of what has two digits their sum; the code of "0" is added to both.
_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")


def _matches(pattern: str) -> Finder:
    compiled = re.compile(pattern)
    return lambda text: (Span(*match.span()) for match in compiled.finditer(text))


def names_a_secret(name: str) -> bool:
    """Whether a field of this name is likely to hold a secret: `password`, `db_token`, `API-Key`."""
    return len(name) <= 100 and _NAMES_SECRET.fullmatch(name) is not None


def looks_random(text: str) -> bool:
    """Whether a text is rather a secret than words: at least two classes of characters, little repeated."""
    if not 8 <= len(text) <= 200 or text.startswith(_REDACTED):
        return False
    classes = (str.islower, str.isupper, str.isdigit, lambda one: not one.isalnum())
    if sum(any(belongs(one) for one in text) for belongs in classes) < 2:
        return False
    counts = Counter(text).values()
    return -sum(one / len(text) * math.log2(one / len(text)) for one in counts) >= _LEAST_BITS


def _passwords(text: str) -> Iterator[Span]:
    return (Span(*match.span(1)) for match in _ASSIGNED.finditer(text) if looks_random(match[1]))


def _private_keys(text: str) -> Iterator[Span]:
    end = 0
    for match in _BLOCK.finditer(text):
        if match.start() < end:
            continue
        closing = text.find(_BLOCK_END, match.end())
        dashes = text.find("-----", closing + len(_BLOCK_END)) if closing >= 0 else -1
        # Without its end all the rest is taken for the key.
        end = dashes + 5 if dashes >= 0 else len(text)
        yield Span(match.start(), end)


def _emails(text: str) -> Iterator[Span]:
    end, at = 0, text.find("@")
    while at >= 0:
        start = at
        while start > max(end, at - 64) and text[start - 1] in _EMAIL_LOCAL:
            start -= 1
        while start < at and text[start] in "'`.":
            start += 1
        match = _EMAIL_DOMAIN.match(text, at) if start < at else None
        if match is not None:
            end = match.end()
            yield Span(start, end)
        at = text.find("@", at + 1)


def _accounts(text: str) -> Iterator[Span]:
    end = 0
    # A head within what follows another one is a beginning of its own: what looks like a country may be a reference.
    for head in _IBAN_HEAD.finditer(text):
        length = _IBAN_LENGTHS.get(head[0][:2])
        if length is None or head.start() < end:
            continue
        rest = _IBAN_REST[length].match(text, head.end())
        if rest is not None and int((rest[0] + head[0]).translate(_IBAN_DIGITS)) % 97 == 1:
            end = rest.end()
            yield Span(head.start(), end)


def _cards(text: str) -> Iterator[Span]:
    for run in _DIGITS.finditer(text):
        ends_well = not text[run.end() : run.end() + 1].isalnum()
        for start, end in _cards_of(run[0], ends_well):
            yield Span(run.start() + start, run.start() + end)


def _cards_of(run: str, ends_well: bool) -> Iterator[tuple[int, int]]:
    """Cards that begin and end with a group of a run of digits. `ends_well`: no letter follows the last one."""
    digits = run.translate(_NO_SEPARATORS).encode()
    # The digits before the end of each group; with the groups before it, which are parted by one character each.
    ends = list(accumulate(map(len, _SEPARATOR.split(run))))
    places = {end: group for group, end in enumerate(ends) if ends_well or end < len(digits)}
    free = 0
    for group, start in enumerate([0, *ends[:-1]]):
        if start < free or (group and ends[group] - start < _LEAST_GROUP):
            continue
        for length in _CARD_LENGTHS.get(digits[start : start + 2], ()):
            end = start + length
            if end in places and _is_luhn(digits[start:end]):
                free = end
                yield start + group, end + places[end]
                break


def _is_luhn(digits: bytes) -> bool:
    codes = sum(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED))
    return (codes - ord("0") * len(digits)) % 10 == 0


SECRETS: Final[dict[str, Finder]] = {
    "aws_key": _matches(r"(?<![A-Za-z0-9])(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[0-9A-Z]{16}(?![A-Za-z0-9])"),
    "private_key": _private_keys,
    "jwt": _matches(r"(?<![\w-])eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]*+"),
    "github_token": _matches(r"(?<!\w)(?:gh[pousr]_[A-Za-z0-9]{36,255}+|github_pat_\w{22,255}+)"),
    "slack_token": _matches(r"(?<![\w-])(?:xox[a-z]|xapp)-[A-Za-z0-9-]{10,250}+"),
    "api_token": _matches(
        r"(?<![\w-])(?:sk-[\w-]{20,250}+|[srp]k_(?:live|test)_[A-Za-z0-9]{16,250}+|AIza[\w-]{35}+|glpat-[\w-]{20,64}+"
        r"|hf_[A-Za-z0-9]{30,64}+|npm_[A-Za-z0-9]{36}+)"
    ),
    "password": _passwords,
}
PERSONAL: Final[dict[str, Finder]] = {
    "email": _emails,
    "phone": _matches(r"(?<![\w+])\+[1-9](?:[ ().-]{0,2}[0-9]){7,14}+(?![0-9])"),
    "iban": _accounts,
    "credit_card": _cards,
    "ssn": _matches(r"(?<![\w-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![\w-])"),
}
FINDERS: Final = {**SECRETS, **PERSONAL}
