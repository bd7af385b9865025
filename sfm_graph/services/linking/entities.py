"""Entities: a memory whose text refers to an ENTITY memory leads to it."""

from collections.abc import Iterable, Mapping, Sequence, Set

from sfm_graph.domain.cues import CueFields
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.names import Name, NameTrie, Spelling
from sfm_graph.domain.referents import referents_in, referents_of, spellings
from sfm_graph.services.linking.linker import Hold, Linker, Text, WantedLink, Writes
from sfm_graph.services.linking.mention import links_by_name, links_to, renamed_in
from sfm_graph.services.linking.scope import Scope
from sfm_graph.services.offload import offload
from sfm_graph.store.linking import Called

MAX_ALIASES = 50


class Entities(Linker):
    """Links of type `refers_to` from each memory to the ENTITY memories that its content refers to.

    By a name in any case, or by a date or a number in any spelling.
    """

    name = "entities"
    link_type = "refers_to"
    on_by_default = True

    def hold(self, writes: Writes) -> Hold:
        """As of mentions."""
        if writes.renamed or writes.has_kind(MemoryKind.ENTITY):
            return Hold.EXCLUSIVE
        return Hold.SHARED if writes.written else Hold.NOTHING

    async def affected(self, scope: Scope, writes: Writes) -> Set[MemoryId]:
        """Those whose content says a name, a date or a number that calls other memories now."""
        changed = await _put_referents(scope, writes) if writes.has_kind(MemoryKind.ENTITY) else set()
        if not changed and not (writes.renamed and (await scope.has_entities() or _had_entities(writes))):
            return set()
        holding = await scope.holding([spellings(one) for one in changed])
        return holding | await renamed_in(scope, writes, self.name)

    async def wanted(self, scope: Scope, sources: Sequence[MemoryId]) -> Iterable[WantedLink]:
        """Links to all who are called so, if these are at most 50."""
        if not await scope.has_entities():
            return ()
        texts, spelled = await scope.texts(sources), await scope.spelled(sources)
        said = await offload(len(texts), _referents, texts)
        called = await scope.called(await offload(len(spelled), _heads, spelled, said))
        return await offload(len(texts), _references, texts, spelled, said, scope.trie(), called)


def _had_entities(writes: Writes) -> bool:
    return any(known.kind is MemoryKind.ENTITY for known in writes.before.known.values())


async def _put_referents(scope: Scope, writes: Writes) -> set[Name]:
    """Bring what ENTITY memories are called by in line; the dates and numbers that changed."""
    before = {(id_, name) for id_, known in writes.before.known.items() for name in known.names if name[0][0] == "="}
    now: set[tuple[MemoryId, Name]] = set()
    for id_, one in writes.written.items():
        if one.text.kind is MemoryKind.ENTITY:
            now |= {(id_, name) for name in referents_of(_titles(one.text, scope.namespace.settings.cues))}
    kept = {pair for pair in before if pair[0] in writes.written}
    if now or kept:
        await scope.put_referents(writes.written.keys(), sorted(now))
    return {name for _, name in before ^ now}


def _titles(text: Text, fields: CueFields) -> list[str]:
    given = next((text.payload[field] for field in fields.aliases if text.payload.get(field) is not None), None)
    aliases = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    return [one for one in (text.title, *aliases[:MAX_ALIASES]) if isinstance(one, str)]


def _referents(texts: Mapping[MemoryId, Text]) -> dict[MemoryId, set[Name]]:
    return {id_: referents_in(text.own) for id_, text in texts.items()}


def _heads(spelled: Mapping[MemoryId, Spelling], said: Mapping[MemoryId, Set[Name]]) -> set[str]:
    heads = {name[0] for names in said.values() for name in names}
    for text in spelled.values():
        heads.update(text.folded)
        heads.update(map(" ".join, zip(text.folded, text.folded[1:], strict=False)))
    return heads


def _references(
    texts: Mapping[MemoryId, Text], spelled: Mapping[MemoryId, Spelling], said: Mapping[MemoryId, Set[Name]],
    trie: NameTrie, called: Mapping[Name, Called],
) -> list[WantedLink]:  # fmt: skip
    links: list[WantedLink] = []
    for id_, text in texts.items():
        links += links_by_name(text, spelled[id_], trie, called, _always, entities=True)
        for name in sorted(said[id_] & called.keys()):
            links += links_to(id_, called[name], {"name": name[0][1:]}, entities=True)
    return links


def _always(text: Spelling, begin: int, end: int) -> bool:
    return True
