"""The folder of the workers' metrics: it stays small, its counters never fall, and nobody's is left for ever."""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sfm_graph.telemetry import worker_files
from sfm_graph.telemetry.worker_files import fold, metrics_folder, page_of_all

WORKER = """
import os, signal, sys
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
registry = CollectorRegistry()
counter = Counter("c", "a counter", ("name",), registry=registry)
histogram = Histogram("h", "a histogram", buckets=(1, 2, 3), registry=registry)
gauge = Gauge("g", "a gauge", multiprocess_mode="livesum", registry=registry)
counter.labels("é").inc(2)
counter.labels(sys.argv[1]).inc()
for one in (0.5, 1.5, 1.7, 9):
    histogram.observe(one)
gauge.set(7)
os.kill(os.getpid(), signal.SIGKILL)
"""
OWNER = """
import os, signal
from sfm_graph.telemetry.worker_files import metrics_folder
with metrics_folder() as folder:
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_worker(folder: Path, label: str = "x") -> int:
    """The process id of a worker that has counted and was killed."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    worker = subprocess.Popen([sys.executable, "-c", WORKER, label], env=environment)
    assert worker.wait(60) == -signal.SIGKILL
    return worker.pid


def samples(folder: Path) -> dict[str, float]:
    page = page_of_all(folder).decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\n]\S*) (\S+)$", page, re.MULTILINE)}


def test_what_ended_workers_counted_stays_and_their_files_go(tmp_path: Path) -> None:
    for number in range(1, 4):
        pid = killed_worker(tmp_path)
        before = samples(tmp_path)
        assert before["g"] == 7
        assert fold(tmp_path, pid)
        after = samples(tmp_path)
        assert after == {name: value for name, value in before.items() if name != "g"}
        assert after['c_total{name="é"}'] == 2 * number
        assert after['c_total{name="x"}'] == number
        assert [after[f'h_bucket{{le="{bound}"}}'] for bound in ("1.0", "2.0", "3.0", "+Inf")] == [
            number, 3 * number, 3 * number, 4 * number,
        ]  # fmt: skip
        assert after["h_count"] == 4 * number
        assert after["h_sum"] == pytest.approx(12.7 * number)
        assert {one.name for one in tmp_path.iterdir()} == {"counter_ended.db", "histogram_ended.db", "readers"}
    # Once more changes nothing.
    assert fold(tmp_path, pid)
    assert samples(tmp_path) == after


def test_other_workers_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("counter_15.db", "gauge_livesum_15.db", "histogram_51.db"):
        (tmp_path / name).write_bytes(bytes(64))
    assert fold(tmp_path, 5)
    assert {one.name for one in tmp_path.glob("*.db")} == {"counter_15.db", "gauge_livesum_15.db", "histogram_51.db"}


def test_many_labels_are_all_kept(tmp_path: Path) -> None:
    # More than the first block of a file holds.
    label = "y" * 90_000
    assert fold(tmp_path, killed_worker(tmp_path, label))
    assert fold(tmp_path, killed_worker(tmp_path, "z"))
    found = samples(tmp_path)
    assert found[f'c_total{{name="{label}"}}'] == found['c_total{name="z"}'] == 1


@pytest.mark.parametrize("damage", [lambda _: b"", lambda held: held[:100], lambda _: b"\xff" * 64])
def test_a_file_of_a_worker_that_was_killed_while_it_wrote(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    assert fold(tmp_path, killed_worker(tmp_path))
    before = samples(tmp_path)
    pid = killed_worker(tmp_path)
    for kind in ("counter", "histogram"):
        file = tmp_path / f"{kind}_{pid}.db"
        file.write_bytes(damage(file.read_bytes()))
    assert fold(tmp_path, pid)
    after = samples(tmp_path)
    assert [name for name in before if after[name] < before[name]] == []


def test_a_reader_that_stands_still_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_files, "_PATIENCE_SECONDS", 0.05)
    pid = killed_worker(tmp_path)
    with (tmp_path / "readers").open("a") as readers:
        fcntl.flock(readers, fcntl.LOCK_SH)
        assert not fold(tmp_path, pid)
        # Those who read hold up nobody who reads.
        assert samples(tmp_path)['c_total{name="x"}'] == 1
    assert fold(tmp_path, pid)
    assert samples(tmp_path)['c_total{name="x"}'] == 1


def test_a_full_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    pid = killed_worker(tmp_path)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(Path, "write_bytes", full)
        assert not fold(tmp_path, pid)
    assert "No space left" in caplog.text
    assert samples(tmp_path)['c_total{name="x"}'] == 1
    assert fold(tmp_path, pid)
    assert samples(tmp_path)['c_total{name="x"}'] == 1


def test_a_folder_goes_with_its_owner_or_when_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", OWNER], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    left = Path(done.stdout.strip())
    assert left.parent == tmp_path
    assert left.is_dir()
    # Another's, which is no folder of its own, and one whose owner is unknown.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "owner").touch()
    (tmp_path / "sfm-graph-metrics-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "sfm-graph-metrics-new").mkdir()
    with metrics_folder() as one:
        assert not left.exists()
        with metrics_folder() as other:
            assert one.is_dir()
            assert other.is_dir()
        assert not other.exists()
    assert not one.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "elsewhere", "sfm-graph-metrics-link", "sfm-graph-metrics-new",
    }  # fmt: skip
