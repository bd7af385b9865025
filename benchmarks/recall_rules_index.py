"""Recall's rules over one namespace, as pure functions: words, vectors, names, dates and one pull along links.

docs/decisions/0006 says them in words. Rows stand for memory ids: ascending, and ties are broken by them.
"""

import calendar
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.words import STOP_WORDS, query_terms, stem, words

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Name = tuple[str, ...]
Date = tuple[int | None, int | None, int | None]  # year, month, day


@dataclass(frozen=True, slots=True)
class Weights:
    """All settings. `dense` follows the embedder (0.55 for a learned one, 0.2 for hashing), the rest does not."""

    dense: float = 0.55  # lexical = 1 - dense
    window: float = 0.6  # share of the windows' legs among memories in a sequence; own = 1 - window
    name: float = 0.5  # the query says the memory's title, name or alias
    author: float = 0.1  # the query says who said it
    date: float = 0.2  # the query says a date that the memory's own date agrees with
    mention: float = 0.5  # share of the way to the seed's score that a title mentioned in the seed is pulled
    shared: float = 0.5  # the same for a memory that bears a name the seed bears, / sqrt(number of such memories)
    seeds: int = 4
    name_cap: int = 50  # a name in more memories than this connects nothing
    expand: int = 64  # memories reached by links alone whose vectors are read
    pool: int = 100
    title: float = 2.0  # a title word counts as this many content words in BM25
    k1: float = 1.2
    b: float = 0.75


@dataclass(frozen=True, slots=True)
class Memory:
    """What a user gives at import. `title`, `author`, `sequence` + `position` and `date` are optional."""

    id: str
    content: str
    title: str = ""
    aliases: tuple[str, ...] = ()
    author: str = ""
    sequence: str = ""
    position: int = 0
    date: str = ""


_PAREN = re.compile(r"\s*\([^()]*\)\s*$")
_WORD = re.compile(r"[^\W_]+")
_TOKEN = re.compile(r"[^\W_]+|\n|[^\s\w]")
_SENTENCE_END = frozenset(".!?\n")
_INSIDE_NAME = frozenset("-'\u2019")
_MONTHS = {month.casefold(): number for number, month in enumerate(calendar.month_name) if month}
_DAY = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?$")
_YEAR = re.compile(r"(?:19|20)\d\d$")
MAX_NAME_WORDS = 16
MAX_PROPER_WORDS = 5


def fold(word: str) -> str:
    """A case-folded word without its accents."""
    if word.isascii():
        return word
    bare = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
    return bare or word


def folded_words(text: str) -> list[str]:
    """The words of a text, case-folded and without accents."""
    return [fold(word) for word in words(text)]


def title_names(title: str, aliases: Iterable[str] = ()) -> list[Name]:
    """What a memory is called: its title, the title without its closing parenthesis, its aliases."""
    found = [tuple(folded_words(text)) for text in (title, _PAREN.sub("", title), *aliases)]
    return [name for name in dict.fromkeys(found) if name and len(name) <= MAX_NAME_WORDS and not _is_plain(name)]


def _is_plain(name: Name) -> bool:
    return all(word in STOP_WORDS for word in name) or (len(name) == 1 and name[0].isdigit())


def find_names(found: Sequence[str], known: "Names") -> list[tuple[int, int, Name]]:
    """The known names in a run of folded words, leftmost longest, never overlapping: (begin, end, name)."""
    matches, at = [], 0
    while at < len(found):
        end, best = at + 1, 0
        while end <= len(found) and (key := tuple(found[at:end])) in known.prefixes:
            if key in known.rows:
                best = end
            end += 1
        if best:
            matches.append((at, best, tuple(found[at:best])))
        at = best or at + 1
    return matches


def mentioned_names(content: str, known: "Names") -> list[Name]:
    """The known names in a content; at least one word of a mention begins with a capital or a digit."""
    raw = _WORD.findall(unicodedata.normalize("NFKC", content))
    matches = find_names([fold(word.casefold()) for word in raw], known)
    telling = (name for begin, end, name in matches if any(_is_capital(word) for word in raw[begin:end]))
    return list(dict.fromkeys(telling))


def _is_capital(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit()


def proper_names(text: str) -> set[Name]:
    """Runs of capitalised words (and digits after one), folded: found by spelling alone, at most 5 words each.

    A run ends at a lower-case word and at punctuation other than - and '. Stop words at its ends are dropped, and
    so is a run of one word that only ever begins a sentence.
    """
    names: set[Name] = set()
    run: list[str] = []
    opens = begins_sentence = True

    def close() -> None:
        name = [fold(word.casefold()) for word in run]
        run.clear()
        while name and name[0] in STOP_WORDS:
            name.pop(0)
        while name and name[-1] in STOP_WORDS:
            name.pop()
        if len(name) > 1 or (name and not opens and not name[0].isdigit() and len(name[0]) > 1):
            names.add(tuple(name[:MAX_PROPER_WORDS]))

    for token in _TOKEN.findall(unicodedata.normalize("NFKC", text)):
        if token[0].isalnum():
            if token[0].isupper() or (run and token.isdigit()):
                if not run:
                    opens = begins_sentence
                run.append(token)
            else:
                close()
            begins_sentence = False
        elif not (token in _INSIDE_NAME and run):
            close()
            begins_sentence = begins_sentence or token in _SENTENCE_END
    close()
    return names


def dates_in(text: str) -> list[Date]:
    """Dates with a month's name ("8 May, 2023", "May 8 2023", "May 2023", "in June"), and years alone.

    "may" without a day or a year is no month.
    """
    found, dates = words(text), []
    for at, word in enumerate(found):
        if word in _MONTHS:
            before = _DAY.match(found[at - 1]) if at else None
            after = None if before or at + 1 == len(found) else _DAY.match(found[at + 1])
            next_at = at + (2 if after else 1)
            year = int(found[next_at]) if next_at < len(found) and _YEAR.match(found[next_at]) else None
            day = before or after
            if word != "may" or day or year:
                dates.append((year, _MONTHS[word], int(day[1]) if day else None))
        elif _YEAR.match(word) and not any(near in _MONTHS for near in found[max(0, at - 2) : at]):
            dates.append((int(word), None, None))
    return dates


def agrees(asked: Date, own: Date) -> bool:
    """Every part that is asked for is the memory's."""
    return all(part is None or part == mine for part, mine in zip(asked, own, strict=True))


@dataclass(slots=True)
class Names:
    """Names of memories: name -> rows, and every beginning of a name."""

    rows: dict[Name, list[int]] = field(default_factory=lambda: defaultdict(list))
    prefixes: Counter[Name] = field(default_factory=Counter)

    def add(self, name: Name, row: int) -> None:
        if row not in self.rows[name]:
            self.rows[name].append(row)
        self.prefixes.update(name[:end] for end in range(1, len(name) + 1))


@dataclass(slots=True)
class Index:
    """Everything that a recall reads. Rows are memories in order of id."""

    memories: list[Memory]
    titles: Names
    authors: Names
    mentions: list[dict[int, float]]  # row -> {row whose name its content mentions: 1 / sqrt(rows so called)}
    proper: list[set[Name]]  # row -> proper names in title and content
    proper_rows: dict[Name, list[int]]
    dated: list[tuple[int, Date]]
    postings: dict[str, tuple[Ints, Floats]]  # stem -> rows, weighted counts
    lengths: Floats
    windows: list[Ints]  # row -> rows of its window: 2 before, itself, 1 after
    window_lengths: Floats
    in_windows: list[Ints]  # row -> rows whose window it is in


def content_of(memory: Memory) -> str:
    """The content without the title that it may begin with."""
    return memory.content.removeprefix(memory.title).lstrip("\n") if memory.title else memory.content


def embedded_text(memory: Memory) -> str:
    """What is embedded: the title once, then the content."""
    return f"{memory.title}\n{content_of(memory)}" if memory.title else memory.content


def window_rows(memories: Sequence[Memory]) -> list[Ints]:
    """The rows of each memory's window: the two before it in its sequence, itself, the one after."""
    sequences: dict[str, list[int]] = defaultdict(list)
    for row, memory in enumerate(memories):
        if memory.sequence:
            sequences[memory.sequence].append(row)
    windows = [np.array([row]) for row in range(len(memories))]
    for rows in sequences.values():
        rows.sort(key=lambda row: (memories[row].position, row))
        for at, row in enumerate(rows):
            windows[row] = np.array(rows[max(0, at - 2) : at + 2])
    return windows


def window_text(memories: Sequence[Memory], window: Ints) -> str:
    """What a window's vector is made of."""
    return "\n".join(embedded_text(memories[row]) for row in window)


def build_index(memories: Sequence[Memory], weights: Weights = Weights()) -> Index:
    """The batch form; every entry depends on one memory, its title's matches, or its neighbours in a sequence."""
    titles, authors = Names(), Names()
    for row, memory in enumerate(memories):
        for name in title_names(memory.title, memory.aliases):
            titles.add(name, row)
        if memory.author:
            authors.add(tuple(folded_words(memory.author)), row)
    mentions, proper, dated = [], [], []
    proper_rows: dict[Name, list[int]] = defaultdict(list)
    counts: dict[str, list[tuple[int, float]]] = defaultdict(list)
    lengths = np.zeros(len(memories))
    for row, memory in enumerate(memories):
        content = content_of(memory)
        targets: dict[int, float] = {}
        for name in mentioned_names(content, titles):
            called = titles.rows[name]
            for target in called if len(called) <= weights.name_cap else ():
                if target != row:
                    targets[target] = max(targets.get(target, 0.0), 1 / math.sqrt(len(called)))
        mentions.append(targets)
        proper.append(proper_names(f"{memory.title}\n{content}"))
        for name in proper[-1]:
            proper_rows[name].append(row)
        if memory.date and (found := dates_in(memory.date)):
            dated.append((row, found[0]))
        own = Counter(map(stem, words(content)))
        lengths[row] = own.total()
        for term in map(stem, words(memory.title)):
            own[term] += weights.title
            lengths[row] += weights.title
        for term, count in own.items():
            counts[term].append((row, count))
    postings = {
        term: (np.array([row for row, _ in found]), np.array([count for _, count in found], float))
        for term, found in counts.items()
    }
    windows = window_rows(memories)
    inside: list[list[int]] = [[] for _ in memories]
    for row, window in enumerate(windows):
        for member in window:
            inside[member].append(row)
    return Index(
        list(memories), titles, authors, mentions, proper, proper_rows, dated, postings, lengths, windows,
        np.array([lengths[window].sum() for window in windows]), [np.array(rows) for rows in inside],
    )  # fmt: skip


def bm25(index: Index, terms: Iterable[str], weights: Weights, *, windows: bool = False) -> Floats:
    """BM25 of every row, or of its window. A window's counts are the sums of its rows' counts: no second index."""
    total = len(index.memories)
    lengths = index.window_lengths if windows else index.lengths
    norms = weights.k1 * (1 - weights.b + weights.b * lengths / (lengths.mean() or 1.0))
    scores = np.zeros(total)
    for term in terms:
        if term not in index.postings:
            continue
        rows, counts = index.postings[term]
        if windows:
            spread = np.concatenate([index.in_windows[row] for row in rows])
            sums = np.bincount(spread, np.repeat(counts, [len(index.in_windows[row]) for row in rows]), total)
            rows = np.flatnonzero(sums)
            counts = sums[rows]
        idf = math.log(1 + (total - len(rows) + 0.5) / (len(rows) + 0.5))
        scores[rows] += idf * counts * (weights.k1 + 1) / (counts + norms[rows])
    return scores


def best(scores: Floats, count: int) -> Ints:
    """The rows of the highest scores, best first, ties by row."""
    rows = np.arange(len(scores))
    return np.lexsort((rows, -scores))[:count]


def fused(legs: Sequence[tuple[float, Floats]], pool: int) -> tuple[Floats, set[int]]:
    """The weighted sum of legs, each scaled so that its best is 1 (below 0 counts as 0), and all legs' best rows."""
    total = np.zeros(len(legs[0][1]))
    rows: set[int] = set()
    for weight, scores in legs:
        top = scores.max(initial=0.0)
        if top > 0:
            total += weight * np.maximum(scores, 0.0) / top
            rows.update(best(scores, pool).tolist())
    return total, rows


def named(index: Index, query: str, weights: Weights) -> dict[int, float]:
    """The bonus of each row whose title, author or date the query says."""
    said = folded_words(query)
    bonus: dict[int, float] = defaultdict(float)
    for row in {row for _, _, name in find_names(said, index.titles) for row in index.titles.rows[name]}:
        bonus[row] += weights.name
    for row in {row for _, _, name in find_names(said, index.authors) for row in index.authors.rows[name]}:
        bonus[row] += weights.author
    if asked := dates_in(query):
        for row, own in index.dated:
            if any(agrees(one, own) for one in asked):
                bonus[row] += weights.date
    return bonus


def links_from(index: Index, row: int, said: set[str], weights: Weights) -> dict[int, float]:
    """The share in [0, 1] of the way to the row's score that each memory it is connected with is pulled.

    A mention gives `mention` / sqrt(n), n = how many are called so. A proper name that both bear, and that the query
    does not say already, gives `shared` / sqrt(n), n = how many others bear it; the rarest such name counts. Both
    together: 1 - (1 - m)(1 - s).
    """
    stay = {target: 1 - weights.mention * part for target, part in index.mentions[row].items()}
    strength: dict[int, float] = {}
    for name in index.proper[row]:
        bearers = index.proper_rows[name]
        if 1 < len(bearers) <= weights.name_cap and not said.issuperset(name):
            share = weights.shared / math.sqrt(len(bearers) - 1)
            for target in bearers:
                if target != row:
                    strength[target] = max(strength.get(target, 0.0), share)
    for target, share in strength.items():
        stay[target] = stay.get(target, 1.0) * (1 - share)
    return {target: 1 - rest for target, rest in stay.items()}


def pulled(
    index: Index,
    base: Callable[[int], float],
    found: set[int],
    seeds: Sequence[int],
    said: set[str],
    weights: Weights,
) -> dict[int, float]:
    """The score of each memory that a seed pulls up: base + share x (seed's - base), the best over the seeds.

    No memory is pulled above its seed. Of memories that no leg has found, whose base must be computed first, only
    the `expand` with the greatest share x seed's score take part, ties by row.
    """
    pulls = [(base(seed), links_from(index, seed, said, weights)) for seed in seeds]
    lent: dict[int, float] = {}
    for high, links in pulls:
        for target, share in links.items():
            if target not in found:
                lent[target] = max(lent.get(target, 0.0), share * high)
    fresh = set(sorted(lent, key=lambda row: (-lent[row], row))[: weights.expand])
    scores: dict[int, float] = {}
    for high, links in pulls:
        for target, share in links.items():
            if target in found or target in fresh:
                low = base(target)
                if high > low:
                    scores[target] = max(scores.get(target, 0.0), low + share * (high - low))
    return scores


def legs_of(
    index: Index, query: str, similarities: Floats, window_similarities: Floats, weights: Weights
) -> list[tuple[float, Floats]]:
    """The four legs: words and vectors, of a memory itself and of its window. `similarities`: cosines, one a row."""
    terms = list(query_terms(query))
    lexical, own = 1 - weights.dense, 1 - weights.window
    return [
        (lexical * own, bm25(index, terms, weights)),
        (weights.dense * own, similarities),
        (lexical * weights.window, bm25(index, terms, weights, windows=True)),
        (weights.dense * weights.window, window_similarities),
    ]


def ranked(
    index: Index, query: str, legs: Sequence[tuple[float, Floats]], first: int, weights: Weights
) -> list[tuple[int, float]]:
    """The `first` best (row, score), best first, ties by row."""
    total, rows = fused(legs, weights.pool)
    bonus = named(index, query, weights)
    base = lambda row: float(total[row]) + bonus.get(row, 0.0)  # noqa: E731
    # Titles are few; authors and dates may name half of the namespace, so they only raise what a leg has found.
    rows |= {row for row, gain in bonus.items() if gain >= weights.name > 0}
    scores = {row: base(row) for row in rows}
    seeds = sorted(scores, key=lambda row: (-scores[row], row))[: weights.seeds]
    for row, score in pulled(index, base, rows, seeds, set(folded_words(query)), weights).items():
        scores[row] = max(scores.get(row, 0.0), score)
    order = sorted(scores, key=lambda row: (-scores[row], row))[:first]
    return [(row, scores[row]) for row in order]


def recall(
    index: Index,
    query: str,
    similarities: Floats,
    window_similarities: Floats,
    first: int,
    weights: Weights = Weights(),
) -> list[tuple[int, float]]:
    """The `first` best (row, score in [0, 1 + bonuses]), best first, ties by row."""
    legs = legs_of(index, query, similarities, window_similarities, weights)
    return ranked(index, query, legs, first, weights)
