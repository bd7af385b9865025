"""Text to words: search terms for BM25, words for prefix search, and parts of long texts.

Words are cut after Unicode NFKC and case folding. Scripts written without spaces (Chinese, Japanese, Korean,
Thai, ...) give each character and each pair of neighbours, so that any stretch of them can be searched.
Emoji are words of their own, without their skin tone.
"""

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate, pairwise
from threading import Lock

import Stemmer

MAX_WORD_CHARS = 64
MAX_TERM_ID = 1_000_000_000  # the largest dimension of pgvector's sparsevec
MAX_PREFIX_WORDS = 10_000
MAX_PREFIX_BYTES = 800_000  # a tsvector holds less than 1 MiB of lexemes
_CACHED_WORDS = 65_536

# With what splitting at apostrophes leaves of "don't", "I'll" and "it's".
_STOP_LIST = """
    a about after all also am an and any are as at be because been before being both but by can could d did
    do does doing don during each few for from had has have having he her hers him his how i if in into is it
    its just ll m me more most my no nor not of on or other our out over own re s same she should so some such
    t than that the their them then there these they this those through to too until up ve very was we were
    what when where which while who whom whose why will with would you your
"""
STOP_WORDS = frozenset(_STOP_LIST.split())

# Python's \w lacks the vowel signs of Indic and Semitic scripts: a word goes on through them.
_MARKS = "".join(chr(c) for c in range(0x300, 0x2000) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
_SPACELESS = (
    "\u0e01-\u0e3a\u0e40-\u0eff\u1000-\u109f\u1780-\u17d3\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
)
_EMOJI = "\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff"
_FLAG = "\U0001f1e6-\U0001f1ff"
_LETTER = rf"[^\W_{_SPACELESS}]"
_SPACELESS_RUN = re.compile(rf"[{_SPACELESS}]+")
_SPECIAL = re.compile(rf"[{_MARKS}{_SPACELESS}{_EMOJI}{_FLAG}]")
_SPECIAL_WORD = re.compile(
    rf"{_LETTER}+(?:[{_MARKS}]+{_LETTER}*)*|{_SPACELESS_RUN.pattern}|[{_FLAG}]{{2}}|[{_EMOJI}]"
)
_PLAIN_WORD = re.compile(r"[^\W_]+")
_NAME_WORD = re.compile(rf"[{_SPACELESS}]|{_LETTER}+(?:[{_MARKS}]+{_LETTER}*)*")
_ORDERED = "".join(chr(c) for c in range(0x300, 0x1E950) if unicodedata.combining(chr(c)))
_MARK_RUN = re.compile(f"([{_ORDERED}]{{30}})[{_ORDERED}]+")
_PART_WORD = re.compile(rf"[{_SPACELESS}]|[^\s{_SPACELESS}]{{1,{MAX_WORD_CHARS}}}")
_SHORT_CHARS = 10_000
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u2019\u201d)\]\u300d\u300f]*$")
_ASCII_FOLD = bytes(byte if chr(byte).isalnum() else 32 for byte in bytes(range(128)).lower()) + b" " * 128

ENGLISH = "english"
NO_LANGUAGE = "none"
LANGUAGES = frozenset({NO_LANGUAGE, *Stemmer.algorithms()})

# No cache of their own: ours is bounded by an LRU.
_stemmers = {language: Stemmer.Stemmer(language, 0) for language in Stemmer.algorithms()}
_stemmer_lock = Lock()  # a stemmer works in one buffer


def words(text: str) -> list[str]:
    """The case-folded words of a text in order, with repeats, each at most 64 characters."""
    found = _ascii_words(text) if text.isascii() else _unicode_words(text)
    if max(map(len, found), default=0) > MAX_WORD_CHARS:
        return [word[:MAX_WORD_CHARS] for word in found]
    return found


def normalised(text: str) -> str:
    """A text in Unicode NFKC, runs of combining marks cut to 30: to put a run in order takes its length squared."""
    return unicodedata.normalize("NFKC", text if text.isascii() else _MARK_RUN.sub(r"\1", text))


def name_words(text: str) -> list[str]:
    """The words of a text as names are looked for, in its own spelling, each at most 64 characters.

    Each character of a script without spaces is a word.
    """
    return [word[:MAX_WORD_CHARS] for word in _NAME_WORD.findall(normalised(text))]


def terms(text: str, language: str = ENGLISH) -> Sequence[str]:
    """The stems of a text's words in order, with repeats; stop words are kept."""
    return [stem(word, language) for word in words(text)]


def query_terms(query: str, language: str = ENGLISH) -> Sequence[str]:
    """The distinct stems of a query in order of appearance.

    Without stop words unless an English query has nothing else; in other languages their rarity weighs words.
    """
    found = words(query)
    telling = [word for word in found if word not in STOP_WORDS] if language == ENGLISH else found
    return list(dict.fromkeys(stem(word, language) for word in telling or found))


def term_id(term: str) -> int:
    """The id of a stem, in [1, 1_000_000_000], the same everywhere. Two stems share one by a chance of 1e-9."""
    return int.from_bytes(blake2b(term.encode(), digest_size=8).digest(), "big") % MAX_TERM_ID + 1


def count_terms(found: Iterable[str], language: str = ENGLISH) -> Counter[int]:
    """How often each term occurs among the words of a text, by term id: what BM25 postings hold."""
    return Counter(_word_term_id(word, language) for word in found)


def words_for_prefix(found: Sequence[str]) -> list[str]:
    """The distinct ones of a text's words, unstemmed, in order; at most 10,000 of them and 800,000 bytes in UTF-8.

    A query for prefixes is cut by `words` too: a memory matches when each of its words begins one of these.
    """
    distinct = list(dict.fromkeys(found))[:MAX_PREFIX_WORDS]
    if len(distinct) * MAX_WORD_CHARS * 4 <= MAX_PREFIX_BYTES:
        return distinct
    sizes = accumulate(len(word.encode()) for word in distinct)
    return [word for word, size in zip(distinct, sizes, strict=True) if size <= MAX_PREFIX_BYTES]


def part_texts(content: str, max_words: int = 200, overlap: int = 30) -> list[str]:
    """Cuts a text into parts of at most `max_words` words; a text that is no longer is its only part.

    Each part is a stretch of the text, and together they hold every word. A part ends with a paragraph or else
    a sentence if one ends in its second half, and begins up to `overlap` words (at most a quarter of
    `max_words`) before the end of the one before, with a sentence if one begins there. A word here is what white
    space parts, one character of a script without spaces, or 64 characters of something longer. Linear in the
    text's length.
    Raises ValueError unless max_words >= 1 and overlap >= 0.
    """
    if max_words < 1 or overlap < 0:
        raise ValueError(f"max_words must be >= 1 and overlap >= 0, not {max_words} and {overlap}")
    if len(content) <= _SHORT_CHARS and _is_short(content, max_words):
        return [content]
    starts, ends = array("q"), array("q")
    for match in _PART_WORD.finditer(content):
        starts.append(match.start())
        ends.append(match.end())
    if len(starts) <= max_words:
        return [content]

    def border(at: int) -> int:
        """How well a part may begin with word `at`: 2 for a new paragraph, 1 for a new sentence, else 0."""
        if content.count("\n", ends[at - 1], starts[at]) > 1:
            return 2
        return 1 if _SENTENCE_END.search(content, starts[at - 1], ends[at - 1]) else 0

    parts, first = [], 0
    while len(starts) - first > max_words:
        second_half = range(first + max_words, first + max_words // 2, -1)
        end = max(second_half, key=border)
        parts.append(content[starts[first] : ends[end - 1]])
        shared = range(end - min(overlap, max_words // 4), end)
        first = next(filter(border, shared), shared.start)
    parts.append(content[starts[first] : ends[-1]])
    return parts


def _is_short(content: str, max_words: int) -> bool:
    if content.isascii() and len(content.split()) + len(content) // MAX_WORD_CHARS <= max_words:
        return True  # ten times as fast as the pattern, and never too few
    return len(_PART_WORD.findall(content)) <= max_words


@lru_cache(maxsize=_CACHED_WORDS)
def stem(word: str, language: str = ENGLISH) -> str:
    """The Snowball stem of a case-folded word; the word itself in the language "none"."""
    if language == NO_LANGUAGE:
        return word
    with _stemmer_lock:
        return str(_stemmers[language].stemWord(word))


@lru_cache(maxsize=_CACHED_WORDS)
def _word_term_id(word: str, language: str) -> int:
    return term_id(stem(word, language))


def _ascii_words(text: str) -> list[str]:
    return text.encode().translate(_ASCII_FOLD).decode().split()  # 2.5 times as fast as a pattern


def _unicode_words(text: str) -> list[str]:
    folded = normalised(normalised(text).casefold())
    if not _SPECIAL.search(folded):
        return _PLAIN_WORD.findall(folded)
    return list(_with_pairs(_SPECIAL_WORD.findall(folded)))


def _with_pairs(found: list[str]) -> Iterator[str]:
    for word in found:
        if _SPACELESS_RUN.match(word):
            yield from word
            yield from (first + second for first, second in pairwise(word))
        else:
            yield word
