"""Namespaces as a whole: what is in them, their settings and model, their end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfm_graph.domain import namespace as domain
from sfm_graph.domain import validate
from sfm_graph.domain.access import Scope
from sfm_graph.domain.namespace import Namespace, NamespaceCounts
from sfm_graph.domain.page import Page, cut_page, decode_cursor, encode_cursor
from sfm_graph.errors import Conflict, InvalidInput, ModelMismatch, NamespaceNotFound
from sfm_graph.hot.cache import HotCache
from sfm_graph.services.access.guard import needs, reach
from sfm_graph.services.fading.backfill import settings_changed
from sfm_graph.services.view import View
from sfm_graph.store import namespaces
from sfm_graph.store.database import Database, WriteSession


@dataclass(frozen=True, slots=True)
class NamespaceStatistics:
    """A namespace, how much is in it, and the bytes each structure of it takes in this process (0 when not hot)."""

    namespace: Namespace
    counts: NamespaceCounts
    hot_bytes: Mapping[str, int]


class Namespaces:
    """The queries and mutations of namespaces."""

    def __init__(self, database: Database, caches: Mapping[str, HotCache[Any]]) -> None:
        self._database = database
        self._caches = caches

    @needs(Scope.READ)
    async def list(self, view: View, *, first: int, after: str | None) -> Page[Namespace]:
        """A page of the namespaces that the caller reaches, by name."""
        place = decode_cursor("namespaces", after)
        last = validate.text(place[0], "cursor", max_chars=validate.MAX_NAMESPACE_CHARS) if place else ""
        rows = await namespaces.page(view.session, reach(), last, first + 1)
        return cut_page(rows, [encode_cursor("namespaces", [row.name]) for row in rows], first)

    @needs(Scope.READ)
    async def get(self, view: View, namespace: str) -> Namespace:
        """Its settings and its model. Raises NamespaceNotFound."""
        return await view.existing_namespace(namespace)

    @needs(Scope.READ)
    async def statistics(self, view: View, namespace: str) -> NamespaceStatistics:
        """What is in a namespace: all that is known, or what was valid at the view's moment of validity.

        Settings, model and what is in memory are as they are now. Raises NamespaceNotFound.
        """
        found = await view.existing_namespace(namespace)
        counts = await namespaces.counts(view.session, found, view.as_of.valid)
        hot_bytes = {structure: sizes.get(found.id, 0) for structure, sizes in self.hot_bytes().items()}
        return NamespaceStatistics(found, counts, hot_bytes)

    def hot_bytes(self) -> dict[str, dict[int, int]]:
        """Bytes that this process holds in memory, by structure (`text`, `graph`) and the namespace's row id."""
        return {structure: cache.sizes() for structure, cache in self._caches.items()}

    @needs(Scope.ADMIN)
    async def put(
        self,
        namespace: str,
        *,
        settings: Mapping[str, Any] | None,
        model: Mapping[str, Any] | None,
        existing: bool = False,
    ) -> Namespace:
        """Make a namespace, or change the given settings; `cues` and `linkers` hold for what is stored from then on.

        A model can be declared until the first vector is stored. Raises Conflict for another language than that of
        stored memories, ModelMismatch when it has another model, NamespaceNotFound when there is none and `existing`
        is asked.
        """
        validate.namespace(namespace)
        if settings is not None:
            domain.namespace_settings(settings)
        identity = domain.model_identity(model) if model is not None else None

        async def work(session: WriteSession) -> Namespace:
            if existing and await namespaces.by_name(session, namespace) is None:
                raise NamespaceNotFound(f"there is no namespace {namespace!r}", namespace=namespace)
            found = await namespaces.lock(session, namespace)
            if settings is not None:
                wanted = domain.namespace_settings(settings, found.settings)
                if wanted.language != found.settings.language and await namespaces.has_memories(session, found):
                    raise Conflict(
                        f"namespace {namespace!r} holds memories whose words were cut by the rules of "
                        f"{found.settings.language}; export it, and import into a new one",
                        namespace=namespace,
                    )
                await settings_changed(session, found, wanted)
                await namespaces.set_settings(session, found, wanted)
            if identity is not None and found.model is None:
                await namespaces.set_model(session, found, await namespaces.model(session, identity))
            stored = await namespaces.lock(session, namespace)
            if identity is not None and stored.model is not None and stored.model.identity != identity:
                raise ModelMismatch(
                    f"namespace {namespace!r} holds vectors of {stored.model.identity}", namespace=namespace
                )
            return stored

        return await self._database.write(work)

    @needs(Scope.ADMIN)
    async def delete(self, namespace: str, *, confirm: str | None) -> None:
        """Delete a namespace with all that is in it, its change log included; `confirm` repeats its name.

        Raises NamespaceNotFound, InvalidInput without the confirmation, LegalHold while a memory in it is held.
        """
        if confirm != namespace:
            raise InvalidInput("to delete a namespace, repeat its name in `confirm`", field="confirm")

        async def work(session: WriteSession) -> int:
            return await namespaces.delete(session, namespace)

        gone = await self._database.write(work)
        for cache in self._caches.values():
            cache.drop(gone)
