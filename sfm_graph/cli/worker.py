"""One of several server processes: `python -m sfm_graph.cli.worker FD`, started by `sfm serve`.

Its settings come by stdin, which stays open for as long as the parent lives; on stdout it says when it answers.
"""

import os
import signal
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING

import orjson
from pydantic import SecretStr

if TYPE_CHECKING:
    from sfm_graph.settings import Settings

# Once it answers, and whether the database holds an API key.
READY = {b"ready\n": False, b"ready, with keys\n": True}
_LENGTH = struct.Struct("!Q")
_STDIN, _STDOUT, _STDERR = 0, 1, 2


def main() -> None:
    """Serve on the listening socket of the parent's descriptor. Exits 1 when it cannot start."""
    from sfm_graph.cli.output import fail
    from sfm_graph.cli.serving import serve_on
    from sfm_graph.errors import SettingsError, SfmError

    said = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    settings = _settings()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        try:
            serve_on(listener, settings, lambda keys: _say(said, keys), shares_listener=True)
        except SettingsError as error:
            fail("settings_error", str(error))
        except SfmError as error:
            fail(error.code, error.message, **error.details)


def packed(settings: "Settings") -> bytes:
    """What a worker reads from stdin: every setting, with the secrets, and its length before it."""
    values = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in iter(settings)
    }
    text = orjson.dumps(values, default=str)
    return _LENGTH.pack(len(text)) + text


def _settings() -> "Settings":
    from sfm_graph.settings import Settings

    (length,) = _LENGTH.unpack(_read(_LENGTH.size))
    # All are given: nothing comes from the environment any more.
    return Settings(**orjson.loads(_read(length)))


def _read(size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = os.read(_STDIN, size - len(found))
        if not piece:
            raise SystemExit(1)
        found += piece
    return found


def _say(said: int, keys: bool) -> None:
    os.write(said, next(line for line, with_keys in READY.items() if with_keys == keys))


def _end_with_parent() -> None:
    """A parent that was killed can tell nobody to stop."""
    while os.read(_STDIN, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from typer import Exit

    try:
        main()
    except Exit as ended:
        sys.exit(ended.exit_code)
