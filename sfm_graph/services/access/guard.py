"""The guard of every service call: asks the policy whether the caller may.

The caller is the task's: a face sets it for a request, and tasks that the request starts inherit it. Code that runs
in the process without a request (the command line without `--url`, the Python API, background work) is LOCAL.
"""

import functools
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from sfm_graph.domain import validate
from sfm_graph.domain.access import LOCAL, Principal, Reach, Scope
from sfm_graph.errors import Forbidden, Unauthenticated
from sfm_graph.ports.audit import Audit
from sfm_graph.ports.policy import Action, Policy
from sfm_graph.services.access.policy import ScopesByNamespace

F = TypeVar("F", bound=Callable[..., Any])

# How soon a revoked credential is worth nothing to who stays.
RENEWAL_SECONDS: Final = 5.0
_MARK = "__needs__"


class Caller:
    """A principal, and who decides what it may.

    `renew` gives the principal as it is now; of a revoked credential it raises Unauthenticated. It is asked every 5
    seconds, so that whoever stays for long, by a stream or an import, stays no longer than the credential.
    """

    def __init__(
        self,
        principal: Principal,
        policy: Policy,
        audit: Audit | None = None,
        renew: Callable[[], Awaitable[Principal]] | None = None,
    ) -> None:
        self.principal = principal
        self.policy = policy
        self.audit = audit
        self.renew = renew
        self._due = time.monotonic() + RENEWAL_SECONDS

    async def require(self, action: Action) -> None:
        """Raises Forbidden when the policy denies; that, and what an administrator does, is written down first.

        Raises what `check` raises.
        """
        await self.check()
        decision = await self.policy.decide(self.principal, action)
        if self.audit is not None and (not decision.allowed or action.scope is Scope.ADMIN):
            await self.audit.record(self.principal, action, decision)
        if not decision.allowed:
            raise Forbidden(decision.reason, action=action.name, scope=action.scope.value)

    async def check(self) -> None:
        """Raises Unauthenticated for a credential that has expired, or was revoked more than 5 seconds ago, and
        Unavailable when that cannot be found out."""
        if self.renew is not None and time.monotonic() >= self._due:
            self.principal = await self.renew()
            self._due = time.monotonic() + RENEWAL_SECONDS
        expires_at = self.principal.expires_at
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise Unauthenticated("the token has expired")


_caller: ContextVar[Caller] = ContextVar("caller", default=Caller(LOCAL, ScopesByNamespace()))  # noqa: B039 - frozen


def caller() -> Caller:
    """Who calls, in this task."""
    return _caller.get()


def reach() -> Reach:
    """The namespaces that the caller reaches."""
    return caller().principal.grant.reach


def act_as(one: Caller) -> None:
    """Let what this task does from now on be done by a caller."""
    _caller.set(one)


@contextmanager
def acting(one: Caller) -> Iterator[None]:
    """Let what the block does be done by a caller."""
    token = _caller.set(one)
    try:
        yield
    finally:
        _caller.reset(token)


def needs(scope: Scope, *, target: str | None = None) -> Callable[[F], F]:
    """Guards a public method of a service: a coroutine function or an async generator function.

    The action is about the method's parameter `namespace`; without one, about none in particular. `target`: the
    parameter that says what else it is about. A stream is asked about
    again for each of its items. The method raises Forbidden, Unauthenticated, and
    InvalidInput for what cannot be a namespace's name.
    """

    def decorate(method: F) -> F:
        name = f"{method.__module__.rpartition('.')[2]}.{method.__name__}"
        namespace_of, target_of = _argument(method, "namespace"), _argument(method, target)

        def action(arguments: tuple[Any, ...], named: dict[str, Any]) -> Action:
            namespace, about = namespace_of(arguments, named), target_of(arguments, named)
            return Action(
                name,
                scope,
                None if namespace is None else validate.namespace(namespace),
                None if about is None else str(about),
            )

        guarded = _stream(method, action) if inspect.isasyncgenfunction(method) else _call(method, action)
        setattr(guarded, _MARK, scope)
        return guarded  # type: ignore[return-value]

    return decorate


def _argument(method: Callable[..., Any], name: str | None) -> Callable[..., Any]:
    """What reads an argument of a call by its name; None where the method has no such parameter."""
    parameters = inspect.signature(method).parameters
    if name is None or name not in parameters:
        return lambda arguments, named: None
    place, default = list(parameters).index(name), parameters[name].default

    def read(arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if name in named:
            return named[name]
        return arguments[place] if place < len(arguments) else default

    return read


def scope_of(method: Callable[..., Any]) -> Scope | None:
    """The scope that a method of a service needs; None when it is not guarded."""
    found: Scope | None = getattr(method, _MARK, None)
    return found


def _call(method: Callable[..., Any], action: Callable[..., Action]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def guarded(*arguments: Any, **named: Any) -> Any:
        await caller().require(action(arguments, named))
        return await method(*arguments, **named)

    return guarded


def _stream(method: Callable[..., Any], action: Callable[..., Action]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def guarded(*arguments: Any, **named: Any) -> AsyncIterator[Any]:
        asked, who = action(arguments, named), caller()
        await who.require(asked)
        stream = method(*arguments, **named)
        try:
            async for item in stream:
                await who.require(asked)
                yield item
        finally:
            await stream.aclose()

    return guarded
