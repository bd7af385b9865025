"""A real Redis on a port of its own that syncs each write, to be killed and started again."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_SECONDS = 20


class RedisServer:
    """`redis-server` on 127.0.0.1 with an append-only file in `directory`; `options` are its configuration."""

    def __init__(self, program: str, directory: Path, **options: str) -> None:
        self.port = free_port()
        self.host = "127.0.0.1"
        self.url = f"redis://{self.host}:{self.port}/0"
        configuration = {
            "port": str(self.port),
            "bind": self.host,
            "dir": str(directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            **options,
        }
        self._command = [program]
        for name, value in configuration.items():
            self._command += (f"--{name.replace('_', '-')}", value)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers, its data loaded. AssertionError when it does not."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        """As a crash: `kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def state(self) -> str:
        """Whether it runs and answers, to read in a report."""
        code = self._process.poll() if self._process is not None else "never started"
        return f"redis-server: exit {code}, answers {self._answers()}"

    def pause(self) -> None:
        """It keeps its connections and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on with what was sent meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(64)
        except OSError:
            return False
        # One that wants a password is up as well.
        return answer.startswith((b"+PONG", b"-NOAUTH"))


@contextmanager
def redis_server(directory: Path, **options: str) -> Iterator[RedisServer]:
    """A started server. Skips the test where there is no `redis-server`."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on the path (Debian: apt-get install redis-server)")
    server = RedisServer(program, directory, **options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
