"""The one token that the settings hold."""

import hashlib
import hmac
import logging
import stat
from pathlib import Path
from typing import Final, Self

from sfm_graph.domain.access import EVERYTHING, Principal
from sfm_graph.errors import SettingsError
from sfm_graph.settings import Settings

log = logging.getLogger(__name__)

MIN_CHARS: Final = 16
MAX_CHARS: Final = 1_024
# Where container runtimes mount secrets, readable for whatever user the container has.
MOUNTED: Final = (Path("/run/secrets"), Path("/var/run/secrets"))
_VALUE, _FILE = "SOMA_API_TOKEN", "SOMA_API_TOKEN_FILE"


class StaticToken:
    """An Authenticator of one token, which may do everything in every namespace."""

    def __init__(self, token: str, *, variable: str = _VALUE) -> None:
        """Raises SettingsError, naming the variable, for what is too short or can be in no header."""
        if not MIN_CHARS <= len(token) <= MAX_CHARS:
            raise SettingsError(f"{variable}: a token has {MIN_CHARS} to {MAX_CHARS} characters")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise SettingsError(f"{variable}: a token is of ASCII letters, digits and signs, without spaces")
        self._digest = _digest(token)

    @classmethod
    def open(cls, settings: Settings) -> Self | None:
        """The token of the settings, its file read now; None without one. Raises SettingsError."""
        if settings.api_token_file is not None:
            return cls(_read(settings.api_token_file), variable=_FILE)
        if settings.api_token is not None:
            return cls(settings.api_token.get_secret_value())
        return None

    async def authenticate(self, token: str) -> Principal | None:
        """As the port says. Takes as long for every token of one length: what is compared are digests."""
        return PRINCIPAL if hmac.compare_digest(_digest(token), self._digest) else None

    async def aclose(self) -> None:
        """Nothing is open."""


PRINCIPAL: Final = Principal("token", EVERYTHING)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CHARS + 3)
        is_open = open_to_all(path)
    except OSError as exc:
        raise SettingsError(f"{_FILE}: cannot read {path}: {exc.strerror}") from exc
    if is_open:
        log.warning("%s: every user of this machine can read %s; chmod 600 it", _FILE, path)
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{_FILE}: {path} is not text") from exc


def open_to_all(path: Path) -> bool:
    """Whether every user of the machine can read the file: no folder above it keeps others out, and it is no mounted
    secret. Raises OSError."""
    real = path.resolve(strict=True)
    if any(real.is_relative_to(folder) for folder in MOUNTED):
        return False
    wanted = [(real, stat.S_IROTH), *((folder, stat.S_IXOTH) for folder in real.parents)]
    return all(one.stat().st_mode & right for one, right in wanted)
