"""JSON Web Tokens: which are taken, which forgeries are not, and an issuer that is away."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from scripted_server import Reply, scripted_server
from served import until

from sfm_graph.adapters.tokens.issuer_keys import IssuerKey, KeyFile, of_key, of_key_set
from sfm_graph.adapters.tokens.jwt import Claims, JwtAuthenticator
from sfm_graph.adapters.tokens.key_set import KeySet
from sfm_graph.domain.access import Principal, Reach, Scope
from sfm_graph.errors import SettingsError, Unauthenticated, Unavailable
from sfm_graph.runtime import open_runtime
from sfm_graph.settings import Settings

ISSUER, AUDIENCE = "https://issuer.example", "sfm"
RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
KINDS: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}


def claims(**changed: Any) -> dict[str, Any]:
    """A good token's claims; None leaves one out."""
    given = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": int(time.time()) + 600, "scope": "openid read write",
        "sfm_namespaces": ["team/*"], **changed,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


def sign(algorithm: str = "RS256", key: Any = None, headers: Mapping[str, Any] | None = None, **changed: Any) -> str:
    return jwt.encode(claims(**changed), key or KINDS[algorithm], algorithm=algorithm, headers=dict(headers or {}))


def pem(private: Any) -> bytes:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def raw(
    header: Mapping[str, Any] | bytes, payload: Mapping[str, Any] | bytes, signature: Callable[[bytes], bytes]
) -> str:
    """A token as nobody's library would make it."""
    parts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in (header, payload)]
    signed = b".".join(base64.urlsafe_b64encode(one).rstrip(b"=") for one in parts)
    return (signed + b"." + base64.urlsafe_b64encode(signature(signed)).rstrip(b"=")).decode()


def key_file(tmp_path: Path, private: Any = RSA) -> KeyFile:
    path = tmp_path / "issuer.pem"
    path.write_bytes(pem(private))
    return KeyFile(path)


@pytest.fixture
def by_file(tmp_path: Path) -> JwtAuthenticator:
    """Takes tokens that the RSA key signed."""
    return JwtAuthenticator(key_file(tmp_path), Claims(ISSUER, AUDIENCE))


# What is taken


@pytest.mark.parametrize("algorithm", KINDS)
async def test_tokens_of_each_kind_of_key(tmp_path: Path, algorithm: str) -> None:
    authenticator = JwtAuthenticator(key_file(tmp_path, KINDS[algorithm]), Claims(ISSUER, AUDIENCE))
    found = await authenticator.authenticate(sign(algorithm))
    assert found is not None
    assert found.name == f"jwt:{ISSUER}#ada"
    assert found.grant.scopes == {Scope.READ, Scope.WRITE}
    assert found.grant.reach == Reach(("team/*",))
    assert found.expires_at is not None
    assert abs(found.expires_at.timestamp() - time.time() - 630) < 60
    for other in KINDS.keys() - {algorithm}:
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(sign(other))


async def grant(authenticator: JwtAuthenticator, **changed: Any) -> tuple[set[str], tuple[str, ...]]:
    found = await authenticator.authenticate(sign(**changed))
    assert found is not None
    return {one.value for one in found.grant.scopes}, found.grant.reach.patterns


async def test_scopes_and_namespaces_are_lists_or_words(by_file: JwtAuthenticator) -> None:
    assert await grant(by_file, scope=["read", "root"], sfm_namespaces="a b/*") == ({"read"}, ("a", "b/*"))
    assert await grant(by_file, scope=" admin  subscribe ") == ({"admin", "subscribe"}, ("team/*",))
    # What a token does not say, it does not have.
    assert await grant(by_file, scope=None) == (set(), ("team/*",))
    assert await grant(by_file, sfm_namespaces=None) == ({"read", "write"}, ())
    assert await grant(by_file, scope="", sfm_namespaces=[]) == (set(), ())
    named = JwtAuthenticator(by_file._keys, Claims(ISSUER, AUDIENCE, scopes="roles", namespaces="spaces"))
    assert await grant(named, roles=["write"], spaces="x") == ({"write"}, ("x",))


async def test_an_audience_among_several_and_clocks_that_differ(by_file: JwtAuthenticator) -> None:
    now = int(time.time())
    assert await by_file.authenticate(sign(aud=["other", AUDIENCE]))
    assert await by_file.authenticate(sign(exp=now - 10, nbf=now + 20, iat=now + 20))


async def test_other_kinds_of_tokens_are_not_its_own(by_file: JwtAuthenticator) -> None:
    for token in ("", "a.b", "a.b.c.d", "sfm_1_" + "x" * 43, "0123456789abcdef", "\u00e9.\u00e9.\u00e9", "\ud800..."):
        assert await by_file.authenticate(token) is None


# What is not


async def refused(authenticator: JwtAuthenticator, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.authenticate(token)
    assert token not in str(caught.value)
    return str(caught.value)


async def test_a_public_key_is_no_secret(by_file: JwtAuthenticator) -> None:
    # The library refuses to sign so; whoever forges does not ask it.
    for digest, algorithm in ((hashlib.sha256, "HS256"), (hashlib.sha512, "HS512")):
        for secret in (pem(RSA), pem(RSA).strip(), b""):
            forged = raw(
                {"alg": algorithm, "typ": "JWT"}, claims(), lambda text, s=secret, d=digest: hmac.digest(s, text, d)
            )
            await refused(by_file, forged)


async def test_no_signature_is_none(by_file: JwtAuthenticator) -> None:
    for algorithm in ("none", "None", "NONE", "nOnE", "", None, 0, ["RS256"], {"a": 1}):
        await refused(by_file, raw({"alg": algorithm}, claims(), lambda _: b""))
        await refused(by_file, raw({"alg": algorithm}, claims(), lambda text: hmac.digest(pem(RSA), text, "sha256")))
    await refused(by_file, raw({}, claims(), lambda _: b""))
    header, payload, _ = sign().split(".")
    await refused(by_file, f"{header}.{payload}.")


async def test_what_the_token_says_of_its_key_counts_for_nothing(by_file: JwtAuthenticator) -> None:
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_RSA.public_key()))
    for header in ({"jwk": public}, {"jku": "http://127.0.0.1:1/keys"}, {"x5u": "http://127.0.0.1:1/"}):
        await refused(by_file, sign(key=OTHER_RSA, headers=header))
    await refused(by_file, sign(headers={"crit": ["unheard-of"], "unheard-of": 1}))


async def test_a_changed_token(by_file: JwtAuthenticator) -> None:
    header, _, signature = sign().split(".")
    payload = base64.urlsafe_b64encode(json.dumps(claims(sub="root")).encode()).decode().rstrip("=")
    await refused(by_file, f"{header}.{payload}.{signature}")
    await refused(by_file, sign(key=OTHER_RSA))


NOW = int(time.time())


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"iss": "https://other.example"}, "another issuer"),
        ({"iss": ISSUER + "/"}, "another issuer"),
        ({"iss": None}, "lacks the claim iss"),
        ({"aud": "other"}, "another audience"),
        ({"aud": ["other", "sfm2"]}, "another audience"),
        ({"aud": None}, "lacks the claim aud"),
        ({"aud": {"sfm": 1}}, "another audience"),
        ({"exp": NOW - 3_600}, "expired"),
        ({"exp": None}, "lacks the claim exp"),
        ({"exp": True}, "expired"),
        ({"exp": str(NOW + 3_600)}, "exp must be a number"),
        ({"exp": 10**17}, "outside the years"),
        ({"exp": 10**400}, ""),
        ({"exp": float("inf")}, "damaged"),
        ({"exp": float("nan")}, "damaged"),
        ({"exp": [NOW + 3_600]}, "damaged"),
        ({"nbf": NOW + 3_600}, "not valid yet"),
        ({"nbf": "soon"}, "damaged"),
        ({"iat": NOW + 3_600}, "not valid yet"),
        ({"sub": None}, "lacks the claim sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "damaged"),
        ({"sub": ["ada"]}, "damaged"),
        ({"sub": "a\nb"}, "sub"),
        ({"sub": "x" * 257}, "sub"),
        ({"scope": 7}, "scope"),
        ({"scope": {"read": True}}, "scope"),
        ({"scope": ["read", 7]}, "scope"),
        ({"scope": [["read"]]}, "scope"),
        ({"sfm_namespaces": {"a": 1}}, "sfm_namespaces"),
        ({"sfm_namespaces": ["a", None]}, "sfm_namespaces"),
        ({"sfm_namespaces": ["a*b"]}, "pattern"),
        ({"sfm_namespaces": ["x" * 200]}, "namespace"),
        ({"sfm_namespaces": [f"n{number}" for number in range(101)]}, "namespaces"),
        ({"sfm_namespaces": [""]}, "namespace"),
        ({"jti": 7}, "damaged"),
    ],
)
async def test_claims_that_are_wrong(by_file: JwtAuthenticator, changed: dict[str, Any], why: str) -> None:
    assert why in await refused(by_file, sign(**changed))


async def test_junk(by_file: JwtAuthenticator) -> None:
    def signed(payload: bytes) -> str:
        algorithm = jwt.get_algorithm_by_name("RS256")
        return raw(b'{"alg":"RS256"}', payload, lambda text: algorithm.sign(text, RSA))

    nested = b"[" * 4_000 + b"]" * 4_000
    for payload in (b"", b"null", b"[]", b'"x"', b"\xff\xfe", b"{", nested, b'{"exp":' + nested + b"}"):
        await refused(by_file, signed(payload))
    for header in (b"", b"null", b"[]", b"\xff", b'{"alg":"RS256","kid":7}', b'{"alg":"RS256","kid":{}}', nested,
                   b'{"alg":"RS256","kid":"' + b"k" * 300 + b'"}', b'{"alg":' + b"1" * 5_000 + b"}"):  # fmt: skip
        await refused(by_file, raw(header, claims(), lambda _: b"x" * 256))
    for token in ("..", "a..", ".a.", "!!.!!.!!", "a.b.c", "=.=.=", " . . "):
        await refused(by_file, token)


async def test_a_huge_token_is_not_even_parsed(by_file: JwtAuthenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = sign(extra="x" * 20_000)

    def never(*_: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(jwt, "get_unverified_header", never)
    assert "too long" in await refused(by_file, huge)


async def test_only_the_issuers_tokens_are_told_what_they_lack(by_file: JwtAuthenticator) -> None:
    assert (
        await refused(by_file, sign(key=OTHER_RSA, exp=None)) == "the token is damaged, or not signed by the issuer"
    )


async def test_another_algorithm_is_named(by_file: JwtAuthenticator) -> None:
    forged = raw({"alg": "<b>RS256</b>"}, claims(), lambda _: b"x" * 256)
    assert await refused(by_file, sign("RS512", RSA)) == "the token is signed by RS512; RS256 is expected"
    assert await refused(by_file, forged) == "the token names no known algorithm; RS256 is expected"


# Keys


def test_key_files(tmp_path: Path) -> None:
    weak = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
    private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path / "key.pem"
    for content in (b"", b"junk", private, pem(weak), pem(ec.generate_private_key(ec.SECP384R1())), b"\xff" * 100_000,
                    b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(SettingsError, match="SFM_JWT_PUBLIC_KEY_FILE"):
            KeyFile(path)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(SettingsError, match="cannot read"):
            KeyFile(missing)


def jwk(private: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    names = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    name = next(name for kind, name in names.items() if isinstance(private, kind))
    found: dict[str, Any] = jwt.get_algorithm_by_name(name).to_jwk(private.public_key(), as_dict=True)
    found.pop("key_ops", None)
    return {**found, **({"kid": kid} if kid else {}), **more}


def test_keys_that_are_passed_over() -> None:
    private = jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True)
    junk: list[Any] = [
        None, 7, "x", [], {}, {"kty": 7}, {"kty": "RSA"}, {"kty": "RSA", "n": 5, "e": 7},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {"kty": "RSA", "n": "!", "e": "!"}, {"kty": "oct", "k": "AAAA"},
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}, {"kty": "EC", "crv": "P-256", "x": 7, "y": []},
        {"kty": "OKP", "crv": "X25519", "x": "AAAA"}, {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
        {"kty": "OKP", "crv": ["Ed25519"]}, {**private, "kid": "p"}, jwk(RSA, "e", use="enc"),
        jwk(RSA, "h", alg="HS256"), jwk(RSA, "r", alg="RS512"), {**jwk(RSA), "kid": 7},
        {**jwk(RSA), "n": "A" * 100_000},
    ]  # fmt: skip
    assert of_key_set({"keys": [*junk, jwk(RSA, "good"), jwk(EC, "ec", use="sig"), jwk(ED, "ed", alg="EdDSA")]}) == (
        of_key("good", RSA.public_key()), of_key("ec", EC.public_key()), of_key("ed", ED.public_key()),
    )  # fmt: skip
    for document in (None, 7, [], {}, {"keys": None}, {"keys": {}}, {"keys": "x"}, {"keys": junk}):
        assert of_key_set(document) == ()
    assert len(of_key_set({"keys": [jwk(ED, f"k{number}") for number in range(150)]})) == 100


class Issuer:
    """Publishes keys, and counts how often it is asked; `fails`: how it answers instead."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.fails: httpx.Response | Exception | None = None
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        await self.free.wait()
        if isinstance(self.fails, Exception):
            raise self.fails
        return self.fails or httpx.Response(200, json={"keys": self.keys})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def key_set(issuer: Issuer, clock: Clock | None = None) -> AsyncIterator[KeySet]:
    found = KeySet("https://issuer.example/jwks", transport=httpx.MockTransport(issuer), clock=clock or Clock())
    try:
        yield found
    finally:
        await found.aclose()


async def kid_of(keys: KeySet, kid: str | None) -> str | None:
    found: IssuerKey | None = await keys.find(kid)
    return found.kid if found else None


async def test_keys_by_their_names() -> None:
    async with key_set(Issuer(jwk(RSA, "a"), jwk(EC, "b"))) as keys:
        authenticator = JwtAuthenticator(keys, Claims(ISSUER, AUDIENCE))
        assert await authenticator.authenticate(sign(headers={"kid": "a"}))
        assert await authenticator.authenticate(sign("ES256", headers={"kid": "b"}))
        # Of another key, by a key's name; by no name where there are two; by an unknown one.
        for token in (
            sign(headers={"kid": "b"}), sign("ES256", headers={"kid": "a"}),
            sign(key=OTHER_RSA, headers={"kid": "a"}), sign(), sign(headers={"kid": "c"}), sign(headers={"kid": ""}),
        ):  # fmt: skip
            await refused(authenticator, token)
    async with key_set(Issuer(jwk(RSA))) as keys:
        assert await JwtAuthenticator(keys, Claims(ISSUER, AUDIENCE)).authenticate(sign())


async def test_an_unknown_name_asks_again_every_30_seconds_at_most() -> None:
    issuer, clock = Issuer(jwk(RSA, "a")), Clock()
    async with key_set(issuer, clock) as keys:
        assert await kid_of(keys, "a") == "a"
        for _ in range(20):
            assert await kid_of(keys, "new") is None
        assert issuer.asked == 1
        issuer.keys.append(jwk(EC, "new"))
        clock.now = 29
        assert await kid_of(keys, "new") is None
        clock.now = 31
        assert await asyncio.gather(*(kid_of(keys, "new") for _ in range(20))) == ["new"] * 20
        assert issuer.asked == 2


async def test_keys_are_fetched_again_in_the_background() -> None:
    issuer, clock = Issuer(jwk(RSA, "a")), Clock()
    async with key_set(issuer, clock) as keys:
        assert await kid_of(keys, "a") == "a"
        issuer.keys, clock.now = [jwk(RSA, "b")], 299
        assert await kid_of(keys, "a") == "a"
        assert issuer.asked == 1
        clock.now = 301
        issuer.free.clear()
        # Nobody waits for it.
        async with asyncio.timeout(30):
            assert [await kid_of(keys, "a") for _ in range(5)] == ["a"] * 5
        issuer.free.set()
        await until(lambda: not keys._is_fetching)
        assert issuer.asked == 2
        assert await kid_of(keys, "b") == "b"
        assert await kid_of(keys, "a") is None


async def test_after_a_long_silence_a_withdrawn_key_is_not_taken() -> None:
    issuer, clock = Issuer(jwk(RSA, "a")), Clock()
    async with key_set(issuer, clock) as keys:
        assert await kid_of(keys, "a") == "a"
        issuer.keys, clock.now = [jwk(RSA, "b")], 3_600
        assert await kid_of(keys, "a") is None


PADDED = json.dumps({"keys": [jwk(RSA, "a")]}).encode() + b" " * 1_000_001
BROKEN = [
    httpx.ConnectError("away"), httpx.Response(500), httpx.Response(200, content=PADDED),
    httpx.Response(302, headers={"location": "https://evil.example"}), httpx.Response(200, text="<html>"),
    httpx.Response(200, json={"keys": []}), httpx.Response(200, json={"keys": [{"kty": "oct", "k": "AAAA"}]}),
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
async def test_an_issuer_that_is_away(broken: httpx.Response | Exception) -> None:
    issuer, clock = Issuer(jwk(RSA, "a")), Clock()
    issuer.fails = broken
    async with key_set(issuer, clock) as keys:
        authenticator = JwtAuthenticator(keys, Claims(ISSUER, AUDIENCE))
        for _ in range(10):
            with pytest.raises(Unavailable):
                await authenticator.authenticate(sign(headers={"kid": "a"}))
        assert issuer.asked == 1
        issuer.fails, clock.now = None, 1.5
        assert await authenticator.authenticate(sign(headers={"kid": "a"}))
        # Later: what is known stays good, what is not cannot be told from a key that is new.
        issuer.fails = broken
        for clock.now in (400, 4_000, 40_000):
            assert await authenticator.authenticate(sign(headers={"kid": "a"}))
        with pytest.raises(Unavailable):
            await authenticator.authenticate(sign(headers={"kid": "new"}))


async def test_who_goes_takes_no_other_with_them() -> None:
    issuer = Issuer(jwk(RSA, "a"))
    issuer.free.clear()
    async with key_set(issuer) as keys:
        one, other = asyncio.create_task(keys.find("a")), asyncio.create_task(keys.find("a"))
        await until(lambda: issuer.asked == 1)
        one.cancel()
        await asyncio.wait([one])
        issuer.free.set()
        assert one.cancelled()
        assert await other is not None


async def test_closing_while_keys_are_fetched() -> None:
    issuer = Issuer(jwk(RSA, "a"))
    issuer.free.clear()
    async with asyncio.timeout(30):
        async with key_set(issuer) as keys:
            waiting = asyncio.create_task(keys.find("a"))
            await until(lambda: issuer.asked == 1)
        await asyncio.wait([waiting])


# Over HTTP, in the service


async def test_a_service_that_takes_tokens_of_an_issuer(settings: Settings) -> None:
    with scripted_server() as server:
        server.script(Reply({"keys": [jwk(EC, "k")]}))
        changed = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks_url": f"{server.url}/jwks"}
        async with open_runtime(settings.model_copy(update=changed), maintenance=False) as services:
            assert await services.authentication.required()
            one = await services.authentication.caller(sign("ES256", headers={"kid": "k"}))
            assert isinstance(one.principal, Principal)
            assert one.principal.name == f"jwt:{ISSUER}#ada"
            assert one.renew is not None
            assert await one.renew() == one.principal
            for token in (None, sign("ES256", headers={"kid": "k"}, exp=NOW - 3_600), "a.b.c"):
                with pytest.raises(Unauthenticated):
                    await services.authentication.caller(token)
        assert [request.path for request in server.requests] == ["/jwks"]


async def test_the_documented_claims_are_taken(by_file: JwtAuthenticator) -> None:
    page = (Path(__file__).parent.parent / "docs" / "access.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    found = await by_file.authenticate(jwt.encode(json.loads(example), RSA, algorithm="RS256"))
    assert found is not None
    assert (found.name, found.grant.reach.patterns) == (f"jwt:{ISSUER}#ada", ("team/*", "docs"))
    assert found.grant.scopes == {Scope.READ, Scope.WRITE}
