"""A memory's search columns in the form the database takes: words for BM25 and prefix search, and vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.words import TermCounts, count_terms, words_for_prefix
from sfm_graph.store.vector_types import HalfVector, SparseVector, half_vectors, sparse_counts

# sparsevec stores at most 16,000 entries; a tsvector less than 1 MiB, most of it left to words.
MAX_TERMS = 16_000
MAX_TERM_LEXEMES = 10_000


@dataclass(frozen=True, slots=True)
class SearchColumns:
    """One memory's rows in `words` and `embeddings`, one vector per part of its text."""

    length: int
    terms: SparseVector
    lexemes: str
    vectors: tuple[HalfVector, ...]
    dimension: int


def search_columns(title: str | None, content: str, vectors: NDArray[np.float32]) -> SearchColumns:
    """Columns of one memory. `vectors`: shape (parts, dimension), zero rows are left out: they match nothing."""
    counts = _most_frequent(count_terms(title or "", content))
    text = f"{title}\n{content}" if title else content
    lexemes = [*words_for_prefix(text), *(f"={term}" for term in counts.ids[:MAX_TERM_LEXEMES].tolist())]
    telling = vectors[np.any(vectors, axis=1)]
    parts = tuple(half_vectors(telling)) if len(telling) else ()
    return SearchColumns(counts.length, sparse_counts(counts), " ".join(lexemes), parts, vectors.shape[1])


def prefix_query(namespace_id: int, words: Sequence[str], *, prefix: bool) -> str:
    """The tsquery of memories in the namespace that hold every word, or a word that starts with it."""
    return " & ".join([f"'@{namespace_id}'", *_quoted(words, ":*" if prefix else "")])


def terms_query(namespace_id: int, term_ids: Sequence[int]) -> str:
    """The tsquery of memories in the namespace that hold any of the terms."""
    any_term = " | ".join(f"'={term}'" for term in term_ids)
    return f"'@{namespace_id}' & ({any_term})"


def _quoted(lexemes: Sequence[str], suffix: str) -> Iterator[str]:
    for lexeme in lexemes:
        escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
        yield f"'{escaped}'{suffix}"


def _most_frequent(counts: TermCounts) -> TermCounts:
    if len(counts.ids) <= MAX_TERMS:
        return counts
    kept = np.sort(np.argsort(-counts.counts.astype(np.int64), kind="stable")[:MAX_TERMS])
    return TermCounts(counts.ids[kept], counts.counts[kept], counts.length)
