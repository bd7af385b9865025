"""A memory's search columns in the form the database takes: words for BM25 and prefix search, and vectors."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sfm_graph.domain.words import count_terms, stem, words, words_for_prefix
from sfm_graph.store.vector_types import HalfVector, SparseVector, sparse_counts

# sparsevec stores at most 16,000 entries; a tsvector less than 1 MiB, most of it left to words.
MAX_TERMS = 16_000
MAX_STEM_LEXEMES = 10_000


@dataclass(frozen=True, slots=True)
class SearchColumns:
    """One memory's rows in `words` and `embeddings`, one vector per part of its text."""

    length: int
    terms: SparseVector
    lexemes: str
    vectors: tuple[HalfVector, ...]
    dimension: int


def search_columns(title: str | None, content: str, vectors: tuple[HalfVector, ...], dimension: int) -> SearchColumns:
    """Columns of one memory. `vectors`: one for each part of its text that has any feature."""
    found = words(f"{title}\n{content}" if title else content)
    counts = _most_frequent(count_terms(found))
    lexemes = words_for_prefix(found)
    # A stem that is a word of the text itself is found as that word: the index is a third smaller.
    stems = set(map(stem, lexemes[:MAX_STEM_LEXEMES])).difference(lexemes)
    text = " ".join([*lexemes, *(f"={one}" for one in stems)])
    return SearchColumns(len(found), sparse_counts(counts), text, vectors, dimension)


def prefix_query(namespace_id: int, words: Sequence[str], *, prefix: bool) -> str:
    """The tsquery of memories in the namespace that hold every word, or a word that starts with it."""
    return " & ".join([f"'@{namespace_id}'", *_quoted(words, ":*" if prefix else "")])


def stems_query(namespace_id: int, stems: Iterable[str]) -> str:
    """The tsquery of memories in the namespace that may hold any of the stems, each as a word or of a word."""
    lexemes = [lexeme for one in stems for lexeme in (one, f"={one}")]
    return f"'@{namespace_id}' & ({' | '.join(_quoted(lexemes, ''))})"


def _quoted(lexemes: Sequence[str], suffix: str) -> Iterator[str]:
    for lexeme in lexemes:
        escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
        yield f"'{escaped}'{suffix}"


def _most_frequent(counts: dict[int, int]) -> dict[int, int]:
    if len(counts) <= MAX_TERMS:
        return counts
    kept = sorted(counts, key=counts.__getitem__, reverse=True)[:MAX_TERMS]
    return {term: counts[term] for term in kept}
