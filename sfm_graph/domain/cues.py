"""Cues: what connects a memory with queries and other memories besides its words.

Names, an author, a date, proper names and a place in a sequence come from the memory's title, text and payload; which
payload fields are read is a setting of the namespace.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sfm_graph.domain import validate
from sfm_graph.domain.dates import date_of, dates_in
from sfm_graph.domain.memory import NewMemory
from sfm_graph.domain.names import Name, name_id, name_of, names_of, proper_names
from sfm_graph.errors import InvalidInput

MAX_CUE_FIELDS = 8
MAX_ALIASES = 50
# An index row holds at most 2,704 bytes.
MAX_CUE_CHARS = 512


@dataclass(frozen=True, slots=True)
class CueFields:
    """The payload fields that cues are read from; of several the first that has a value."""

    aliases: tuple[str, ...] = ("aliases", "alias")
    author: tuple[str, ...] = ("author", "speaker")
    sequence: tuple[str, ...] = ("sequence", "session", "conversation", "thread")
    position: tuple[str, ...] = ("position", "turn")
    date: tuple[str, ...] = ("date", "timestamp")

    def as_json(self) -> dict[str, Any]:
        """The JSON form that is stored and shown."""
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}


DEFAULT_CUE_FIELDS = CueFields()


@dataclass(frozen=True, slots=True)
class Cues:
    """The cues of one memory. `date`: packed, 0 for none; `author`: a name's id; `sequence` None: in no sequence.

    Memories of a sequence are ordered by position, then by id.
    """

    names: tuple[Name, ...] = ()
    proper_names: tuple[Name, ...] = ()
    author: int | None = None
    date: int = 0
    sequence: str | None = None
    position: float = 0.0


def own_text(title: str | None, content: str) -> str:
    """The content without the title that it may begin with; not without the beginning of a longer word."""
    if not title or not content.startswith(title):
        return content
    rest = content[len(title) :]
    return content if rest[:1].isalnum() else rest.lstrip("\n")


def cues_of(memory: NewMemory, sources: CueFields) -> Cues:
    """The cues of a memory. A payload value of another form than expected gives no cue."""
    payload = memory.payload or {}
    author = _text(_first(payload, sources.author))
    position = _first(payload, sources.position)
    return Cues(
        tuple(names_of(memory.title, _aliases(_first(payload, sources.aliases)))),
        tuple(proper_names(f"{memory.title or ''}\n{own_text(memory.title, memory.content)}")),
        name_id(name_of(author)) if author and name_of(author) else None,
        _date(memory, payload, sources),
        _text(_first(payload, sources.sequence)),
        float(position) if isinstance(position, int | float) and abs(position) < 1e300 else 0.0,
    )


def _first(payload: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((payload[name] for name in names if payload.get(name) is not None), None)


def _text(value: Any) -> str | None:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)[:MAX_CUE_CHARS] or None
    return None


def _aliases(value: Any) -> list[str]:
    given = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [text[:MAX_CUE_CHARS] for text in given[:MAX_ALIASES] if isinstance(text, str)]


def _date(memory: NewMemory, payload: Mapping[str, Any], sources: CueFields) -> int:
    said = _text(_first(payload, sources.date))
    found = dates_in(said) if said else []
    if found:
        return found[0].packed
    return date_of(memory.valid_from).packed if memory.valid_from else 0


def cue_fields(value: object) -> CueFields:
    """Cue fields from their JSON form; what is not given stays at its default. Raises InvalidInput."""
    known = {field.name for field in fields(CueFields)}
    if not isinstance(value, Mapping) or value.keys() - known:
        raise InvalidInput(f"cues takes {', '.join(sorted(known))}", field="cues")
    return CueFields(**{name: _field_names(names, name) for name, names in value.items()})


def _field_names(value: object, field: str) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or len(given) > MAX_CUE_FIELDS:
        raise InvalidInput(f"cues.{field} is a list of at most {MAX_CUE_FIELDS} payload fields", field=field)
    return tuple(validate.name(name, f"cues.{field}", max_chars=256) for name in given)
