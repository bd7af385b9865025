"""Names in texts, found by spelling alone: what memories are called, and what their texts name.

A name is its words, case-folded and without accents. Names of memories are looked up in texts leftmost longest, so
that "New York City" is not also "New York"; proper names are runs of capitalised words, known to anyone or not.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from sfm_graph.domain.words import MAX_WORD_CHARS, STOP_WORDS, name_words, normalised

Name = tuple[str, ...]

MAX_NAME_WORDS = 16
# An index row holds at most 2,704 bytes.
MAX_NAME_BYTES = 2_000
MAX_PROPER_WORDS = 5
# Of one text; the first ones stand for it.
MAX_PROPER_NAMES = 256
MAX_TEXT_CHARS = 20_000

_PARENTHESIS = re.compile(r"\s*\([^()]*\)\s*$")
_TOKEN = re.compile(r"[^\W_]+|\n|[^\s\w]")
_SENTENCE_END = frozenset(".!?\n")
_INSIDE_NAME = frozenset("-'\u2019")


class Mention(NamedTuple):
    """A known name at words [begin, end) of a text."""

    begin: int
    end: int
    name: Name


class Spelling(NamedTuple):
    """The words of a text in order: as said, folded, and whether each tells a name (no lower-case first letter)."""

    said: Sequence[str]
    folded: Sequence[str]
    telling: Sequence[bool]


@lru_cache(maxsize=65_536)
def fold(word: str) -> str:
    """A case-folded word without its accents."""
    if word.isascii():
        return word.lower()
    folded = word.casefold()
    bare = "".join(c for c in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(c))
    return bare or folded


def name_of(text: str) -> Name:
    """The words of a text as a name."""
    return tuple(fold(word) for word in name_words(text))


def names_of(title: str | None, aliases: Iterable[str] = ()) -> list[Name]:
    """What a memory is called: its title, the title without its closing parenthesis, its aliases.

    Nothing that is all stop words, a single number, or longer than 16 words or 2,000 bytes in UTF-8.
    """
    titles = (title, _PARENTHESIS.sub("", title)) if title else ()
    found = dict.fromkeys(name_of(text) for text in (*titles, *aliases))
    return [name for name in found if name and not _is_too_long(name) and not _is_plain(name)]


def _is_too_long(name: Name) -> bool:
    return len(name) > MAX_NAME_WORDS or len(" ".join(name).encode()) > MAX_NAME_BYTES


def _is_plain(name: Name) -> bool:
    return all(word in STOP_WORDS for word in name) or (len(name) == 1 and name[0].isdigit())


def head_of(name: Name) -> str:
    """The first two words of a name, or its only one: by these known names are looked up."""
    return " ".join(name[:2])


def name_id(name: Name) -> int:
    """The id of a name, in [0, 2^63), the same everywhere."""
    return int.from_bytes(blake2b(" ".join(name).encode(), digest_size=8).digest(), "big") >> 1


def spelling(text: str) -> Spelling:
    """The words of the first 20,000 characters of a text as names are looked for."""
    said = name_words(text[:MAX_TEXT_CHARS])
    return Spelling(said, [fold(word) for word in said], [not word[0].islower() for word in said])


def heads_in(text: Spelling) -> set[str]:
    """The heads of all names that the text may mention: what to look up before `mentions`."""
    _, folded, telling = text
    heads = {word for word, tells in zip(folded, telling, strict=True) if tells}
    reach = 0  # a name reaches from a word up to 15 words further: one of them has to tell
    for at in range(len(folded) - 2, -1, -1):
        if telling[at + 1]:
            reach = MAX_NAME_WORDS - 1
        if reach or telling[at]:
            heads.add(f"{folded[at]} {folded[at + 1]}")
        reach = max(0, reach - 1)
    return heads


class NameTrie:
    """Known names by their beginnings, so that the longest at a place is found in O(its words)."""

    def __init__(self, names: Iterable[Name]) -> None:
        self._names = set(names)
        self._beginnings = {name[:end] for name in self._names for end in range(1, len(name) + 1)}

    def find(self, folded: Sequence[str]) -> list[Mention]:
        """The known names in a run of folded words, leftmost longest, never overlapping."""
        return find_longest(folded, self._beginnings.__contains__, self._names.__contains__)


def find_longest(
    folded: Sequence[str], begins: Callable[[Name], bool], known: Callable[[Name], bool]
) -> list[Mention]:
    """The known names in a run of folded words, leftmost longest. `begins`: whether some known name begins so."""
    found, at = [], 0
    while at < len(folded):
        end, longest = at + 1, 0
        while end <= min(len(folded), at + MAX_NAME_WORDS) and begins(name := tuple(folded[at:end])):
            if known(name):
                longest = end
            end += 1
        if longest:
            found.append(Mention(at, longest, tuple(folded[at:longest])))
        at = longest or at + 1
    return found


def proper_names(text: str) -> list[Name]:
    """Runs of capitalised words, and digits after one, at most 5 words each and 256 of a text, in order.

    A run ends at a lower-case word and at punctuation other than - and '. Stop words at its ends are dropped, and
    so is a run of one word that only ever begins a sentence.
    """
    found = _Runs()
    for token in _TOKEN.findall(normalised(text[:MAX_TEXT_CHARS])):
        found.take(token[:MAX_WORD_CHARS])
    found.close()
    return list(found.names)[:MAX_PROPER_NAMES]


class _Runs:
    """Collects runs of capitalised tokens."""

    def __init__(self) -> None:
        self.names: dict[Name, None] = {}
        self._run: list[str] = []
        self._begins_sentence = True
        self._opens_sentence = True  # whether the run began a sentence

    def take(self, token: str) -> None:
        if token[0].isalnum():
            if token[0].isupper() or (self._run and token.isdigit()):
                if not self._run:
                    self._opens_sentence = self._begins_sentence
                self._run.append(token)
            else:
                self.close()
            self._begins_sentence = False
        elif not (token in _INSIDE_NAME and self._run):
            self.close()
            self._begins_sentence = self._begins_sentence or token in _SENTENCE_END

    def close(self) -> None:
        if not self._run:
            return
        name = [fold(word) for word in self._run]
        self._run.clear()
        while name and name[0] in STOP_WORDS:
            name.pop(0)
        while name and name[-1] in STOP_WORDS:
            name.pop()
        alone = len(name) == 1 and (self._opens_sentence or name[0][0].isdigit() or len(name[0]) < 2)
        if name and not alone:
            self.names[tuple(name[:MAX_PROPER_WORDS])] = None
