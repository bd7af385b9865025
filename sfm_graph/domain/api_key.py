"""API keys: named grants, each with a token that only its holder knows.

A token is `sfm_<id>_<secret>`. Of the secret nothing but its hash is stored.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from sfm_graph.domain import validate
from sfm_graph.domain.access import Grant
from sfm_graph.errors import InvalidInput

PREFIX = "sfm_"
MAX_NAME_CHARS = 100
# As much as ids of rows can be.
_TOKEN = re.compile(r"sfm_([1-9][0-9]{0,17})_([A-Za-z0-9_-]{16,128})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored. `created_by` shows the principal who made it; of times None means never."""

    id: int
    name: str
    grant: Grant
    created_by: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    # Up to a minute late while the service runs.
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key with the hash of its secret."""

    key: ApiKey
    hash: bytes


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key with its token, which cannot be shown again."""

    key: ApiKey
    token: str

    def __repr__(self) -> str:
        return f"CreatedKey(key={self.key!r}, token=...)"


def token(key_id: int, secret: str) -> str:
    """The token of a key."""
    return f"{PREFIX}{key_id}_{secret}"


def read_token(value: str) -> tuple[int, str] | None:
    """Id and secret of a token; None for what cannot be one."""
    found = _TOKEN.fullmatch(value)
    return (int(found[1]), found[2]) if found else None


def secret_hash(secret: str) -> bytes:
    """SHA-256. A secret is 256 random bits, not a password: nobody can try so many, so that a slow hash with a salt
    would protect nothing, and cost each request its time."""
    return hashlib.sha256(secret.encode()).digest()


def name(value: object) -> str:
    """A key's name: 1 to 100 printable characters, not a number, which would look like an id. Raises InvalidInput."""
    checked = validate.name(value, "name", max_chars=MAX_NAME_CHARS)
    if checked.isdecimal():
        raise InvalidInput("a key's name must not be a number, which names a key by its id", field="name")
    return checked


def expiry(value: str | None, now: datetime) -> datetime | None:
    """The moment that `30d`, `12h`, `90m`, `2w` from now or an ISO 8601 time means; None and `never` stay None.

    Raises InvalidInput.
    """
    if value is None or value == "never":
        return None
    try:
        return validate.moment_from(value, "expires", now, ahead=True)
    except InvalidInput as exc:
        raise InvalidInput(f"{exc.message}; 30d, 12h or never will do too", field="expires") from exc


def future(value: datetime | None) -> datetime | None:
    """When a new key expires. Raises InvalidInput for a time that is over."""
    checked = validate.moment(value, "expires_at")
    if checked is not None and checked <= datetime.now(UTC):
        raise InvalidInput("expires_at must be in the future", field="expires_at")
    return checked
