"""A memory's search columns in the form the database takes: words for BM25 and prefix search, and vectors."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sfm_graph.domain.cues import Cues, own_text
from sfm_graph.domain.memory import NewMemory
from sfm_graph.domain.names import fold, names_of
from sfm_graph.domain.words import count_terms, stem, words, words_for_prefix
from sfm_graph.store.vector_types import HalfVector, SparseVector, sparse_counts

# sparsevec stores at most 16,000 entries; a tsvector less than 1 MiB, most of it left to words.
MAX_TERMS = 16_000
MAX_STEM_LEXEMES = 10_000


# A word of a title counts as so many words of the content.
TITLE_WEIGHT = 2


@dataclass(frozen=True, slots=True)
class SearchColumns:
    """One memory's rows in `words`, `names` and `embeddings`.

    `vectors`: one for each part of its text that has any feature; None leaves those alone that are stored.
    """

    length: int
    terms: SparseVector
    lexemes: str
    cues: Cues
    vectors: tuple[HalfVector, ...] | None
    dimension: int


def search_columns(
    memory: NewMemory, cues: Cues, language: str, vectors: tuple[HalfVector, ...] | None, dimension: int
) -> SearchColumns:
    """Columns of one memory."""
    counts, length = weighted_counts(memory.title, memory.content, language)
    # An alias is searched as a title is.
    aliases = [word for name in set(cues.names).difference(names_of(memory.title)) for word in name]
    for term, count in count_terms(aliases, language).items():
        counts[term] += TITLE_WEIGHT * count
    length += TITLE_WEIGHT * len(aliases)
    found = words(f"{memory.title}\n{memory.content}" if memory.title else memory.content)
    lexemes = words_for_prefix([*found, *aliases])
    # A stem that is a word of the text itself is found as that word: the index is a third smaller.
    stems = {stem(one, language) for one in lexemes[:MAX_STEM_LEXEMES]}.difference(lexemes)
    bare = {fold(one) for one in lexemes if not one.isascii()}.difference(lexemes)
    text = " ".join([*lexemes, *(f"={one}" for one in stems), *(f"~{one}" for one in bare)])
    return SearchColumns(length, sparse_counts(most_frequent(counts)), text, cues, vectors, dimension)


def weighted_counts(title: str | None, content: str, language: str) -> tuple[Counter[int], int]:
    """Occurrences by term id and their number; title words weigh more, and once where the content repeats them."""
    found = words(own_text(title, content))
    counts = count_terms(found, language)
    if not title:
        return counts, len(found)
    heading = words(title)
    for term, count in count_terms(heading, language).items():
        counts[term] += TITLE_WEIGHT * count
    return counts, len(found) + TITLE_WEIGHT * len(heading)


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


def most_frequent(counts: Mapping[int, int]) -> Mapping[int, int]:
    """The counts that a sparsevec can hold."""
    if len(counts) <= MAX_TERMS:
        return counts
    kept = sorted(counts, key=counts.__getitem__, reverse=True)[:MAX_TERMS]
    return {term: counts[term] for term in kept}
