"""Which neighbouring pieces of an index to join, so that few remain: as in a log-structured merge tree."""

from collections.abc import Sequence


def joined(sizes: Sequence[int], hollow: Sequence[bool], *, factor: int, capacity: int) -> tuple[int, int] | None:
    """The pieces [first, end) to build anew as one; None when all may stay.

    `sizes`: rows of each piece, oldest first, the last one not built yet (0: leave it). `hollow`: of each built
    piece, whether most of its rows are gone. A piece is joined with the next older one while that is less than
    `factor` times as large and both together do not exceed `capacity`: O(log rows + rows / capacity) pieces remain,
    and a row is built anew O(log rows) times.
    """
    fresh = len(sizes) - 1
    for end in range(len(sizes), 0, -1):
        first, total = end - 1, sizes[end - 1]
        if first == fresh and not total:
            continue
        while first and sizes[first - 1] < factor * total and sizes[first - 1] + total <= capacity:
            first -= 1
            total += sizes[first]
        if first == fresh or end - first > 1 or hollow[first]:
            return first, end
    return None
