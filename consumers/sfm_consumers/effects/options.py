"""What a consumer is told: `--set name=value` first, then the environment. Secrets come by the environment alone."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from sfm_graph.domain.event import TOPICS
from sfm_graph.errors import SettingsError

POSTGRES = ("postgresql://", "postgres://")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class Given:
    """The options of one consumer: option `max_bytes` of `audit` is also the variable `SFM_AUDIT_MAX_BYTES`.

    Each method raises SettingsError naming both when a value is missing or wrong.
    """

    def __init__(
        self, consumer: str, options: Mapping[str, str], known: Collection[str], *, secrets: Collection[str] = ()
    ) -> None:
        self._consumer = consumer
        self._options = options
        for name in options:
            if name in secrets:
                raise SettingsError(
                    f"--set {name}: a secret is given by {self.variable(name)} or {self.variable(name)}_FILE"
                )
            if name not in known:
                raise SettingsError(f"--set {name}: {consumer} takes {', '.join(sorted(known))}")

    def variable(self, name: str) -> str:
        """The environment variable of an option."""
        return f"SFM_{self._consumer}_{name}".upper()

    def text(self, name: str) -> str | None:
        """The value; None when it is not given or empty."""
        return self._options.get(name) or os.environ.get(self.variable(name)) or None

    def required(self, name: str) -> str:
        """The value."""
        value = self.text(name)
        if value is None:
            raise self.wrong(name, "is required")
        return value

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        """An integer in [low, high]."""
        value = self.text(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 20 and low <= int(value) <= high):
            raise self.wrong(name, f"must be an integer from {low} to {high}")
        return int(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        value = (self.text(name) or str(default)).lower()
        if value not in _TRUE | _FALSE:
            raise self.wrong(name, "must be true or false")
        return value in _TRUE

    def choice(self, name: str, choices: Collection[str]) -> str:
        """One of `choices`, the first when it is not given."""
        value = self.text(name) or next(iter(choices))
        if value not in choices:
            raise self.wrong(name, f"must be one of {', '.join(choices)}")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """A comma-separated list; empty when it is not given."""
        return tuple(one.strip() for one in (self.text(name) or "").split(",") if one.strip())

    def topics(self) -> tuple[str, ...]:
        """Which topics are read: all of them unless `topics` names some."""
        chosen = self.names("topics") or TOPICS
        if set(chosen) - set(TOPICS):
            raise self.wrong("topics", f"must be of {', '.join(TOPICS)}")
        return tuple(dict.fromkeys(chosen))

    def url(self, name: str, *, plain: bool) -> str:
        """An http(s) URL without a name or password; http beyond this machine only when `plain`."""
        value = self.required(name)
        parts = self._split(name, value)
        if parts.scheme == "http" and not plain and parts.hostname not in _LOOPBACK:
            raise self.wrong(name, f"must be https; {self.variable('allow_http')}=true lets http be used")
        return value

    def secret(self, name: str) -> str | None:
        """A secret of the environment, or of the file that the variable with `_FILE` names."""
        variable = self.variable(name)
        path = os.environ.get(f"{variable}_FILE")
        if path is None:
            return os.environ.get(variable) or None
        try:
            return Path(path).read_text().strip() or None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{variable}_FILE: cannot read {path}: {error}") from error

    def wrong(self, name: str, what: str) -> SettingsError:
        """The error that says what is wrong with an option."""
        return SettingsError(f"--set {name}=... or {self.variable(name)} {what}")

    def _split(self, name: str, value: str) -> SplitResult:
        try:
            parts = urlsplit(value)
            well_formed = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError as error:
            raise self.wrong(name, "must look like https://host/path") from error
        printable = value.isascii() and all(one > " " for one in value)
        if not well_formed or not printable or parts.fragment:
            raise self.wrong(name, "must look like https://host/path")
        if parts.username is not None or parts.password is not None:
            raise self.wrong(name, "must not hold a name or password")
        return parts


def postgres_url(variable: str, value: str) -> str:
    """The value of a variable that names a database. Raises SettingsError, which never holds a part of it."""
    try:
        if not value.startswith(POSTGRES):
            raise SettingsError(f"{variable} must begin with postgresql://")
        conninfo_to_dict(value)
    except (psycopg.Error, UnicodeError):
        raise SettingsError(f"{variable}: must look like postgresql://user:password@host:5432/database") from None
    return value
