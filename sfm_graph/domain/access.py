"""Who may do what: scopes, the namespaces that a grant reaches, principals."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sfm_graph.domain import validate
from sfm_graph.errors import InvalidInput

EVERYWHERE = "*"
MAX_PATTERNS = 100


class Scope(StrEnum):
    """What a principal may do. None includes another."""

    READ = "read"
    WRITE = "write"
    SUBSCRIBE = "subscribe"
    # Settings and ends of namespaces, API keys, the audit log.
    ADMIN = "admin"
    # `/metrics`, which is about the whole service and names no namespace.
    METRICS = "metrics"


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Reach:
    """Namespaces by name, by prefix (`team/*`), or all of them (`*`)."""

    patterns: tuple[str, ...]

    def covers(self, namespace: str) -> bool:
        """Whether a namespace is among them."""
        return any(_matches(pattern, namespace) for pattern in self.patterns)

    def covers_all(self, other: "Reach") -> bool:
        """Whether every namespace of another reach, those to come included, is among them."""
        return all(self._covers_pattern(pattern) for pattern in other.patterns)

    @property
    def is_everywhere(self) -> bool:
        """Whether all namespaces are among them."""
        return EVERYWHERE in self.patterns

    @property
    def names(self) -> list[str]:
        """The patterns that are plain names."""
        return [pattern for pattern in self.patterns if not pattern.endswith(EVERYWHERE)]

    @property
    def prefixes(self) -> list[str]:
        """What the names of the others begin with; empty for all."""
        return [pattern[:-1] for pattern in self.patterns if pattern.endswith(EVERYWHERE)]

    def _covers_pattern(self, pattern: str) -> bool:
        if not pattern.endswith(EVERYWHERE):
            return self.covers(pattern)
        return any(pattern[:-1].startswith(prefix) for prefix in self.prefixes)


def _matches(pattern: str, namespace: str) -> bool:
    return namespace.startswith(pattern[:-1]) if pattern.endswith(EVERYWHERE) else namespace == pattern


def reach(patterns: Iterable[object]) -> Reach:
    """Checked patterns, without repeats. Raises InvalidInput."""
    found = tuple(dict.fromkeys(_pattern(one) for one in patterns))
    if not 0 < len(found) <= MAX_PATTERNS:
        raise InvalidInput(f"namespaces must be 1 to {MAX_PATTERNS} names, prefixes such as team/*, or *")
    return Reach(found)


def _pattern(value: object) -> str:
    if value == EVERYWHERE:
        return EVERYWHERE
    text = str(value)
    name = text[:-1] if text.endswith(EVERYWHERE) else text
    if EVERYWHERE in name:
        raise InvalidInput("a namespace pattern has its * at the end", field="namespaces")
    validate.namespace(name)
    return text


def scopes(values: Iterable[object]) -> frozenset[Scope]:
    """Checked scopes. Raises InvalidInput for none and for an unknown one."""
    found = frozenset(validate.choice(value, Scope, "scopes") for value in values)
    if not found:
        raise InvalidInput("scopes must name at least one", field="scopes")
    return found


@dataclass(frozen=True, slots=True)
class Grant:
    """Scopes on namespaces."""

    scopes: frozenset[Scope]
    reach: Reach

    def covers(self, other: "Grant") -> bool:
        """Whether it allows all that another grant does."""
        return other.scopes <= self.scopes and self.reach.covers_all(other.reach)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `name` is unique over all ways to authenticate, such as `key:7` or `jwt:https://issuer/#subject`.

    `label`: what people call it, such as the name of the key, where `name` does not say; unique to nobody.
    """

    name: str
    grant: Grant
    # From then on the credential is worth nothing; None: it does not expire.
    expires_at: datetime | None = None
    label: str = ""

    @property
    def shown(self) -> str:
        """For people to read: `key:7 (ci)`."""
        return f"{self.name} ({self.label})" if self.label else self.name


EVERYTHING = Grant(ALL_SCOPES, Reach((EVERYWHERE,)))
NOTHING = Grant(frozenset(), Reach(()))
# The service's own process, and whoever reaches it by loopback while there is nothing to authenticate with.
LOCAL = Principal("local", EVERYTHING)
# A request to an open path.
ANONYMOUS = Principal("anonymous", NOTHING)
