"""`python -m sfm_consumers.effects.mirror_verify SOURCE_URL TARGET_URL --namespace X`: whether two are equal."""

import argparse
import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from sfm_consumers.contract import Retry
from sfm_consumers.effects.mirror_http import Refused, Remote
from sfm_consumers.effects.mirror_source import pages
from sfm_consumers.effects.options import Given
from sfm_graph.errors import SettingsError

MAX_SHOWN = 100
_MEMORY_FIELDS = ("key", "kind", "title", "content", "payload", "importance", "valid_from", "valid_to")
_LINK_FIELDS = ("weight", "properties", "valid_to")

Rows = dict[str, bytes]


async def rows_of(remote: Remote, namespace: str, *, made: bool = True) -> Rows:
    """What a namespace holds as canonical JSON by name, without what a mirror does not copy.

    A memory is named by its coordinate, a link by its ends, type and valid_from. Without `made`, linkers' links stay
    out. Raises Retry, Refused.
    """
    places: dict[int, Any] = {}
    rows: Rows = {}
    links: list[Mapping[str, Any]] = []
    async for page in pages(remote, namespace):
        for memory in page.memories:
            places[memory["id"]] = memory["coordinate"]
            rows[f"memory {_text(memory['coordinate'])}"] = _row(memory, _MEMORY_FIELDS)
        links += [link for link in page.links if made or link["maker"] is None]
    for link in links:
        ends = [places.get(link["source_id"]), places.get(link["target_id"])]
        rows[f"link {_text([*ends, link['type'], link['valid_from']])}"] = _row(link, _LINK_FIELDS)
    return rows


def differences(source: Rows, target: Rows) -> Iterator[str]:
    """What is missing, what is too much, what differs, by name."""
    for name in sorted(source.keys() | target.keys()):
        if name not in target:
            yield f"missing in the target: {name}"
        elif name not in source:
            yield f"only in the target: {name}"
        elif source[name] != target[name]:
            yield f"different: {name}: {source[name].decode()} became {target[name].decode()}"


async def compare(given: argparse.Namespace) -> int:
    """Read both, print what differs; how much does."""
    made = given.links == "all"
    tokens = Given("mirror", {}, ())
    source = Remote(given.source, tokens.secret("source_token"), given.timeout)
    target = Remote(given.target, tokens.secret("token"), given.timeout)
    try:
        wanted = await rows_of(source, given.namespace, made=made)
        found = await rows_of(target, given.target_namespace or given.namespace, made=made)
    finally:
        await source.aclose()
        await target.aclose()
    count = 0
    for count, line in enumerate(differences(wanted, found), start=1):
        if count <= MAX_SHOWN:
            sys.stdout.write(f"{line}\n")
    if not wanted and not found:
        sys.stdout.write(f"neither has anything in {given.namespace!r}: is that its name?\n")
    sys.stdout.write(f"{len(wanted)} rows in the source, {len(found)} in the target, {count} differences\n")
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: equal; 1: not; 2: one of them cannot be read."""
    parser = argparse.ArgumentParser(prog="mirror_verify", description="Compare a namespace of two services.")
    parser.add_argument("source", help="the source's URL")
    parser.add_argument("target", help="the target's URL")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--target-namespace", help="its name in the target, where that is another")
    parser.add_argument("--links", choices=("all", "callers"), default="all", help="what the mirror copies")
    parser.add_argument("--timeout", type=float, default=60.0, help="of one request, in seconds")
    try:
        return 1 if asyncio.run(compare(parser.parse_args(arguments))) else 0
    except (Retry, Refused, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _row(state: Mapping[str, Any], fields: Sequence[str]) -> bytes:
    return orjson.dumps({name: state[name] for name in fields}, option=orjson.OPT_SORT_KEYS)


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


if __name__ == "__main__":
    sys.exit(main())
