"""Extractive summaries: the sentences of a text that say most of it, without a model.

A sentence's weight is its centrality among all sentences, continuous LexRank (G. Erkan and D. Radev, "LexRank:
Graph-based Lexical Centrality as Salience in Text Summarization", JAIR 22, 2004):

    p(u) = (1 - d) / N + d * sum over v of  sim(v, u) / (sum over z of sim(v, z)) * p(v)         d = 0.85

sim is the cosine of two sentences' vectors of tf * isf, where isf of a term is ln(1 + N / the sentences with it). The
sentences are chosen one by one by maximal marginal relevance (J. Carbonell and J. Goldstein, SIGIR 1998):

    0.7 * p(u) / max p  -  0.3 * max over the chosen v of sim(u, v)

so that what was said once is not said again, and stand in the order of the text. The same text always has the same
summary: sums are rounded before they are compared, and an earlier sentence wins a draw.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.sentences import ends_with_mark
from sfm_graph.domain.sentences import sentences as sentences_of
from sfm_graph.domain.words import ENGLISH, query_terms, terms

MAX_RANKED = 256  # sentences compared with one another: the square of them is the cost
_MAX_TERMS = 4_096  # that sentences are compared by, those of most sentences
_DAMPING = 0.85
_STEPS = 40  # 0.85 ** 40 = 0.0015
_RELEVANCE = 0.7
_FROM_ANOTHER = 0.4  # what a text that has no sentence in the summary yet is preferred by
_SAME = 0.95  # as similar as this, a sentence says nothing new
_DIGITS = 9
_CUT = "\u2026"


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    source: int
    counts: Counter[str]


def summary(text: str, *, sentences: int = 3, max_chars: int = 500, language: str = ENGLISH) -> str:
    """The most central sentences of a text in its order: at most `sentences` and at most `max_chars` characters.

    White space inside of sentences is collapsed. A text that is no longer than that is its own summary. When not even
    one sentence fits, the best is cut at a word and ends with an ellipsis. "" for a text without words. Linear in the
    text's length (about 4 MB a second), so long texts belong into a thread.
    Raises ValueError unless sentences >= 1 and max_chars >= 1.
    """
    return summary_of([text], sentences=sentences, max_chars=max_chars, language=language)


def summary_of(texts: Sequence[str], *, sentences: int = 5, max_chars: int = 1_000, language: str = ENGLISH) -> str:
    """One summary of several texts, as `summary` makes it of one; texts keep their order, equal sentences show once.

    A text that the summary has no sentence of yet is preferred to one that it has.
    Raises ValueError unless sentences >= 1 and max_chars >= 1.
    """
    if sentences < 1 or max_chars < 1:
        raise ValueError(f"sentences and max_chars must be >= 1, not {sentences} and {max_chars}")
    found = _telling(texts, language)
    whole = _joined(found)
    if len(found) <= sentences and len(whole) <= max_chars:
        return whole
    kept = _heaviest(found)
    chosen = _chosen(kept, sentences, max_chars)
    return _joined([kept[at] for at in sorted(chosen)])[:max_chars] if chosen else ""


def _telling(texts: Sequence[str], language: str) -> list[_Sentence]:
    """The distinct sentences that hold a word."""
    distinct: dict[str, _Sentence] = {}
    for source, text in enumerate(texts):
        for sentence in sentences_of(text):
            if sentence not in distinct and (counts := _counts(sentence, language)):
                distinct[sentence] = _Sentence(sentence, source, counts)
    return list(distinct.values())


def _counts(sentence: str, language: str) -> Counter[str]:
    telling = set(query_terms(sentence, language))
    return Counter(term for term in terms(sentence, language) if term in telling)


def _heaviest(found: list[_Sentence]) -> list[_Sentence]:
    """At most MAX_RANKED sentences, in their order: those whose terms most other sentences share."""
    if len(found) <= MAX_RANKED:
        return found
    spread = Counter(term for sentence in found for term in sentence.counts)
    weights = [sum(spread[term] for term in one.counts) / (1 + len(one.counts)) for one in found]
    best = sorted(range(len(found)), key=lambda at: (-weights[at], at))[:MAX_RANKED]
    return [found[at] for at in sorted(best)]


def _chosen(kept: list[_Sentence], sentences: int, max_chars: int) -> list[int]:
    """The places of the chosen sentences. One that does not fit is cut when it is the only one."""
    if not kept:
        return []
    alike = _similarities(kept)
    central = _centrality(alike)
    chosen: list[int] = []
    left, open_ = max_chars, set(range(len(kept)))
    while open_ and len(chosen) < sentences:
        best = min(open_, key=lambda at: (-_marginal(at, chosen, alike, central, kept), at))
        open_.remove(best)
        needs = len(kept[best].text) + bool(chosen)
        if needs > left or (chosen and alike[best, chosen].max() >= _SAME):
            continue
        chosen.append(best)
        left -= needs
    if not chosen:
        first = int(np.argmax(central))
        kept[first] = _Sentence(_cut(kept[first].text, max_chars), kept[first].source, kept[first].counts)
        return [first]
    return chosen


def _marginal(
    at: int, chosen: list[int], alike: NDArray[np.float64], central: NDArray[np.float64], kept: list[_Sentence]
) -> float:
    if not chosen:
        return float(central[at])
    fresh = all(kept[other].source != kept[at].source for other in chosen)
    said = float(alike[at, chosen].max())
    value = _RELEVANCE * float(central[at]) - (1 - _RELEVANCE) * said + _FROM_ANOTHER * fresh
    return round(value, _DIGITS)


def _similarities(kept: list[_Sentence]) -> NDArray[np.float64]:
    """Cosines of tf * isf, shape (n, n), ones on the diagonal."""
    spread = Counter(term for one in kept for term in one.counts)
    columns = {term: at for at, (term, _) in enumerate(spread.most_common(_MAX_TERMS))}
    vectors = np.zeros((len(kept), len(columns)))
    for row, one in enumerate(kept):
        for term in one.counts.keys() & columns.keys():
            vectors[row, columns[term]] = one.counts[term]
    vectors *= np.log1p(len(kept) / np.count_nonzero(vectors, axis=0))
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    alike = np.asarray(np.clip(vectors @ vectors.T, 0.0, 1.0), np.float64)
    np.fill_diagonal(alike, 1.0)
    return alike


def _centrality(alike: NDArray[np.float64]) -> NDArray[np.float64]:
    """LexRank of each sentence, shape (n,), the largest 1. One that is like no other passes its weight on to all."""
    count = len(alike)
    others = alike - np.eye(count)
    total = others.sum(axis=1, keepdims=True)
    flow = np.where(total > 0, others / np.where(total > 0, total, 1.0), 1 / count)
    rank = np.full(count, 1 / count)
    for _ in range(_STEPS):
        rank = (1 - _DAMPING) / count + _DAMPING * (rank @ flow)
    return np.asarray(np.round(rank / rank.max(), _DIGITS), np.float64)


def _joined(kept: Sequence[_Sentence]) -> str:
    """Sentences as one text; a line of its own follows what has no mark at its end."""
    pieces = [kept[0].text] if kept else []
    for before, one in pairwise(kept):
        pieces += [" " if ends_with_mark(before.text) else "\n", one.text]
    return "".join(pieces)


def _cut(sentence: str, max_chars: int) -> str:
    if len(sentence) <= max_chars:
        return sentence
    head = sentence[: max_chars - 1]
    border = head.rfind(" ")
    return (head[:border] if border > max_chars // 2 else head).rstrip() + _CUT
