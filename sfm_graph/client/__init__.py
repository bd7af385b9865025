"""The Python face: a memory system in this process, async or blocking, with the same methods.

    memory = create_memory_system(MemoryMode.DEVELOPMENT, "demo")
    memory.remember(content="Ada wrote the first program")
    memory.recall("who wrote programs?")

A memory is named by its coordinate (a sequence of floats), or by a mapping or text that names it otherwise:
`{"key": "ada"}`, `"key:ada"`, `"id:..."`. Memories, links and whatever else comes back are plain dicts, with the
names and the JSON values of REST. Whatever is refused raises a subclass of SfmError.
"""

from pathlib import Path
from typing import Any

from sfm_graph.client.aio import AsyncMemorySystem
from sfm_graph.client.blocking import MemorySystem
from sfm_graph.client.fields import MemoryType
from sfm_graph.settings import MemoryMode

__all__ = ["AsyncMemorySystem", "MemorySystem", "MemoryType", "create_memory_system"]


def create_memory_system(
    mode: MemoryMode = MemoryMode.DEVELOPMENT, namespace: str = "default", *, config: Path | None = None,
    **settings: Any,
) -> MemorySystem:  # fmt: skip
    """An opened memory system for one namespace. Settings as of AsyncMemorySystem.

    Raises SettingsError for a wrong one (EVENTED_ENTERPRISE and CLOUD_MANAGED need POSTGRES_URL),
    DatabaseUnavailable when the database does not start.
    """
    return MemorySystem(AsyncMemorySystem(mode, namespace, config=config, **settings))
