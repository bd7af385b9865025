"""A folder of Markdown as a graph: files and their sections are memories, structure and references are links.

A file's key is its path below the folder, with `/`; a section's is `path#slug`, with the anchor that GitHub
gives the heading. Links: `contains` from a file or section to the sections right below it, `next` from each
section to the one after it, `links_to` for `[[wiki]]` links and relative links to Markdown files. What cannot be
read, and a link whose target is not there, gives a BadRecord: file_too_large, unreadable_file, not_utf8 or
unresolved_link.
"""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from posixpath import dirname, join, normpath, splitext
from urllib.parse import unquote, urlsplit

from sfm_graph.adapters.readers import BadRecord, LinkRecord, MemoryRecord, Record
from sfm_graph.adapters.readers.markdown_sections import Document, Reference, parse_markdown, slug_of

MAX_FILE_BYTES = 20_000_000
_SUFFIXES = (".md", ".markdown")


def read_markdown(root: Path) -> Iterator[Record]:
    """All memories below a folder (or of one file), then all links between them.

    Reads `*.md` and `*.markdown`: a folder's files by name, then its folders by name. Follows no symbolic
    link below `root`, skips hidden names, holds one file's text at a time. Raises FileNotFoundError when there
    is no `root`.
    """
    base = root if root.is_dir() else root.parent
    pages: list[_Page] = []
    for path in _markdown_files(root):
        if isinstance(path, BadRecord):
            yield path
            continue
        key = path.relative_to(base).as_posix()
        text = _read_text(path, key)
        if isinstance(text, BadRecord):
            yield text
            continue
        document = parse_markdown(text)
        page = _page(key, document)
        yield from _memories(page, document)
        pages.append(page)
    targets = _Targets(pages)
    for page in pages:
        yield from _structure(page)
        yield from _references(page, targets)


@dataclass(frozen=True, slots=True)
class _Part:
    """What links need of a section."""

    key: str
    parent: int
    line: int
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class _Page:
    """A file. parts: [0] is the file itself, the others are its sections in order."""

    key: str
    title: str
    parts: list[_Part]


class _Targets:
    """Finds what a link means among the keys that were read; None for what is not there."""

    def __init__(self, pages: list[_Page]) -> None:
        self._keys = {part.key for page in pages for part in page.parts}
        self._paths: dict[str, str] = {}
        self._stems: dict[str, str] = {}
        self._titles: dict[str, str] = {}
        for page in pages:  # of several with one name, the first that was read
            path = splitext(page.key)[0]
            self._paths.setdefault(_folded(path), page.key)
            self._stems.setdefault(_folded(path.rpartition("/")[2]), page.key)
            self._titles.setdefault(_folded(page.title), page.key)

    def wiki(self, source: str, target: str) -> str | None:
        """A page by its path from here or from the root, then by its name, then by its title."""
        name, _, section = target.partition("#")
        name = _folded(name.strip())
        if splitext(name)[1] in _SUFFIXES:
            name = splitext(name)[0]
        page = (
            self._paths.get(_folded(normpath(join(dirname(source), name))))
            or self._paths.get(name)
            or self._stems.get(name)
            or self._titles.get(name)
        )
        return self._part(page if name else source, section.rpartition("#")[2])

    def relative(self, source: str, path: str, anchor: str) -> str | None:
        """A page by its path from `source`, or from the root when the path begins with `/`."""
        below_root = path.lstrip("/") if path.startswith("/") else join(dirname(source), path)
        return self._part(normpath(below_root) if path else source, anchor)

    def _part(self, page: str | None, section: str) -> str | None:
        if page is None:
            return None
        key = f"{page}#{slug_of(section)}" if section.strip() else page
        return key if key in self._keys else None


def _markdown_files(root: Path) -> Iterator[Path | BadRecord]:
    if not root.is_dir():
        if not root.exists():
            raise FileNotFoundError(root)
        yield root
        return
    refused: list[OSError] = []
    for folder, subfolders, names in os.walk(root, onerror=refused.append):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in _SUFFIXES:
                continue
            if path.is_file() and not path.is_symlink():
                yield path
    for error in refused:
        yield BadRecord(1, "unreadable_file", f"{_printable(str(error.filename))}: {error.strerror}")


def _read_text(path: Path, key: str) -> str | BadRecord:
    shown = _printable(key)
    if shown != key:
        return BadRecord(1, "not_utf8", f"{shown}: the path is not UTF-8")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return BadRecord(1, "unreadable_file", f"{shown}: {error.strerror}")
    if len(data) > MAX_FILE_BYTES:
        return BadRecord(1, "file_too_large", f"{shown}: larger than {MAX_FILE_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return BadRecord(line, "not_utf8", f"{shown}: not UTF-8 at byte {error.start}")


def _page(key: str, document: Document) -> _Page:
    named = document.front_matter.get("title") if isinstance(document.front_matter, dict) else None
    first = next((section.title for section in document.sections if section.level == 1), "")
    title = named if isinstance(named, str) and named else first or splitext(key.rpartition("/")[2])[0]
    keys = [key, *(f"{key}#{section.slug}" for section in document.sections[1:])]
    parts = [
        _Part(own_key, section.parent, section.line, section.references)
        for own_key, section in zip(keys, document.sections, strict=True)
    ]
    return _Page(key, title, parts)


def _memories(page: _Page, document: Document) -> Iterator[MemoryRecord]:
    """A section without a text of its own has its title for content: a memory is never empty."""
    headings: list[list[str]] = []
    for part, section in zip(page.parts, document.sections, strict=True):
        headings.append([*headings[section.parent], section.title] if section.level else [])
        payload: dict[str, object] = {"path": page.key, "headings": headings[-1], "level": section.level}
        if not section.level and document.front_matter:
            payload["front_matter"] = document.front_matter
        title = section.title if section.level else page.title
        title = title or part.key
        content = section.text or title
        fields = {"key": part.key, "kind": "semantic", "title": title, "content": content, "payload": payload}
        yield MemoryRecord(part.line, fields)


def _structure(page: _Page) -> Iterator[LinkRecord]:
    for part in page.parts[1:]:
        yield _link(part.line, page.parts[part.parent].key, part.key, "contains")
    for part, following in pairwise(page.parts[1:]):
        yield _link(following.line, part.key, following.key, "next")


def _references(page: _Page, targets: _Targets) -> Iterator[LinkRecord | BadRecord]:
    """Each section's links, one for each target however often it is named, none to itself."""
    for part in page.parts:
        linked = {part.key}
        for reference in part.references:
            if reference.is_wiki:
                target = targets.wiki(page.key, reference.target)
            else:
                address = _relative_address(reference.target)
                if address is None:
                    continue
                target = targets.relative(page.key, *address)
            if target is None:
                message = f"{page.key}: nothing here is called {reference.target[:200]!r}"
                yield BadRecord(reference.line, "unresolved_link", message)
            elif target not in linked:
                linked.add(target)
                yield _link(reference.line, part.key, target, "links_to")


def _relative_address(href: str) -> tuple[str, str] | None:
    """The path and anchor of a relative link to Markdown or to a place in the same file; None for others."""
    try:
        parts = urlsplit(href)
    except ValueError:
        return None
    path = unquote(parts.path)
    to_markdown = path.lower().endswith(_SUFFIXES) or (not path and parts.fragment)
    return (path, unquote(parts.fragment)) if to_markdown and not parts.scheme and not parts.netloc else None


def _link(line: int, source: str, target: str, link_type: str) -> LinkRecord:
    return LinkRecord(line, {"source": {"key": source}, "target": {"key": target}, "link_type": link_type})


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _printable(path: str) -> str:
    return path.encode(errors="backslashreplace").decode()
