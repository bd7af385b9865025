"""Answers of the predictor that are kept for the next time the same is asked."""

from collections import OrderedDict
from hashlib import blake2b
from typing import Final

from sfm_graph.ports.cache import Cache

MAX_BYTES: Final = 8 * 1024**2
MAX_ANSWER_BYTES: Final = 262_144
_ENTRY_BYTES: Final = 300
_SUM_BYTES: Final = 8


class KeptAnswers:
    """In this process, the ones used last; and in the cache that processes share, where there is one."""

    def __init__(self, cache: Cache | None = None, max_bytes: int = MAX_BYTES) -> None:
        self._cache = cache
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, str] = OrderedDict()

    async def find(self, digest: str) -> str | None:
        """The text of an answer; its reader checks it again."""
        found = self._answers.get(digest)
        if found is not None:
            self._answers.move_to_end(digest)
            return found
        if self._cache is None:
            return None
        value = await self._cache.get(_key(digest), most_bytes=_SUM_BYTES + MAX_ANSWER_BYTES)
        text = None if value is None else _read(digest, value)
        if text is not None:
            self._remember(digest, text)
        return text

    async def keep(self, digest: str, text: str) -> None:
        """Keep an answer that was right; not a very long one."""
        data = text.encode()
        if len(data) > MAX_ANSWER_BYTES:
            return
        self._remember(digest, text)
        if self._cache is not None:
            await self._cache.put(_key(digest), _sum(digest, data) + data)

    def drop(self, digest: str) -> None:
        """Forget one that turned out wrong."""
        text = self._answers.pop(digest, None)
        if text is not None:
            self._bytes -= _size(text)

    def _remember(self, digest: str, text: str) -> None:
        self.drop(digest)
        self._answers[digest] = text
        self._bytes += _size(text)
        while self._bytes > self._max_bytes:
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(text: str) -> int:
    return 4 * len(text) + _ENTRY_BYTES


def _key(digest: str) -> str:
    return f"sfm:prediction:{digest}"


def _sum(digest: str, data: bytes) -> bytes:
    """Tells an answer from one of another question, and from a damaged one."""
    return blake2b(digest.encode() + data, digest_size=_SUM_BYTES).digest()


def _read(digest: str, value: bytes) -> str | None:
    data = value[_SUM_BYTES:]
    if value[:_SUM_BYTES] != _sum(digest, data):
        return None
    return data.decode("utf-8", "replace")
