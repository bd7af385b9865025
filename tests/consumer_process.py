"""`sfm-consume` as a process of its own, with a consumer that is plugged in as a user's would be."""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import httpx

COMMAND = Path(sys.executable).with_name("sfm-consume")
DEADLINE_SECONDS = 90.0
_PLUGIN = '''
import asyncio, os
from pathlib import Path
from sfm_consumers import Poison


class Scribe:
    """One line for each event, all of a batch at once; while `hold` exists it waits before it writes."""

    name = "scribe"

    def __init__(self, home, topics):
        self.home, self.topics = home, topics

    async def handle(self, events):
        for one in events:
            if one.value()["operation"] == "poison":
                raise Poison("not for a scribe", one)
        while (self.home / "hold").exists():
            (self.home / f"held-{os.getpid()}").touch()
            await asyncio.sleep(0.01)
        text = "".join(f"{os.getpid()} {one.topic} {one.partition} {one.key} {one.sequence}\\n" for one in events)
        with (self.home / "effects").open("a") as file:
            file.write(text)

    async def aclose(self):
        (self.home / f"closed-{os.getpid()}").touch()


async def open(settings, options):
    return Scribe(Path(options["home"]), options["topics"].split(","))
'''


def install_scribe(home: Path) -> None:
    """Make the plug-in in `home`, as an installed distribution looks."""
    (home / "scribe.py").write_text(_PLUGIN)
    info = home / "scribe-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scribe\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sfm_consumers.consumers]\nscribe = scribe:open\n")
    (home / "effects").touch()


class ConsumerProcess:
    """A running `sfm-consume scribe`; its messages are in `log`."""

    def __init__(self, home: Path, topics: list[str], environment: dict[str, str], *arguments: str) -> None:
        self.home = home
        self.log = home / f"log-{time.monotonic_ns()}"
        ours = ("SFM_", "KAFKA", "REDIS")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [COMMAND, "scribe", "--set", f"home={home}", "--set", f"topics={','.join(topics)}", *arguments],
                stdout=log,
                stderr=log,
                cwd=home,
                env={**inherited, "PYTHONPATH": str(home), "SFM_CONSUMER_BATCH": "10", **environment},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until(
        self, condition: Callable[[], bool], what: str = "a condition", around: Callable[[], str] = str
    ) -> None:
        """AssertionError when it takes too long or the process ends: with the process's messages, `what` was waited
        for, and what `around` tells of then."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert self.process.poll() is None, self._told(f"ended by {self.process.poll()}", what, around)
            assert time.monotonic() < deadline, self._told(f"{DEADLINE_SECONDS:g} s are over", what, around)
            time.sleep(0.02)

    def _told(self, end: str, what: str, around: Callable[[], str]) -> str:
        # Last, since a report of a failure is often cut at its beginning.
        return f"{self.log.read_text()}\n{end}, waiting for {what}; {around()}"

    def url(self) -> str:
        """Where its metrics and health are."""
        self.wait_until(lambda: "/metrics" in self.log.read_text())
        return self.log.read_text().split("http://", 1)[1].split("/metrics", 1)[0].join(("http://", ""))

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url() + path, trust_env=False, timeout=30)

    def wait_until_ready(self, around: Callable[[], str] = str) -> None:
        self.wait_until(lambda: self.get("/readyz").status_code == 200, "readiness", around)

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)


class Effects:
    """What all scribes of a home wrote."""

    def __init__(self, home: Path) -> None:
        self._file = home / "effects"

    def lines(self) -> list[tuple[int, str, str, int]]:
        """Process id, topic and partition, key, sequence; in the order of writing."""
        found = []
        for line in self._file.read_text().splitlines():
            pid, topic, partition, key, sequence = line.split(" ")
            found.append((int(pid), f"{topic}/{partition}", key, int(sequence)))
        return found

    def count(self) -> int:
        return len(self.lines())

    def by_key(self) -> dict[str, list[int]]:
        """The sequences of each key, in the order of their effects."""
        found = defaultdict(list)
        for _, _, key, sequence in self.lines():
            found[key].append(sequence)
        return dict(found)
