"""Hooks: installed plug-ins are asked before memories and links are written, forgotten or recalled, then told."""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import entry_points
from typing import Any, Final

from sfm_graph.domain import validate
from sfm_graph.errors import HookRefused, SettingsError
from sfm_graph.ports.hook import ENTRY_POINTS, POINTS, HookView, Refusal, frozen, plain
from sfm_graph.services.access.agents import current_agent
from sfm_graph.services.access.guard import caller
from sfm_graph.services.hook_calls import called
from sfm_graph.telemetry.counters import HookFailures

log = logging.getLogger(__name__)

MAX_HOOKS: Final = 16
MAX_REASON_CHARS: Final = 500

Items = Callable[[], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Hook:
    """A plug-in under its name, with the methods that it has."""

    name: str
    methods: Mapping[str, Callable[[HookView], Any]]


def installed_hooks(names: Sequence[str]) -> list[Hook]:
    """The hooks that are switched on, in this order, as installed packages offer them. Raises SettingsError."""
    if len(names) > MAX_HOOKS or len(set(names)) < len(names):
        raise SettingsError(f"SFM_HOOKS takes at most {MAX_HOOKS} names, each once")
    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)} if names else {}
    found: list[Hook] = []
    for name in names:
        if name not in offered:
            known = ", ".join(sorted(offered)) or "none"
            raise SettingsError(f"SFM_HOOKS: no installed package offers the hook {name!r}; there are: {known}")
        try:
            made = offered[name].load()
        except (ImportError, AttributeError) as exc:
            raise SettingsError(f"SFM_HOOKS: {name!r} cannot be loaded: {exc}") from exc
        found.append(hook_of(name, made() if inspect.isclass(made) else made))
    return found


def hook_of(name: str, plugged: object) -> Hook:
    """A plug-in with its methods. Raises SettingsError for one that has none, or one that is never called."""
    validate.name(name, "hook", max_chars=64)
    methods = {point: getattr(plugged, point) for point in POINTS if callable(getattr(plugged, point, None))}
    if not methods:
        raise SettingsError(f"SFM_HOOKS: {name!r} has none of the methods {', '.join(POINTS)}")
    named = [one for one in dir(plugged) if one.startswith(("before_", "after_")) and one not in POINTS]
    for one in named:
        if callable(getattr(plugged, one)):
            raise SettingsError(f"SFM_HOOKS: {name!r} has {one}, which nothing calls; points are {', '.join(POINTS)}")
    return Hook(name, methods)


class Hooks:
    """Calls the plug-ins that are switched on, in their order, each within its time."""

    def __init__(self, hooks: Sequence[Hook] = (), *, timeout_ms: int = 1_000) -> None:
        self._by_point = {
            point: [one for one in hooks if point in one.methods]
            for point in POINTS
            if any(point in one.methods for one in hooks)
        }
        self._seconds = timeout_ms / 1_000
        self._names = [one.name for one in hooks]
        self._failures = HookFailures((one.name, point) for one in hooks for point in one.methods)
        self._last: dict[str, dict[str, str]] = {}

    @property
    def any(self) -> bool:
        """Whether there are hooks at all."""
        return bool(self._names)

    def on(self, point: str) -> bool:
        """Whether some hook is called there; without one nothing needs to be made ready for it."""
        return point in self._by_point

    async def state(self) -> dict[str, Any]:
        """For health: each hook's last failure in the last hour; one that has none since is up."""
        recent = {
            name: said
            for name, said in self._last.items()
            if (datetime.now(UTC) - datetime.fromisoformat(said["at"])).total_seconds() < 3_600
        }
        if not recent:
            return {"status": "up", "hooks": self._names}
        return {"status": "degraded", "hooks": self._names, "failures": recent}

    async def before(self, point: str, namespace: str, operation: str, items: Items) -> None:
        """Ask; raises HookRefused as soon as one refuses, fails or is late."""
        if not self.on(point):
            return
        view = _view(namespace, operation, items())
        for hook in self._by_point[point]:
            if await self._asked(hook, point, view) is not None:
                raise self._failed(hook, point, "it answered; it can only agree or refuse")

    async def before_store(self, namespace: str, operation: str, items: Items) -> list[dict[str, Any] | HookRefused]:
        """Ask before a store: of each item what hooks have changed, or why one refused it.

        Empty without hooks. A later hook sees what earlier ones changed. Raises HookRefused for all items.
        """
        point = "before_store"
        if not self.on(point):
            return []
        view = _view(namespace, operation, items())
        changed: list[dict[str, Any] | HookRefused] = [{} for _ in view.items]
        for hook in self._by_point[point]:
            answer = await self._asked(hook, point, view)
            if answer is None:
                continue
            if not _is_answer(answer, len(view.items)):
                raise self._failed(hook, point, "it answered with something else than one change for each item")
            for place, one in enumerate(answer):
                changed[place] = _joined(changed[place], one, hook, point)
            view = replace(view, items=tuple(_as_changed(*pair) for pair in zip(view.items, changed, strict=True)))
        return changed

    async def after(self, point: str, namespace: str, operation: str, items: Items, done: Items) -> None:
        """Tell of what was done. What fails is counted, logged and shown by health, and goes no further."""
        if not self.on(point):
            return
        view = replace(_view(namespace, operation, items()), done=tuple(frozen(one) for one in done()))
        for hook in self._by_point[point]:
            try:
                await self._asked(hook, point, view)
            except HookRefused as error:
                log.warning("%s; what it was told of is done", error.message)

    async def _asked(self, hook: Hook, point: str, view: HookView) -> Any:
        outcome = await called(hook.methods[point], view, self._seconds)
        if outcome.late:
            raise self._failed(hook, point, f"it took longer than {self._seconds * 1_000:.0f} ms")
        # Whoever returns a refusal means it as much as who raises it.
        error = outcome.value if isinstance(outcome.value, Refusal) else outcome.error
        if error is None:
            return outcome.value
        if isinstance(error, Refusal) and point.startswith("before_"):
            raise _refused(hook, point, error.reason)
        # A plug-in's own error may say anything: what it says is for the log.
        log.warning("hook %s, %s:", hook.name, point, exc_info=error)
        raise self._failed(hook, point, f"it failed with {type(error).__name__}")

    def _failed(self, hook: Hook, point: str, reason: str) -> HookRefused:
        self._failures.add(hook.name, point)
        self._last[hook.name] = {"at": datetime.now(UTC).isoformat(), "point": point, "reason": reason}
        return _refused(hook, point, reason)


NO_HOOKS: Final = Hooks()


def _view(namespace: str, operation: str, items: Iterable[Mapping[str, Any]]) -> HookView:
    return HookView(
        namespace, caller().principal.name, current_agent(), operation, tuple(frozen(one) for one in items)
    )


def _is_answer(answer: Any, count: int) -> bool:
    return (
        isinstance(answer, list | tuple)
        and len(answer) == count
        and all(one is None or isinstance(one, Mapping | Refusal) for one in answer)
    )


def _joined(
    before: dict[str, Any] | HookRefused, one: Mapping[str, Any] | Refusal | None, hook: Hook, point: str
) -> dict[str, Any] | HookRefused:
    if isinstance(before, HookRefused) or one is None:
        return before
    return _refused(hook, point, one.reason) if isinstance(one, Refusal) else {**before, **plain(one)}


def _as_changed(item: Mapping[str, Any], one: dict[str, Any] | HookRefused) -> Mapping[str, Any]:
    changed: Mapping[str, Any] = frozen({**item, **one}) if isinstance(one, dict) else item
    return changed


def _refused(hook: Hook, point: str, reason: object) -> HookRefused:
    said = str(reason)[:MAX_REASON_CHARS]
    return HookRefused(f"the hook {hook.name!r} refused, {point}: {said}", hook=hook.name, point=point, reason=said)
