"""Hooks: plug-ins that look at what is asked of the service before it is done, and at what was done.

A hook is an object with any of the methods below, coroutine functions or plain ones. It gets a frozen view, never a
session, a secret or a request. An installed package offers its class by the entry-point group `sfm_graph.hooks`;
`SFM_HOOKS` switches it on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

ENTRY_POINTS: Final = "sfm_graph.hooks"
SUBJECTS: Final = ("store", "recall", "forget", "link")
POINTS: Final = tuple(f"{when}_{subject}" for subject in SUBJECTS for when in ("before", "after"))


class Refusal(Exception):
    """A `before` method raises or returns it to refuse what is asked; `before_store` may return it for one item.

    `reason` goes to the caller, its first 500 characters.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class HookView:
    """What is asked for, and in an `after` method what was done.

    `operation`: store, update; recall; forget, erase, forget_where, fade, expire, make_room; link, update, unlink;
    and of several subjects restore, merge, consolidate. `items`, in the order of the request, are the fields as
    callers name them: of memories and links to write, of the query, or the references (`id`, `key` or `coordinate`)
    of what is to go. `done`: what is stored now, the hits with their scores, or the ids of what is gone; without
    those that were refused.
    """

    namespace: str
    principal: str
    agent: str | None
    operation: str
    items: tuple[Mapping[str, Any], ...]
    done: tuple[Mapping[str, Any], ...] = ()


# For each item of a store None (as it is), the fields to change, or why it is refused; None: all are as they are.
Changed: TypeAlias = "Sequence[Mapping[str, Any] | Refusal | None] | None"


class BeforeStore(Protocol):
    """Asked before memories are stored or updated; what it changes is validated again."""

    async def before_store(self, view: HookView) -> Changed:
        """What to change. Whatever it raises, or taking longer than `SFM_HOOK_TIMEOUT_MS`, refuses the write."""
        ...


class Before(Protocol):
    """Asked before a recall, before memories are forgotten, before links are written or removed."""

    async def before_recall(self, view: HookView) -> None:
        """Whatever it raises or returns but None, or taking too long, refuses the recall."""
        ...

    async def before_forget(self, view: HookView) -> None:
        """As above."""
        ...

    async def before_link(self, view: HookView) -> None:
        """As above."""
        ...


class After(Protocol):
    """Told of what was done, after its commit. A failure is reported and changes nothing."""

    async def after_store(self, view: HookView) -> None:
        """Memories were stored or updated."""
        ...

    async def after_recall(self, view: HookView) -> None:
        """A recall found `done`."""
        ...

    async def after_forget(self, view: HookView) -> None:
        """Memories are gone."""
        ...

    async def after_link(self, view: HookView) -> None:
        """Links were written or removed."""
        ...


def frozen(value: Any) -> Any:
    """A JSON value that nobody can change: mappings are read-only, lists are tuples."""
    if isinstance(value, Mapping):
        return MappingProxyType({name: frozen(item) for name, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    return value


def plain(value: Any) -> Any:
    """A frozen JSON value as dicts and lists, which a hook may change and give back."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
