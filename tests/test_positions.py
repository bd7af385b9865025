"""Places in the log and the cursors that carry them."""

import base64
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm_graph.domain.position import MAX_CHARS, ChangeLog, Position
from sfm_graph.domain.snapshot import Snapshot
from sfm_graph.errors import CursorExpired, InvalidCursor

LOG = ChangeLog(UUID(int=7 << 64 | 1), b"k" * 32, 0)
HERE = Position(Snapshot("100:120:101,119"), Snapshot("110:130:"), 42)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    start = draw(st.integers(3, 2**62))
    running = sorted(draw(st.sets(st.integers(start, start + 5_000), max_size=20)))
    end = max([start, *(one + 1 for one in running)]) + draw(st.integers(0, 10))
    return Snapshot(f"{start}:{end}:{','.join(map(str, running))}")


@given(
    seen=snapshots(), until=st.none() | snapshots(), last_id=st.integers(0, 2**63 - 1), namespace=st.integers(1, 99)
)
def test_a_cursor_round_trips(seen: Snapshot, until: Snapshot | None, last_id: int, namespace: int) -> None:
    position = Position(seen, until, last_id)
    assert LOG.decode(LOG.encode(namespace, position)) == (namespace, position)


def test_a_cursor_with_a_thousand_open_transactions_is_short() -> None:
    running = ",".join(str(xid) for xid in range(10_000_000, 10_003_000, 3))
    snapshot = Snapshot(f"10000000:10004000:{running}")
    assert len(snapshot.text) > 8_000
    assert len(LOG.encode(1, Position(snapshot))) < 1_500


@given(place=st.integers(0, 200), change=st.integers(1, 255))
def test_a_tampered_cursor_is_invalid(place: int, change: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(LOG.encode(1, HERE) + "=="))
    raw[place % len(raw)] ^= change
    with pytest.raises(InvalidCursor):
        LOG.decode(base64.urlsafe_b64encode(raw).decode().rstrip("="))


@pytest.mark.parametrize("cursor", ["", "x", "now!", "ä", "A" * (MAX_CHARS + 1), "AAAA", "====", "\x00"])
def test_what_was_never_a_cursor_is_invalid(cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        LOG.decode(cursor)


@given(text=st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(InvalidCursor):
        LOG.decode(text)


def test_another_logs_cursor_is_expired_and_says_how_to_resume() -> None:
    other = ChangeLog(UUID(int=8 << 64), b"other key", 0)
    with pytest.raises(CursorExpired) as caught:
        LOG.decode(other.encode(1, HERE))
    assert "export" in caught.value.details["resume"]


def test_another_key_of_the_same_log_is_invalid() -> None:
    with pytest.raises(InvalidCursor):
        LOG.decode(ChangeLog(LOG.epoch, b"stolen", 0).encode(1, HERE))


@pytest.mark.parametrize(("pruned", "kept"), [(99, True), (100, False), (101, False), (119, False), (120, False)])
def test_a_place_before_what_was_pruned_is_expired(pruned: int, kept: bool) -> None:
    log = ChangeLog(LOG.epoch, LOG.key, pruned)
    cursor = log.encode(1, Position(Snapshot("100:120:100,119")))
    if kept:
        log.decode(cursor)
    else:
        with pytest.raises(CursorExpired):
            log.decode(cursor)


def test_the_beginning_is_always_kept() -> None:
    for pruned in (0, 1, 500):
        log = ChangeLog(LOG.epoch, LOG.key, pruned)
        assert log.keeps(log.beginning.seen)
        assert not log.beginning.seen.sees(pruned + 1)
