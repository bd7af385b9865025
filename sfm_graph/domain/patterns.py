"""Secrets and personal data in texts: where they stand. Every search takes time in proportion to the text.

Quantifiers are possessive or bounded, and a run of characters is entered at its beginning only, so that no text makes
a search begin over and over. Checksums tell numbers of cards and accounts from others.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
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
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,32}+")
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
_CARD = re.compile(r"(?<![0-9])[2-6](?:[ -]?[0-9]){12,21}+")


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
    for match in _IBAN.finditer(text):
        end = _end_after(match, _IBAN_LENGTHS.get(match[0][:2], 0))
        if end is not None and _is_iban(text[match.start() : end].replace(" ", "")):
            yield Span(match.start(), end)


def _is_iban(account: str) -> bool:
    return int("".join(str(int(one, 36)) for one in account[4:] + account[:4])) % 97 == 1


def _cards(text: str) -> Iterator[Span]:
    for match in _CARD.finditer(text):
        for length in _card_lengths(re.sub("[ -]", "", match[0][:10])):
            end = _end_after(match, length)
            if end is not None and _is_luhn(re.sub("[ -]", "", text[match.start() : end])):
                yield Span(match.start(), end)
                break


def _card_lengths(digits: str) -> tuple[int, ...]:
    """How many digits the issuer's cards have."""
    if digits[:2] in ("34", "37"):
        return (15,)
    if digits[0] == "3":
        return (16, 14)
    return {"2": (16,), "4": (16, 19, 13), "5": (16,), "6": (16, 19, 18, 17)}[digits[0]]


def _is_luhn(digits: str) -> bool:
    doubled = [int(one) * 2 for one in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(one - 9 if one > 9 else one for one in doubled)) % 10 == 0


def _end_after(match: re.Match[str], length: int) -> int | None:
    """Where the first `length` letters and digits of a match end, if a word or number ends there."""
    seen = 0
    for place, one in enumerate(match[0], start=1):
        seen += one.isalnum()
        if seen == length:
            end = match.start() + place
            return None if match.string[end : end + 1].isalnum() else end
    return None


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
