"""What is copied in one transaction: so little that neither memory nor the database is kept busy for long."""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from sfm_graph.domain.copying import Sized
from sfm_graph.errors import TooLarge

T = TypeVar("T")

BATCH: Final = 1_000
BATCH_BYTES: Final = 4 * 1024 * 1024
MAX_BYTES: Final = 256 * 1024 * 1024


def require_room(found: Sequence[Sized]) -> None:
    """Raises TooLarge for memories of more than 256 MB together."""
    if sum(one.size for one in found) > MAX_BYTES:
        raise TooLarge(f"the selected memories have more than {MAX_BYTES // 1024**2} MB; select fewer", field="limit")


def batches(items: Sequence[T], sizes: Sequence[int]) -> Iterator[list[T]]:
    """The items in order, up to 1,000 at a time with up to 4 MB, or a single one. `sizes`: their bytes."""
    some: list[T] = []
    total = 0
    for one, size in zip(items, sizes, strict=True):
        if some and (len(some) == BATCH or total + size > BATCH_BYTES):
            yield some
            some, total = [], 0
        some.append(one)
        total += size
    if some:
        yield some
