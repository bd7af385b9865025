"""API keys: making, listing and revoking them, and who a token of one belongs to."""

import asyncio
import hmac
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from sfm_graph.domain import access, api_key, validate
from sfm_graph.domain.access import Grant, Principal, Scope
from sfm_graph.domain.api_key import ApiKey, CreatedKey, StoredKey
from sfm_graph.domain.page import Page, cut_page, decode_cursor, encode_cursor
from sfm_graph.errors import Conflict, Forbidden, NotFound, SfmError, Unauthenticated
from sfm_graph.ports.policy import Action, Decision
from sfm_graph.services.access.fact import Fact
from sfm_graph.services.access.guard import caller, needs
from sfm_graph.services.access.key_cache import KNOWN_SECONDS, KeyCache
from sfm_graph.services.view import View
from sfm_graph.store import api_keys
from sfm_graph.store.database import Database, WriteSession

log = logging.getLogger("sfm_graph.audit")

SECRET_BYTES: Final = 32
# How often it is written down when keys were last used.
USE_SECONDS: Final = 60.0
_MAX_ID: Final = 2**63 - 1
# Compared with when there is no such key: the answer takes as long.
_NO_HASH: Final = api_key.secret_hash(secrets.token_urlsafe(SECRET_BYTES))
_WRONG: Final = "the API key is wrong or revoked"


class Keys:
    """The keys of a database. An Authenticator of their tokens, too.

    A key whose grant the caller's own does not cover appears not to exist.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache = KeyCache(self._find)
        self._any = Fact(self._ask_for_any, KNOWN_SECONDS)
        self._used: dict[int, datetime] = {}

    @needs(Scope.ADMIN, target="name")
    async def create(
        self, name: str, *, scopes: Iterable[object], namespaces: Iterable[object], expires_at: datetime | None = None
    ) -> CreatedKey:
        """A new key with its token, which is never shown again.

        Raises InvalidInput, Conflict when a key that is not revoked has the name, Forbidden for a grant that the
        caller's own does not cover.
        """
        checked, until = api_key.name(name), api_key.future(expires_at)
        grant = Grant(access.scopes(scopes), access.reach(namespaces))
        await _require_cover(grant, checked)
        creator, secret = caller().principal.shown, secrets.token_urlsafe(SECRET_BYTES)

        async def work(session: WriteSession) -> ApiKey | None:
            return await api_keys.create(session, checked, api_key.secret_hash(secret), grant, creator, until)

        made = await self._database.write(work)
        if made is None:
            raise Conflict(f"there is an API key {checked!r} already; revoke it first", name=checked)
        self._changed(made.id)
        _say("created", made)
        return CreatedKey(made, api_key.token(made.id, secret))

    @needs(Scope.ADMIN)
    async def list(self, view: View, *, first: int, after: str | None) -> Page[ApiKey]:
        """A page of keys by id, revoked ones too."""
        place = decode_cursor("api_keys", after)
        last = validate.integer(place[0], "cursor", low=0, high=_MAX_ID) if place else 0
        rows = await api_keys.page(view.session, caller().principal.grant, last, first + 1)
        return cut_page(rows, [encode_cursor("api_keys", [row.id]) for row in rows], first)

    @needs(Scope.ADMIN, target="reference")
    async def revoke(self, reference: str) -> ApiKey:
        """Make a key worth nothing: here at once, in other processes within 5 seconds. Again it changes nothing.

        `reference`: its id or its name. Raises NotFound.
        """
        checked = validate.name(reference, "key", max_chars=api_key.MAX_NAME_CHARS)
        is_id = checked.isascii() and checked.isdecimal() and int(checked) <= _MAX_ID
        own = caller().principal.grant

        async def work(session: WriteSession) -> ApiKey:
            found = await api_keys.lock(session, id=int(checked) if is_id else None, name=None if is_id else checked)
            if found is None or not own.covers(found.grant):
                raise NotFound(f"there is no API key {checked!r}", key=checked)
            return await api_keys.revoke(session, found.id)

        revoked = await self._database.write(work)
        self._changed(revoked.id)
        _say("revoked", revoked)
        return revoked

    async def authenticate(self, token: str) -> Principal | None:
        """As the port says. The key is as it was at most 5 seconds ago."""
        if not token.startswith(api_key.PREFIX):
            return None
        given = api_key.read_token(token)
        if given is None:
            raise Unauthenticated(_WRONG)
        id, secret = given
        stored = await self._cache.get(id)
        is_right = hmac.compare_digest(api_key.secret_hash(secret), stored.hash if stored else _NO_HASH)
        if stored is None or not is_right or stored.key.revoked_at is not None:
            raise Unauthenticated(_WRONG)
        now = datetime.now(UTC)
        if stored.key.expires_at is not None and stored.key.expires_at <= now:
            raise Unauthenticated("the API key has expired")
        self._used[id] = now
        return Principal(f"key:{id}", stored.key.grant, stored.key.expires_at, stored.key.name)

    async def grant_of(self, id: int) -> Grant | None:
        """What a key allows, as it was at most 5 seconds ago; None for one that is revoked or has expired."""
        stored = await self._cache.get(id)
        if stored is None or stored.key.revoked_at is not None:
            return None
        expires_at = stored.key.expires_at
        return stored.key.grant if expires_at is None or expires_at > datetime.now(UTC) else None

    async def exist(self) -> bool:
        """Whether there was a key that is not revoked at most 5 seconds ago; as this process left it, at once."""
        return await self._any.holds()

    async def run(self) -> None:
        """Write down every minute which keys were used."""
        while True:
            await asyncio.sleep(USE_SECONDS)
            await self.note_use()

    async def note_use(self) -> None:
        """Write down which keys were used since the last time; what cannot be written is kept for the next."""
        used, self._used = self._used, {}
        if not used:
            return

        async def work(session: WriteSession) -> None:
            await api_keys.used(session, used)

        try:
            await self._database.write(work)
        except SfmError as error:
            self._used = used | self._used
            log.warning("when API keys were last used could not be written down: %s", error.message)

    async def aclose(self) -> None:
        """Note the last uses, end look-ups."""
        await self.note_use()
        await self._cache.aclose()

    def _changed(self, id: int) -> None:
        self._cache.drop(id)
        self._any.forget()

    async def _find(self, ids: Sequence[int]) -> Mapping[int, StoredKey]:
        async with self._database.read() as session:
            return await api_keys.by_ids(session, ids)

    async def _ask_for_any(self) -> bool:
        row = await self._database.single("api_keys_any")
        return row is not None and bool(row[0])


async def _require_cover(grant: Grant, name: str) -> None:
    """Nobody hands out more than they have. Raises Forbidden."""
    who = caller()
    if who.principal.grant.covers(grant):
        return
    denied = Decision(False, "a key may only be given scopes and namespaces that its maker has")
    if who.audit is not None:
        await who.audit.record(who.principal, Action("keys.create", Scope.ADMIN, None, name), denied)
    raise Forbidden(denied.reason, action="keys.create", scope=Scope.ADMIN.value)


def _say(what: str, key: ApiKey) -> None:
    log.info("API key %d (%s) was %s by %s", key.id, key.name, what, caller().principal.shown)
