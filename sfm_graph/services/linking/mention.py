"""Mentions: a memory whose text says what another memory is called leads to it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from math import sqrt

from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.names import Name, NameTrie, Spelling, heads_in
from sfm_graph.services.linking.linker import Hold, Linker, Text, WantedLink, Writes
from sfm_graph.services.linking.scope import MAX_CALLED, Scope
from sfm_graph.services.offload import offload
from sfm_graph.store.linking import Called

# Whether a name at words [begin, end) of a text counts.
Counts = Callable[[Spelling, int, int], bool]


class Mention(Linker):
    """Links of type `mentions` from each memory to those, other than ENTITY, whose name its content says.

    The longest name counts where several begin, and only if one of its words begins with a capital or a digit.
    """

    name = "mention"
    link_type = "mentions"
    on_by_default = True

    def hold(self, writes: Writes) -> Hold:
        """Who changes names keeps off who looks names up."""
        if writes.renamed:
            return Hold.EXCLUSIVE
        return Hold.SHARED if writes.written else Hold.NOTHING

    async def affected(self, scope: Scope, writes: Writes) -> Set[MemoryId]:
        """Those whose content says a name that more, fewer or other memories have now."""
        return await renamed_in(scope, writes, self.name)

    async def wanted(self, scope: Scope, sources: Sequence[MemoryId]) -> Iterable[WantedLink]:
        """Links to all who are called so, if these are at most 50."""
        spelled = await scope.spelled(sources)
        called = await scope.called(await offload(len(spelled), _heads, spelled))
        if not called:
            return ()
        texts = await scope.texts(sources)
        return await offload(len(texts), _mentions, texts, spelled, scope.trie(), called)


async def renamed_in(scope: Scope, writes: Writes, maker: str) -> set[MemoryId]:
    """The memories whose text holds a name that has changed, or that a linker linked to by a name that is lost."""
    names = [name for name in writes.renamed if not name[0].startswith("=")]
    candidates = await scope.holding([[name] for name in names])
    candidates -= writes.written.keys()
    spelled = await scope.spelled(candidates)
    found = await offload(len(spelled), _with_phrase, spelled, names)
    lost = writes.lost.keys() & writes.written.keys()
    return found | await scope.made_to(maker, lost) if lost else found


def _heads(spelled: Mapping[MemoryId, Spelling]) -> set[str]:
    return set().union(*map(heads_in, spelled.values()))


def _with_phrase(spelled: Mapping[MemoryId, Spelling], names: Iterable[Name]) -> set[MemoryId]:
    by_first: dict[str, list[Name]] = {}
    for name in names:
        by_first.setdefault(name[0], []).append(name)
    return {id_ for id_, text in spelled.items() if _holds(text.folded, by_first)}


def _holds(folded: Sequence[str], by_first: Mapping[str, Sequence[Name]]) -> bool:
    return any(
        tuple(folded[at : at + len(name)]) == name
        for at, word in enumerate(folded)
        if word in by_first
        for name in by_first[word]
    )


def _mentions(
    texts: Mapping[MemoryId, Text],
    spelled: Mapping[MemoryId, Spelling],
    trie: NameTrie,
    called: Mapping[Name, Called],
) -> list[WantedLink]:
    links: list[WantedLink] = []
    for id_, text in texts.items():
        links += links_by_name(text, spelled[id_], trie, called, _tells, entities=False)
    return links


def _tells(text: Spelling, begin: int, end: int) -> bool:
    return any(text.telling[begin:end])


def links_by_name(
    text: Text, spelled: Spelling, trie: NameTrie, called: Mapping[Name, Called], counts: Counts, *, entities: bool
) -> Iterator[WantedLink]:
    """Links to the memories, ENTITY or others, that a text names."""
    found = [one for one in trie.find(spelled.folded) if counts(spelled, one.begin, one.end)]
    if not found:
        return
    for one in found:
        properties = {"name": " ".join(spelled.said[one.begin : one.end])}
        yield from links_to(text.id, called[one.name], properties, entities=entities)


def links_to(
    source: MemoryId, called: Called, properties: Mapping[str, str], *, entities: bool
) -> Iterator[WantedLink]:
    """Links to those who are called so, at a weight that grows with their number, 1 for a single one."""
    number = len(called.ids)
    if number <= MAX_CALLED:
        for target, is_entity in zip(called.ids, called.entities, strict=True):
            if is_entity is entities and target != source:
                yield WantedLink(source, target, 2 * sqrt(number) - 1, properties)
