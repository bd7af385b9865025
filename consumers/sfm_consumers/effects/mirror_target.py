"""Writing into the mirror's target over its HTTP API. What is written twice is there once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from sfm_consumers.contract import Retry, printable
from sfm_consumers.effects.mirror_http import Refused, Remote
from sfm_consumers.effects.mirror_rows import MEMORY_FIELDS, Row

CHUNK = 500
# Well below the least that SFM_MAX_BODY_BYTES is set to in practice; one memory with its payload has at most 2 MB.
CHUNK_BYTES = 4 * 1024**2
_LINK_FIELDS = {
    "type": "type", "weight": "weight", "properties": "properties", "validFrom": "valid_from", "validTo": "valid_to"
}  # fmt: skip
_LINK_MANY = """
mutation MirrorLinks($input: LinkManyInput!) {
  linkMany(input: $input) { failed { index code message } stored { link { id } } }
}"""

LinkRow = tuple[Row, str, str]


@dataclass(slots=True)
class Outcome:
    """What became of rows: those stored with their ids, those refused with the reason."""

    done: list[tuple[Row, str]] = field(default_factory=list)
    refused: list[tuple[Row, str]] = field(default_factory=list)


class MirrorTarget:
    """The target service. Every method raises Retry."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    async def settings(self, namespace: str, settings: Mapping[str, Any]) -> None:
        """Make the namespace with these settings, or give it them; a refusal too is a Retry."""
        try:
            await self._remote.call("PUT", f"/namespaces/{quote(namespace, safe='')}", body={"settings": settings})
        except Refused as error:
            raise Retry(f"the target refuses the settings of {namespace!r}: {error}") from error

    async def store(self, namespace: str, rows: Sequence[Row]) -> Outcome:
        """Store memories, those refused apart."""
        outcome = Outcome()
        for chunk in _chunks(rows):
            await self._store(namespace, chunk, outcome)
        return outcome

    async def link(self, namespace: str, rows: Sequence[LinkRow]) -> Outcome:
        """Make links between memories that are there, those refused apart."""
        outcome = Outcome()
        for place in range(0, len(rows), CHUNK):
            await self._link(namespace, rows[place : place + CHUNK], outcome)
        return outcome

    async def remove(self, namespace: str, rows: Sequence[Row], *, erase: bool) -> None:
        """Forget or erase memories with their links; those that are not there are no error."""
        for place in range(0, len(rows), CHUNK):
            coords = [_reference(row) for row in rows[place : place + CHUNK]]
            body = {"namespace": namespace, "coords": coords, "erase": erase}
            try:
                await self._remote.call("POST", "/delete_many", body=body)
            except Refused as error:
                raise Retry(f"the target refuses to forget: {error}") from error

    async def unlink(self, namespace: str, link_id: str) -> None:
        """Remove a link; one that is not there is no error."""
        try:
            await self._remote.call("DELETE", "/link", query={"namespace": namespace, "id": link_id})
        except Refused as error:
            raise Retry(f"the target refuses to unlink: {error}") from error

    async def _store(self, namespace: str, rows: Sequence[Row], outcome: Outcome) -> None:
        items = [{name: row.body[name] for name in MEMORY_FIELDS if row.body[name] is not None} for row in rows]
        body = {"namespace": namespace, "items": items, "partial": True}
        try:
            answer = await self._remote.call("POST", "/store_bulk", body=body)
        except Refused as error:
            if len(rows) == 1:
                outcome.refused.append((rows[0], str(error)))
                return
            for row in rows:  # which one of them it is shows by themselves
                await self._store(namespace, [row], outcome)
            return
        _sort(rows, answer["failed"], [one["id"] for one in answer["memories"]], outcome)

    async def _link(self, namespace: str, rows: Sequence[LinkRow], outcome: Outcome) -> None:
        items = [_link_item(*row) for row in rows]
        try:
            answer = await self._remote.graphql(
                _LINK_MANY, input={"namespace": namespace, "items": items, "partial": True}
            )
        except Refused as error:
            if len(rows) == 1:
                outcome.refused.append((rows[0][0], str(error)))
                return
            for row in rows:
                await self._link(namespace, [row], outcome)
            return
        done = answer["linkMany"]
        _sort([row[0] for row in rows], done["failed"], [one["link"]["id"] for one in done["stored"]], outcome)


def _sort(rows: Sequence[Row], failed: Sequence[Mapping[str, Any]], ids: Sequence[str], outcome: Outcome) -> None:
    reasons = {int(one["index"]): printable(f"{one['code']}: {one['message']}") for one in failed}
    stored = [row for place, row in enumerate(rows) if place not in reasons]
    if len(stored) != len(ids):
        raise Retry(f"the target answered with {len(ids)} ids for {len(stored)} rows")
    outcome.done += zip(stored, ids, strict=True)
    outcome.refused += [(rows[place], reason) for place, reason in sorted(reasons.items())]


def _chunks(rows: Sequence[Row]) -> list[list[Row]]:
    chunks: list[list[Row]] = []
    size = CHUNK_BYTES
    for row in rows:
        nbytes = len(orjson.dumps(row.body))
        if size + nbytes > CHUNK_BYTES or len(chunks[-1]) == CHUNK:
            chunks.append([])
            size = 0
        chunks[-1].append(row)
        size += nbytes
    return chunks


def _link_item(row: Row, source: str, target: str) -> dict[str, Any]:
    fields = {name: row.body.get(own) for name, own in _LINK_FIELDS.items()}
    given = {name: value for name, value in fields.items() if value is not None}
    return {"source": {"id": source}, "target": {"id": target}, **given}


def _reference(row: Row) -> dict[str, Any]:
    return {"id": row.remote} if row.remote is not None else {"coordinate": row.place}
