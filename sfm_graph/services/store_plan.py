"""Deciding what a batch of stores does to what is already stored. Pure: no I/O, so that every rule is testable."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sfm_graph.domain.identity import Coordinate, MemoryRef
from sfm_graph.domain.inputs import digest
from sfm_graph.domain.memory import Memory, NewMemory
from sfm_graph.errors import CoordinateImmutable, KeyTaken, SfmError, VersionConflict
from sfm_graph.store.memories import Located

# The system's: what a host process does to the seed of `random` must not make two places meet.
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Insert:
    """Store as a new memory; its coordinate is chosen. `again`: the last version of a forgotten one that it is."""

    memory: NewMemory
    again: Memory | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """Replace a stored memory; key and coordinate are the ones it will have."""

    prior: Memory
    memory: NewMemory


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing would change."""

    prior: Memory


Decision = Insert | Update | Keep


def waves(items: Sequence[NewMemory]) -> list[list[int]]:
    """Places of items grouped so that no group names a key or coordinate twice, each group in order.

    Storing wave after wave equals storing one by one.
    """
    result: list[list[int]] = []
    seen: dict[MemoryRef, int] = {}
    for place, item in enumerate(items):
        names = references(item)
        wave = 1 + max((seen.get(name, -1) for name in names), default=-1)
        for name in names:
            seen[name] = wave
        while len(result) <= wave:
            result.append([])
        result[wave].append(place)
    return result


def references(item: NewMemory) -> list[MemoryRef]:
    """The stored memories that an item may meet: by its key, by its coordinate."""
    found = [] if item.key is None else [MemoryRef(key=item.key)]
    return found if item.coordinate is None else [*found, MemoryRef(coordinate=item.coordinate)]


def index_located(located: Iterable[Located]) -> dict[MemoryRef, Located]:
    """Stored memories by every reference that finds them."""
    index: dict[MemoryRef, Located] = {}
    for one in located:
        index[MemoryRef(id=one.memory.id)] = one
        index[MemoryRef(coordinate=one.memory.coordinate)] = one
        if one.memory.key is not None:
            index[MemoryRef(key=one.memory.key)] = one
    return index


def decide(item: NewMemory, stored: Mapping[MemoryRef, Located], *, skip_unchanged: bool) -> Decision | SfmError:
    """What storing one item does, or why it is refused."""
    by_key = stored.get(MemoryRef(key=item.key)) if item.key is not None else None
    by_place = stored.get(MemoryRef(coordinate=item.coordinate)) if item.coordinate is not None else None
    if by_key and by_place and by_key.memory.id != by_place.memory.id:
        return KeyTaken("the key and the coordinate belong to two different memories", key=item.key)
    found = by_key or by_place
    if found is None:
        if item.expected_version is not None:
            return VersionConflict("there is no memory to update", expected=item.expected_version, actual=None)
        return Insert(replace(item, coordinate=item.coordinate or free_coordinate()))
    prior = found.memory
    refusal = _refused(item, prior)
    if refusal is not None:
        return refusal
    if skip_unchanged and item.key in (None, prior.key) and digest(item) == found.digest:
        return Keep(prior)
    return Update(prior, replace(item, key=item.key or prior.key, coordinate=prior.coordinate))


def require_version(expected: int | None, prior: Memory) -> VersionConflict | None:
    """The conflict of a conditional change, if there is one."""
    if expected is None or expected == prior.version:
        return None
    return VersionConflict(
        f"version {expected} was expected, {prior.version} is stored",
        expected=expected, actual=prior.version, id=prior.global_id,
    )  # fmt: skip


def free_coordinate() -> Coordinate:
    """Three axes in [0, 1): 156 random bits, so that chosen coordinates do not meet."""
    return (_random.random(), _random.random(), _random.random())


def _refused(item: NewMemory, prior: Memory) -> SfmError | None:
    if item.coordinate is not None and item.coordinate != prior.coordinate:
        return CoordinateImmutable("a memory's coordinate never moves once given", key=item.key, id=prior.global_id)
    if item.key is not None and prior.key is not None and item.key != prior.key:
        return KeyTaken(f"the memory at this coordinate has the key {prior.key!r}", key=item.key, id=prior.global_id)
    return require_version(item.expected_version, prior)
