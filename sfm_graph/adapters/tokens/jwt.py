"""JSON Web Tokens of one issuer."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import jwt

from sfm_graph.adapters.tokens.issuer_keys import IssuerKey, IssuerKeys, KeyFile
from sfm_graph.adapters.tokens.key_set import KeySet
from sfm_graph.domain import access, validate
from sfm_graph.domain.access import Grant, Principal, Reach, Scope
from sfm_graph.errors import InvalidInput, TooLarge, Unauthenticated
from sfm_graph.settings import Settings

MAX_TOKEN_CHARS: Final = 16_384
# How far the issuer's clock and ours may differ.
LEEWAY_SECONDS: Final = 30
MAX_SUBJECT_CHARS: Final = 256
MAX_KID_CHARS: Final = 256
_REQUIRED: Final = ["exp", "iss", "aud", "sub"]
_SCOPES: Final = {scope.value: scope for scope in Scope}
_ALGORITHMS: Final = tuple(jwt.algorithms.get_default_algorithms())
_DAMAGED: Final = "the token is damaged, or not signed by the issuer"
_REASONS: Final[dict[type[Exception], str]] = {
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidAudienceError: "the token is for another audience",
    jwt.InvalidIssuerError: "the token is of another issuer",
}


@dataclass(frozen=True, slots=True)
class Claims:
    """What tokens must claim, and which claims say what their holder may."""

    issuer: str
    audience: str
    scopes: str = "scope"
    namespaces: str = "sfm_namespaces"


class JwtAuthenticator:
    """An Authenticator of signed tokens: RS256, ES256 or EdDSA, as the type of the key says, not the token."""

    def __init__(self, keys: IssuerKeys, claims: Claims) -> None:
        self._keys = keys
        self._claims = claims

    @classmethod
    def open(cls, settings: Settings) -> Self | None:
        """As the settings say; None without JWTs. No request is made. Raises SettingsError for a wrong key file."""
        keys: IssuerKeys
        if settings.jwt_public_key_file is not None:
            keys = KeyFile(settings.jwt_public_key_file)
        elif settings.jwt_jwks_url is not None:
            keys = KeySet(settings.jwt_jwks_url)
        else:
            return None
        claims = Claims(
            settings.jwt_issuer or "",
            settings.jwt_audience or "",
            settings.jwt_scopes_claim,
            settings.jwt_namespaces_claim,
        )
        return cls(keys, claims)

    async def authenticate(self, token: str) -> Principal | None:
        """As the port says; three parts with dots between them are of this kind."""
        if token.count(".") != 2 or not token.isascii():
            return None
        if len(token) > MAX_TOKEN_CHARS:
            raise Unauthenticated("the token is too long")
        header = _header(token)
        key = await self._keys.find(_kid(header))
        if key is None:
            raise Unauthenticated("the token is signed by an unknown key")
        _check_algorithm(header, key)
        return self._principal(self._verified(token, key))

    async def aclose(self) -> None:
        """Let go of connections to the issuer."""
        await self._keys.aclose()

    def _verified(self, token: str, key: IssuerKey) -> dict[str, Any]:
        try:
            return jwt.decode(
                token, key.key, algorithms=[key.algorithm], audience=self._claims.audience,
                issuer=self._claims.issuer, leeway=LEEWAY_SECONDS, options={"require": _REQUIRED},
            )  # fmt: skip
        except jwt.MissingRequiredClaimError as error:
            # The signature is checked before the claims: only the issuer's tokens are told what they lack.
            raise Unauthenticated(f"the token lacks the claim {error.claim}") from None
        except jwt.PyJWTError as error:
            raise Unauthenticated(_REASONS.get(type(error), _DAMAGED)) from None

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        try:
            subject = validate.name(claims["sub"], "sub", max_chars=MAX_SUBJECT_CHARS)
            scopes = frozenset(_SCOPES[one] for one in _words(claims, self._claims.scopes) if one in _SCOPES)
            patterns = _words(claims, self._claims.namespaces)
            reach = access.reach(patterns) if patterns else Reach(())
        except (InvalidInput, TooLarge) as error:
            raise Unauthenticated(f"a claim of the token is wrong: {error.message}") from None
        return Principal(f"jwt:{self._claims.issuer}#{subject}", Grant(scopes, reach), _end(claims["exp"]))


def _header(token: str) -> dict[str, Any]:
    try:
        return jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise Unauthenticated(_DAMAGED) from None


def _check_algorithm(header: Mapping[str, Any], key: IssuerKey) -> None:
    """Says what is wrong where it is the algorithm. Raises Unauthenticated."""
    found = header.get("alg")
    if found != key.algorithm:
        # Its name is said, where it is one: the header is anybody's text.
        named = f"the token is signed by {found}" if found in _ALGORITHMS else "the token names no known algorithm"
        raise Unauthenticated(f"{named}; {key.algorithm} is expected")


def _kid(header: Mapping[str, Any]) -> str | None:
    kid = header.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_CHARS):
        raise Unauthenticated(_DAMAGED)
    return kid


def _words(claims: Mapping[str, Any], claim: str) -> list[str]:
    """The names that a claim holds: a list, or separated by spaces; none without the claim. Raises InvalidInput."""
    value = claims.get(claim)
    if value is None:
        return []
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    raise InvalidInput(f"{claim} must be a list of names, or names separated by spaces")


def _end(exp: object) -> datetime:
    """When the token is worth nothing any more, the leeway included. Raises Unauthenticated."""
    if isinstance(exp, bool) or not isinstance(exp, int | float):
        raise Unauthenticated("exp must be a number")
    try:
        return datetime.fromtimestamp(exp, UTC) + timedelta(seconds=LEEWAY_SECONDS)
    except (OverflowError, ValueError, OSError):
        raise Unauthenticated("exp is outside the years 1 to 9999") from None
