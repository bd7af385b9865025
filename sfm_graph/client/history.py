"""The methods of a memory system about what memories and links were."""

from sfm_graph.api.rest import answers, history_answers
from sfm_graph.client.fields import Json, Reference
from sfm_graph.client.opening import OpenNamespace, as_json
from sfm_graph.domain import inputs
from sfm_graph.domain.page import MAX_PAGE, page_size
from sfm_graph.services.history import version_number


class HistoryMethods(OpenNamespace):
    """Versions, what differs between them, and bringing them back."""

    async def history(self, ref: Reference, *, first: int = MAX_PAGE, after: str | None = None) -> Json:
        """The versions of a memory, the newest first: `versions`, and `next` for `after`. Raises MemoryNotFound.

        A forgotten one is named by its id, or the key or coordinate that it last had.
        """
        async with self._services.views.open() as view:
            page = await self._services.history.of_memory(
                view, self._namespace, self._ref(ref), first=page_size(first), after=after
            )
        found: Json = as_json(history_answers.versions_json("memory", page))
        return found

    async def link_history(self, id: str, *, first: int = MAX_PAGE, after: str | None = None) -> Json:
        """As above of a link by its id. Raises LinkNotFound."""
        link_id = inputs.link_id(self._namespace, id)
        async with self._services.views.open() as view:
            page = await self._services.history.of_link(
                view, self._namespace, link_id, first=page_size(first), after=after
            )
        found: Json = as_json(history_answers.versions_json("link", page))
        return found

    async def diff(self, ref: Reference, before: int, after: int) -> list[Json]:
        """What differs between two versions: `path`, `kind`, `before`, `after`. Raises VersionNotFound."""
        numbers = version_number(before, "before"), version_number(after, "after")
        async with self._services.views.open() as view:
            found = await self._services.history.diff(view, self._namespace, self._ref(ref), *numbers)
        return [as_json(history_answers.difference_json(one)) for one in found]

    async def restore(
        self,
        ref: Reference,
        *,
        version: int | None = None,
        links: bool = True,
        expected_version: int | None = None,
    ) -> Json:
        """Bring a memory back to a version, the last one that is kept by default: `memory`, `operation`, `links`.

        A forgotten one comes back under its id, with the links that were forgotten together with it. Raises
        MemoryNotFound, VersionNotFound, VersionConflict, KeyTaken, Conflict.
        """
        restored = await self._services.restoring.restore(
            self._namespace, self._ref(ref), version=_number(version), links=links,
            expected_version=_number(expected_version),
        )  # fmt: skip
        found: Json = as_json(history_answers.restored_json(restored))
        return found

    async def restore_link(self, id: str, *, version: int | None = None, expected_version: int | None = None) -> Json:
        """Bring a link back to a version. Raises LinkNotFound, VersionNotFound, MemoryNotFound, Conflict."""
        link_id = inputs.link_id(self._namespace, id)
        restored = await self._services.restoring.restore_link(
            self._namespace, link_id, version=_number(version), expected_version=_number(expected_version)
        )
        found: Json = as_json(answers.link_json(restored.link))
        return found


def _number(version: int | None) -> int | None:
    return None if version is None else version_number(version, "version")
