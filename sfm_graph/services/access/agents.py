"""Which agent acts: what a request says of itself, beside who its caller is.

An agent's id is a note, no credential: what a caller may do is decided by its principal alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from sfm_graph.domain.access import ANONYMOUS, LOCAL
from sfm_graph.domain.inputs import agent as checked
from sfm_graph.services.access.guard import caller

HEADER: Final = "X-SFM-Agent"

_agent: ContextVar[str | None] = ContextVar("agent", default=None)


def current_agent() -> str | None:
    """Who writes or recalls in this task: the agent that was named, else the principal; None for the process itself,
    and for whoever needs no credential."""
    named = _agent.get()
    if named is not None:
        return named
    principal = caller().principal
    return None if principal.name in (LOCAL.name, ANONYMOUS.name) else principal.name


def act_for(agent: object) -> None:
    """Let what this task does from now on be done by an agent. Raises InvalidInput for what is no agent's id."""
    _agent.set(None if agent is None else checked(agent))


@contextmanager
def acting_for(agent: object) -> Iterator[None]:
    """Let what the block does be done by an agent; None: by none in particular. Raises InvalidInput."""
    token = _agent.set(None if agent is None else checked(agent))
    try:
        yield
    finally:
        _agent.reset(token)
