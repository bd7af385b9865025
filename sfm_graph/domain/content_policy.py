"""What a namespace lets memories and links say: sizes, keys of payloads, secrets and personal data."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import orjson

from sfm_graph.domain import validate
from sfm_graph.domain.memory import NewMemory
from sfm_graph.domain.patterns import FINDERS, PERSONAL, SECRETS, Span, looks_random, names_a_secret
from sfm_graph.errors import ContentRefused, InvalidInput

MAX_ALLOWED_KEYS: Final = 1_000
# The payload's key under which rules that tag leave their names.
TAGS_KEY: Final = "policy_tags"
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {"secrets": tuple(SECRETS), "pii": tuple(PERSONAL)}
# A number is looked at as a text where it is long enough for a card's.
_LONG_NUMBER: Final = 10**11


class Action(StrEnum):
    """What is done about a text in which a pattern is found."""

    REFUSE = "refuse"
    REDACT = "redact"
    TAG = "tag"


@dataclass(frozen=True, slots=True)
class ContentPolicy:
    """The rules. None: no bound; `allowed_keys` are the payload's top-level ones. `patterns`: actions by rule."""

    max_content_bytes: int | None = None
    max_payload_bytes: int | None = None
    allowed_keys: frozenset[str] | None = None
    patterns: tuple[tuple[str, Action], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The JSON form that is stored and shown."""
        return {
            "max_content_bytes": self.max_content_bytes,
            "max_payload_bytes": self.max_payload_bytes,
            "allowed_keys": None if self.allowed_keys is None else sorted(self.allowed_keys),
            "patterns": {rule: action.value for rule, action in self.patterns},
        }


def content_policy(value: object) -> ContentPolicy | None:
    """A policy from its JSON form; an empty one is none. Raises InvalidInput."""
    known = {"max_content_bytes", "max_payload_bytes", "allowed_keys", "patterns"}
    if not isinstance(value, Mapping) or value.keys() - known:
        said = _unknown(value, known)
        raise InvalidInput(f"content_policy takes {', '.join(sorted(known))}{said}", field="content_policy")
    readers: dict[str, Callable[[object], Any]] = {
        "max_content_bytes": lambda one: _bytes(one, "max_content_bytes", validate.MAX_CONTENT_BYTES),
        "max_payload_bytes": lambda one: _bytes(one, "max_payload_bytes", validate.MAX_PAYLOAD_BYTES),
        "allowed_keys": _keys,
        "patterns": _patterns,
    }
    policy = ContentPolicy(**{name: readers[name](one) for name, one in value.items() if one is not None})
    return policy if policy != ContentPolicy() else None


def screened(memory: NewMemory, policy: ContentPolicy, own_keys: frozenset[str] = frozenset()) -> NewMemory:
    """The memory as the policy lets it be stored. Raises ContentRefused, which names rule and place, no more.

    A given embedding is dropped where the text was changed: it says what the text said. `own_keys`: of the payload,
    what the service itself writes there, which no operator has to allow.
    """
    payload = memory.payload or {}
    _bounded(len(memory.content.encode()), policy.max_content_bytes, "max_content_bytes", "content")
    allowed = None if policy.allowed_keys is None else policy.allowed_keys | own_keys
    _check_document(payload, policy, "payload", allowed)
    screen = _Screen(policy)
    screen.refuse_only(memory.key, "key")
    title = None if memory.title is None else screen.text(memory.title, "title")
    content = screen.text(memory.content, "content")
    changed = screen.document(payload, "payload")
    same_text = (title, content) == (memory.title, memory.content)
    return replace(
        memory,
        title=title,
        content=content,
        payload=screen.tagged(changed),
        embedding=memory.embedding if same_text else None,
    )


def screened_properties(properties: Mapping[str, Any], policy: ContentPolicy) -> dict[str, Any]:
    """A link's properties as the policy lets them be stored. `allowed_keys` is about memories. Raises as above."""
    _check_document(properties, policy, "properties", None)
    screen = _Screen(policy)
    return screen.tagged(screen.document(properties, "properties"))


class _Screen:
    """The patterns on the texts of one memory or link."""

    def __init__(self, policy: ContentPolicy) -> None:
        self._patterns = policy.patterns
        self._tags: set[str] = set()

    def text(self, text: str, place: str) -> str:
        """The text without what is to be redacted."""
        spans: list[tuple[Span, str]] = []
        for rule, action in self._patterns:
            found = list(FINDERS[rule](text))
            if found:
                self._act(rule, action, place)
                spans += [(span, rule) for span in found if action is Action.REDACT]
        return _redacted(text, spans) if spans else text

    def refuse_only(self, text: str | None, place: str) -> None:
        """Look at a name, which cannot be changed."""
        for rule, action in self._patterns:
            if text is not None and action is not Action.REDACT and any(FINDERS[rule](text)):
                self._act(rule, action, place)

    def document(self, document: Mapping[str, Any], place: str) -> dict[str, Any]:
        """A JSON object with all its texts looked at, keys too."""
        if not self._patterns:
            return dict(document)
        return self._object(document, place, top=True)

    def tagged(self, document: dict[str, Any]) -> dict[str, Any]:
        """With what was tagged; a tag of an earlier content does not stay."""
        if self._tags:
            return {**document, TAGS_KEY: sorted(self._tags)}
        if any(action is Action.TAG for _, action in self._patterns):
            document.pop(TAGS_KEY, None)
        return document

    def _object(self, document: Mapping[str, Any], place: str, *, top: bool = False) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in document.items():
            shown = self.text(name, f"a key of {place}")
            where = f"{place}.{_short(shown)}" if top else place
            result[_free(shown, result, document) if shown != name else name] = self._value(value, where, name)
        return result

    def _value(self, value: Any, place: str, name: str) -> Any:
        if isinstance(value, str):
            return self._named(value, place, name)
        if isinstance(value, Mapping):
            return self._object(value, place)
        if isinstance(value, list | tuple):
            return [self._value(item, place, name) for item in value]
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _LONG_NUMBER:
            shown = self.text(str(value), place)
            return value if shown == str(value) else shown
        return value

    def _named(self, value: str, place: str, name: str) -> str:
        """A text under a name: of a field called `password` all of it may be one."""
        action = dict(self._patterns).get("password")
        if action is not None and names_a_secret(name) and looks_random(value):
            self._act("password", action, place)
            if action is Action.REDACT:
                return _mark("password")
        return self.text(value, place)

    def _act(self, rule: str, action: Action, place: str) -> None:
        if action is Action.REFUSE:
            raise _refused(rule, place, f"the content policy refuses what {place} holds: {rule}")
        if action is Action.TAG:
            self._tags.add(rule)


def _redacted(text: str, spans: list[tuple[Span, str]]) -> str:
    parts: list[str] = []
    end = 0
    for span, rule in sorted(spans):
        if span.end <= end:
            continue
        if span.start >= end:
            parts += [text[end : span.start], _mark(rule)]
        end = span.end
    return "".join([*parts, text[end:]])


def _mark(rule: str) -> str:
    return f"[redacted:{rule}]"


def _free(name: str, taken: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """A name that no other key has."""
    number, free = 1, name
    while free in taken or free in others:
        number += 1
        free = f"{name} ({number})"
    return free


def _check_document(
    document: Mapping[str, Any], policy: ContentPolicy, place: str, allowed: frozenset[str] | None
) -> None:
    if policy.max_payload_bytes is not None:
        _bounded(len(orjson.dumps(document)), policy.max_payload_bytes, "max_payload_bytes", place)
    if allowed is None:
        return
    unknown = sorted(document.keys() - allowed - {TAGS_KEY})
    if unknown:
        # A key may itself be a secret: it is named only where no pattern at all knows it.
        told = "" if any(_found(unknown[0])) else f" {_short(unknown[0])!r}"
        raise _refused("allowed_keys", place, f"the content policy does not allow the key{told} in {place}")


def _found(text: str) -> Iterator[Span]:
    for finder in FINDERS.values():
        yield from finder(text)


def _bounded(size: int, bound: int | None, rule: str, place: str) -> None:
    if bound is not None and size > bound:
        raise _refused(rule, place, f"{place} has {size} bytes; the content policy takes at most {bound}")


def _refused(rule: str, place: str, message: str) -> ContentRefused:
    return ContentRefused(message, rule=rule, place=place)


def _short(name: str) -> str:
    return name if len(name) <= 64 else name[:64] + "…"


def _unknown(value: object, known: Iterable[str]) -> str:
    """Which name of an object is none of those that are known, to go behind a message; empty for no object."""
    names = sorted(str(name) for name in value.keys() - set(known)) if isinstance(value, Mapping) else []
    return f"; not {_short(names[0])!r}" if names else ""


def _bytes(value: object, field: str, high: int) -> int:
    return validate.integer(value, f"content_policy.{field}", low=0, high=high)


def _keys(value: object) -> frozenset[str]:
    if not isinstance(value, list | tuple) or len(value) > MAX_ALLOWED_KEYS:
        raise InvalidInput(f"allowed_keys is a list of at most {MAX_ALLOWED_KEYS} keys", field="content_policy")
    return frozenset(validate.text(one, "content_policy.allowed_keys", max_chars=1_000) for one in value)


def _patterns(value: object) -> tuple[tuple[str, Action], ...]:
    """Actions by rule or group; what a rule says of itself comes before what its group says."""
    names = [*GROUPS, *FINDERS]
    if not isinstance(value, Mapping) or value.keys() - set(names):
        raise InvalidInput(
            f"content_policy.patterns maps rules to actions; rules are {', '.join(names)}{_unknown(value, names)}",
            field="content_policy",
        )
    actions = {
        name: validate.choice(one, Action, f"content_policy.patterns.{name}")
        for name, one in value.items()
        if one is not None
    }
    found = {rule: actions[group] for group, rules in GROUPS.items() if group in actions for rule in rules}
    found |= {rule: action for rule, action in actions.items() if rule in FINDERS}
    return tuple((rule, found[rule]) for rule in FINDERS if rule in found)
