"""Public keys of a JWT issuer: what a key is, and which are taken."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sfm_graph.errors import SettingsError

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MAX_KEYS: Final = 100
_VARIABLE: Final = "SFM_JWT_PUBLIC_KEY_FILE"
_MAX_FILE_BYTES: Final = 65_536
# Smaller ones can be broken, larger ones take longer to check than a request.
_RSA_BITS: Final = range(2_048, 8_193)
# The one algorithm that a type of key is good for; a token does not choose.
_ALGORITHMS: Final = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
_MAX_PARAMETER_CHARS: Final = 2_048


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key, bound to its algorithm. `kid` None: it has no name."""

    kid: str | None
    algorithm: str
    key: PublicKey


class IssuerKeys(Protocol):
    """Where the keys of an issuer come from."""

    async def find(self, kid: str | None) -> IssuerKey | None:
        """The key that a token's header names; None when there is no such key. Raises Unavailable when that cannot be
        found out."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class KeyFile:
    """The one key in a PEM file, whatever name tokens call it by."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises SettingsError."""
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES)
        except OSError as exc:
            raise SettingsError(f"{_VARIABLE}: cannot read {path}: {exc.strerror}") from exc
        try:
            found = of_key(None, load_pem_public_key(content))
        except (ValueError, TypeError, UnsupportedAlgorithm):
            found = None
        if found is None:
            raise SettingsError(
                f"{_VARIABLE}: {path} is no PEM file of a public key: RSA of 2048 to 8192 bits, P-256 or Ed25519"
            )
        self._key = found

    async def find(self, kid: str | None) -> IssuerKey | None:
        """As the protocol says: always the one."""
        return self._key

    async def aclose(self) -> None:
        """Nothing is open."""


def of_key(kid: str | None, key: object) -> IssuerKey | None:
    """A loaded key with its algorithm; None for one that is not taken, such as a private one."""
    if isinstance(key, RSAPublicKey) and key.key_size in _RSA_BITS:
        return IssuerKey(kid, "RS256", key)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return IssuerKey(kid, "ES256", key)
    if isinstance(key, Ed25519PublicKey):
        return IssuerKey(kid, "EdDSA", key)
    return None


def of_key_set(document: Any) -> tuple[IssuerKey, ...]:
    """The keys of a JWKS document that are taken, at most 100; others are passed over."""
    listed = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(listed, list):
        return ()
    found = (_of_jwk(one) for one in listed[:MAX_KEYS] if isinstance(one, dict))
    return tuple(one for one in found if one is not None)


def _of_jwk(data: dict[str, Any]) -> IssuerKey | None:
    kid, type_, curve = data.get("kid"), data.get("kty"), data.get("crv")
    if not isinstance(type_, str) or not isinstance(curve, str | None) or not isinstance(kid, str | None):
        return None
    algorithm = _ALGORITHMS.get((type_, curve))
    # A key that is for encryption, or for another algorithm; or a private one: everybody can sign with it now.
    if algorithm is None or data.get("use", "sig") != "sig" or data.get("alg", algorithm) != algorithm or "d" in data:
        return None
    if any(isinstance(value, str) and len(value) > _MAX_PARAMETER_CHARS for value in data.values()):
        return None
    try:
        return of_key(kid, jwt.PyJWK(data, algorithm).key)
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
