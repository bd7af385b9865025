"""A graph memory service for AI agents.

    from sfm_graph import create_memory_system, MemoryMode, MemoryType
    memory = create_memory_system(MemoryMode.DEVELOPMENT, "demo")

The names below are the public ones; they are loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfm_graph.app import create_app
    from sfm_graph.client import AsyncMemorySystem, MemorySystem, MemoryType, create_memory_system
    from sfm_graph.errors import SettingsError, SfmError
    from sfm_graph.settings import MemoryMode, Settings, load_settings

__version__ = "0.1.0"
__all__ = [
    "AsyncMemorySystem",
    "MemoryMode",
    "MemorySystem",
    "MemoryType",
    "Settings",
    "SettingsError",
    "SfmError",
    "__version__",
    "create_app",
    "create_memory_system",
    "load_settings",
]

_HOMES = {
    "app": ("create_app",),
    "client": ("AsyncMemorySystem", "MemorySystem", "MemoryType", "create_memory_system"),
    "errors": ("SettingsError", "SfmError"),
    "settings": ("MemoryMode", "Settings", "load_settings"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"sfm_graph.{home}"), name)
    raise AttributeError(f"module 'sfm_graph' has no attribute {name!r}")
