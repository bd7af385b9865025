"""What linkers see of a namespace in a transaction, as it will be committed."""

from collections.abc import Iterable, Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from sfm_graph.domain.cues import own_text
from sfm_graph.domain.identity import MemoryId
from sfm_graph.domain.memory import MemoryKind
from sfm_graph.domain.names import Name, NameTrie, Spelling, spelling
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.recall import Candidates
from sfm_graph.domain.windows import Place
from sfm_graph.services.linking.linker import Text, Written
from sfm_graph.services.offload import offload
from sfm_graph.services.vector_search import VectorSearch
from sfm_graph.store import linking, windows
from sfm_graph.store.database import WriteSession
from sfm_graph.store.linking import Called

# A name that more memories bear connects nothing.
MAX_CALLED = 50
# Words that more memories hold are not looked up when what they name comes or goes.
MAX_HOLDING = 1_000
# Texts kept for the next linker.
_KEPT_TEXTS = 5_000


class Scope:
    """One namespace in one transaction. Each method takes one statement, or none, for any number of memories."""

    def __init__(
        self, session: WriteSession, target: Namespace, written: Mapping[MemoryId, Written], vectors: VectorSearch
    ) -> None:
        self.namespace = target
        self._vectors = vectors
        self._session = session
        self._written = written
        self._texts: dict[MemoryId, Text] = {}
        self._spelled: dict[MemoryId, Spelling] = {}
        self._heads: set[str] = set()
        self._called: dict[Name, Called] = {}
        self._trie: NameTrie | None = None
        self._has_entities: bool | None = None

    async def texts(self, ids: Iterable[MemoryId]) -> dict[MemoryId, Text]:
        """Memories by id; unknown ids are missing from the answer."""
        ids = list(ids)
        found = {id_: self._written[id_].text for id_ in ids if id_ in self._written}
        found |= {id_: self._texts[id_] for id_ in ids if id_ in self._texts}
        missing = [id_ for id_ in ids if id_ not in found]
        if missing:
            rows = await linking.texts(self._session, self.namespace.id, missing)
            read = {id_: Text(id_, MemoryKind(kind), title, own_text(title, content), payload)
                    for id_, kind, title, content, payload in rows}  # fmt: skip
            found |= read
            self._keep(read)
        return found

    def _keep(self, read: Mapping[MemoryId, Text]) -> None:
        if len(self._texts) + len(read) > _KEPT_TEXTS:
            self._texts.clear()
            self._spelled.clear()
        self._texts.update(read)

    async def spelled(self, ids: Iterable[MemoryId]) -> dict[MemoryId, Spelling]:
        """The words of memories' own texts as names are looked for, by id; unknown ids are missing."""
        found = await self.texts(ids)
        missing = [text for id_, text in found.items() if id_ not in self._spelled]
        made = await offload(len(missing), _spell, missing)
        spelled = {id_: made[id_] if id_ in made else self._spelled[id_] for id_ in found}
        self._spelled.update(made)
        return spelled

    async def called(self, heads: Set[str]) -> Mapping[Name, Called]:
        """The names that begin with these heads (`names.heads_in`) and others looked up before, with their bearers.

        Of a name that more than 50 memories bear 51 of them.
        """
        missing = heads - self._heads
        if missing:
            found, self._has_entities = await linking.names(self._session, self.namespace.id, missing, MAX_CALLED + 1)
            self._heads |= missing
            if found:
                self._called |= found
                self._trie = None
        return self._called

    def trie(self) -> NameTrie:
        """All names that `called` has found, to look for in texts."""
        if self._trie is None:
            self._trie = NameTrie(self._called)
        return self._trie

    async def has_entities(self) -> bool:
        """Whether the namespace has a memory of kind ENTITY."""
        if self._has_entities is None:
            self._has_entities = await linking.has_kind(self._session, self.namespace.id, MemoryKind.ENTITY)
        return self._has_entities

    async def holding(self, searches: Sequence[Iterable[Iterable[str]]]) -> set[MemoryId]:
        """Memories whose title and content hold all folded words of one alternative of a search.

        A search that more than 1,000 memories answer finds none: its words are a hub.
        """
        if not searches:
            return set()
        queries = [linking.words_query(self.namespace.id, one) for one in searches]
        found = await linking.holding(self._session, self.namespace.id, queries, MAX_HOLDING + 1)
        return {id_ for ids in found if len(ids) <= MAX_HOLDING for id_ in ids}

    async def put_referents(self, owners: Iterable[MemoryId], given: Sequence[tuple[MemoryId, Name]]) -> None:
        """Replace what memories are called by beside their names: names of one word that begins with "="."""
        await linking.put_referents(self._session, self.namespace.id, owners, given)

    async def hold_sequences(self, places: Sequence[Place]) -> None:
        """Keep other writers from the sequences of these places until the transaction ends."""
        await windows.lock(self._session, self.namespace.id, [place.sequence for place in places])

    async def right_before(self, places: Sequence[Place]) -> set[MemoryId]:
        """The memories that stand right before places in their sequences."""
        return await linking.right_before(self._session, self.namespace.id, places)

    async def right_after(self, ids: Iterable[MemoryId]) -> dict[MemoryId, MemoryId]:
        """Of memories the next ones in their sequences."""
        ids = [id_ for id_ in ids if id_ not in self._written or self._written[id_].place]
        return await linking.right_after(self._session, self.namespace.id, ids) if ids else {}

    async def vectors(self, ids: Iterable[MemoryId]) -> dict[MemoryId, NDArray[np.float32]]:
        """The unit vectors of memories, one row for each part of their text; those without are missing."""
        model = self.namespace.model
        return await linking.vectors(self._session, self.namespace.id, model.id, ids) if model else {}

    async def nearest(self, vector: NDArray[np.float32], count: int) -> Candidates:
        """The memories nearest to a unit vector of shape (dimension,), best first, by cosine. A search each."""
        model = self.namespace.model
        if model is None:
            return Candidates(np.empty(0, np.int64), np.empty(0))
        return await self._vectors.nearest(self._session, self.namespace.id, model, vector, count, None)

    async def made_from(self, maker: str, ids: Iterable[MemoryId]) -> dict[MemoryId, dict[MemoryId, float]]:
        """A linker's stored links out of memories: source -> target -> weight."""
        found: dict[MemoryId, dict[MemoryId, float]] = {}
        for source, target, weight in await linking.made_from(self._session, self.namespace.id, maker, ids):
            found.setdefault(source, {})[target] = weight
        return found

    async def made_to(self, maker: str, ids: Iterable[MemoryId]) -> set[MemoryId]:
        """The sources of a linker's stored links into memories."""
        return await linking.made_to(self._session, self.namespace.id, maker, ids)


def _spell(texts: Sequence[Text]) -> dict[MemoryId, Spelling]:
    return {text.id: spelling(text.own) for text in texts}
