"""How a memory system is opened and closed: the services of this process, for one namespace."""

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from sfm_graph.client.fields import Json, Reference
from sfm_graph.domain import inputs, validate
from sfm_graph.domain.identity import MemoryRef
from sfm_graph.errors import Unavailable
from sfm_graph.ports.event_bus import EventBus
from sfm_graph.runtime import open_runtime
from sfm_graph.services.access.agents import act_for
from sfm_graph.services.registry import Services
from sfm_graph.services.view import View
from sfm_graph.settings import MemoryMode, load_settings


class OpenNamespace:
    """A namespace and the services that work on it, opened by `async with`."""

    def __init__(
        self,
        mode: MemoryMode,
        namespace: str,
        *,
        config: Path | None = None,
        bus: EventBus | None = None,
        agent: str | None = None,
        **settings: Any,
    ) -> None:
        """settings: fields of Settings, above the environment and the YAML file `config`. bus: takes every change of
        all namespaces, such as an InProcessBus with handlers of your own. agent: who writes and recalls by this.

        TEST without a `data_dir` or POSTGRES_URL works in a folder that is deleted at the end.
        """
        self._namespace = validate.namespace(namespace)
        self._agent = None if agent is None else inputs.agent(agent)
        self._options = {"config": config, "mode": mode, **settings}
        self._bus = bus
        self._opened: Services | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start or join the database. Raises SettingsError, DatabaseUnavailable."""
        settings = load_settings(**self._options)
        async with AsyncExitStack() as stack:
            throw_away = settings.mode is MemoryMode.TEST and settings.postgres_url is None
            if throw_away and "data_dir" not in self._options:
                folder = Path(tempfile.mkdtemp(prefix="sfm-test-"))
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                settings = settings.model_copy(update={"data_dir": folder})
            self._opened = await stack.enter_async_context(open_runtime(settings, bus=self._bus))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release everything; the embedded database stops when nobody else uses it. May be called twice."""
        self._opened = None
        await self._stack.aclose()

    @property
    def _services(self) -> Services:
        if self._opened is None:
            raise Unavailable("the memory system is not open; use it inside `async with`")
        act_for(self._agent)
        return self._opened

    def _view(self, as_of: Mapping[str, Any]) -> AbstractAsyncContextManager[View]:
        """What a method reads in: as of `valid_at` and `known_at` of its arguments."""
        return self._services.views.open(inputs.as_of(as_of.get("valid_at"), as_of.get("known_at")))

    def _ref(self, ref: Reference) -> MemoryRef:
        return inputs.memory_ref(self._namespace, ref)


def as_json(value: Json) -> Json:
    """Plain JSON values: times as texts, tuples as lists."""
    plain: Json = orjson.loads(orjson.dumps(value))
    return plain
