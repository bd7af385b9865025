import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm_graph.adapters.readers import BadRecord, LinkRecord, MemoryRecord, Record, markdown
from sfm_graph.adapters.readers.markdown import read_markdown
from sfm_graph.adapters.readers.markdown_sections import parse_markdown, slug_of
from sfm_graph.adapters.readers.ndjson import LineBuffer, parse_line, read_lines, read_ndjson


def _one(line: str | bytes) -> Record | None:
    return parse_line(1, line.encode() if isinstance(line, str) else line)


def _code(line: str | bytes) -> str:
    record = _one(line)
    assert isinstance(record, BadRecord)
    return record.code


def test_ndjson_reads_memories_links_and_documents() -> None:
    lines = [
        b'\xef\xbb\xbf{"type": "memory", "key": "a", "content": "x", "payload": {"n": 1}}\n',
        b"  \r\n",
        b'{"type": "link", "source": {"key": "a"}, "target": {"id": "7"}, "link_type": "cites", "weight": 2}\r\n',
        b'{"id": "d", "text": "body", "metadata": {"title": "Name", "n": 2}, "namespace": "ns"}',
        b'{"id": 12, "text": ""}',
        b"oops",
    ]
    ends = {"source": {"key": "a"}, "target": {"id": "7"}}
    *records, last = read_ndjson(lines)
    assert records == [
        MemoryRecord(1, {"key": "a", "content": "x", "payload": {"n": 1}}),
        LinkRecord(3, {**ends, "link_type": "cites", "weight": 2}),
        MemoryRecord(
            4,
            {"key": "d", "content": "body", "title": "Name", "payload": {"title": "Name", "n": 2}, "namespace": "ns"},
        ),
        MemoryRecord(5, {"key": "12", "content": "", "payload": {}}),
    ]
    assert isinstance(last, BadRecord)
    assert (last.line, last.code) == (6, "invalid_json")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"a": 1} {"b": 2}',
        "NaN",
        '{"type": "memory", "importance": 1e400}',
        '{"type": "memory", "content": "\\ud800"}',
        b'{"type": "memory", "content": "\xed\xa0\x80"}',
        b'{"type": "memory", "content": "\xff"}',
        '{"type": "memory", "payload": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "{" + '"a":{' * 2_000 + "}" * 2_001,
    ],
)
def test_ndjson_refuses_what_is_not_json(line: str | bytes) -> None:
    assert _code(line) == "invalid_json"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("[]", "unknown_record"),
        ("7", "unknown_record"),
        ("{}", "unknown_record"),
        ('{"content": "no type"}', "unknown_record"),
        ('{"type": "edge", "text": "x"}', "unknown_record"),
        ('{"type": ["memory"]}', "unknown_record"),
        ('{"type": "link", "source": {"key": "a"}, "link_type": "x"}', "invalid_link"),
        ('{"type": "link", "source": "a", "target": {"key": "b"}, "link_type": "x"}', "invalid_link"),
        ('{"type": "link", "source": {}, "target": {}, "link_type": 3}', "invalid_link"),
        ('{"id": "a", "text": 7}', "invalid_document"),
        ('{"id": true, "text": "x"}', "invalid_document"),
        ('{"id": "a", "text": "x", "metadata": []}', "invalid_document"),
        ('{"id": "a", "text": "x", "namespace": {}}', "invalid_document"),
    ],
)
def test_ndjson_names_what_is_wrong(line: str, code: str) -> None:
    assert _code(line) == code


@given(st.binary(max_size=200))
def test_ndjson_never_raises(line: bytes) -> None:
    record = parse_line(3, line)
    assert record is None or record.line == 3


def test_a_line_that_is_too_long_is_refused_and_its_rest_dropped() -> None:
    stream = io.BytesIO(b'{"type":"memory"}\n' + b"x" * 1_000_000 + b'\n{"type":"memory"}')
    lines = list(read_lines(stream, max_line_bytes=100))
    assert [len(line) for line in lines] == [17, 101, 17]
    kinds = [record.code if isinstance(record, BadRecord) else "memory" for record in read_ndjson(lines, 100)]
    assert kinds == ["memory", "line_too_long", "memory"]
    assert isinstance(parse_line(1, b'{"type":"memory"}\r\n', 17), MemoryRecord)


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"bc\nd", b"\n\n", b"e" * 9]), max_size=12))
def test_lines_do_not_depend_on_the_chunks(chunks: list[bytes]) -> None:
    buffer = LineBuffer(max_line_bytes=5)
    lines = [line for chunk in chunks for line in buffer.feed(chunk)] + buffer.close()
    expected = b"".join(chunks).split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert lines == [line[:6] for line in expected]


def _folder(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def _memories(records: list[Record]) -> dict[str, dict[str, Any]]:
    return {record.fields["key"]: record.fields for record in records if isinstance(record, MemoryRecord)}


def _links(records: list[Record], link_type: str) -> list[tuple[str, str]]:
    return [
        (record.fields["source"]["key"], record.fields["target"]["key"])
        for record in records
        if isinstance(record, LinkRecord) and record.fields["link_type"] == link_type
    ]


def _refused(records: list[Record]) -> list[tuple[int, str]]:
    return [(record.line, record.code) for record in records if isinstance(record, BadRecord)]


GUIDE = """\
---
title: The guide
tags: [a, "b c"]
aliases:
  - one
---
Preface.

# Start `here`

Intro.

## Install

Run it.

```sh
# not a heading, [[nor a link]]
```

### Linux
## Use

Used.

Install
=======
Again.
"""


def test_markdown_sections_are_memories_and_structure_is_links(tmp_path: Path) -> None:
    records = list(read_markdown(_folder(tmp_path, {"sub/guide.md": GUIDE})))
    memories = _memories(records)
    assert list(memories) == [
        "sub/guide.md",
        "sub/guide.md#start-here",
        "sub/guide.md#install",
        "sub/guide.md#linux",
        "sub/guide.md#use",
        "sub/guide.md#install-1",
    ]
    assert memories["sub/guide.md"] == {
        "key": "sub/guide.md",
        "kind": "semantic",
        "title": "The guide",
        "content": "Preface.",
        "payload": {
            "path": "sub/guide.md",
            "headings": [],
            "level": 0,
            "front_matter": {"title": "The guide", "tags": ["a", "b c"], "aliases": ["one"]},
        },
    }
    assert memories["sub/guide.md#install"]["content"] == "Run it.\n\n```sh\n# not a heading, [[nor a link]]\n```"
    assert memories["sub/guide.md#linux"] == {
        "key": "sub/guide.md#linux",
        "kind": "semantic",
        "title": "Linux",
        "content": "Linux",
        "payload": {"path": "sub/guide.md", "headings": ["Start here", "Install", "Linux"], "level": 3},
    }
    short = [
        (source.removeprefix("sub/guide.md"), target.removeprefix("sub/guide.md"))
        for source, target in _links(records, "contains")
    ]
    assert short == [
        ("", "#start-here"),
        ("#start-here", "#install"),
        ("#install", "#linux"),
        ("#start-here", "#use"),
        ("", "#install-1"),
    ]
    assert [target.rpartition("#")[2] for _, target in _links(records, "next")] == [
        "install", "linux", "use", "install-1",
    ]  # fmt: skip
    lines = [record.line for record in records if isinstance(record, MemoryRecord)]
    assert lines == [1, 9, 13, 21, 22, 26]
    assert _refused(records) == []


def test_markdown_links_are_resolved_in_the_folder(tmp_path: Path) -> None:
    files = {
        "a.md": "# A\n[b](sub/b.md) [b again](./sub/b.md) [part](sub/b.md#Some-Part 'title') [[B]] [own](#a)\n"
        "[[#A]] [web](https://example.org/x.md) <mailto:a@example.org> [image](pic.png) ![[sub/b#some part|shown]]\n",
        "sub/b.md": "Up: [[../A]], [a](../a.md#a), [root](/a.md), [c](c%20d.md), [[the c page]]\n\n"
        "# Some part\n[[c D]]",
        "sub/c d.md": "# The C page\n| x | [[a\\|y]] |\n\n`[[code]]` <!-- [[comment]] -->\n\n[ref][r]\n\n[r]: b.md\n",
    }
    records = list(read_markdown(_folder(tmp_path, files)))
    assert _links(records, "links_to") == [
        ("a.md#a", "sub/b.md"),
        ("a.md#a", "sub/b.md#some-part"),
        ("sub/b.md", "a.md"),
        ("sub/b.md", "a.md#a"),
        ("sub/b.md", "sub/c d.md"),
        ("sub/b.md#some-part", "sub/c d.md"),
        ("sub/c d.md#the-c-page", "a.md"),
        ("sub/c d.md#the-c-page", "sub/b.md"),
    ]
    assert _refused(records) == []
    last_memory = max(at for at, record in enumerate(records) if isinstance(record, MemoryRecord))
    assert not any(isinstance(record, LinkRecord) for record in records[:last_memory])


def test_markdown_links_that_lead_nowhere_are_noted_not_invented(tmp_path: Path) -> None:
    (tmp_path / "outside.md").write_text("# Outside")
    text = "[[missing]]\n\n[x](none.md)\n\n[y](../outside.md)\n\n[z](#nowhere)\n\n[[page#nothing]]\n\n[v](http://[)\n"
    records = list(read_markdown(_folder(tmp_path / "root", {"page.md": text})))
    assert list(_memories(records)) == ["page.md"]
    assert not any(isinstance(record, LinkRecord) for record in records)
    assert _refused(records) == [(line, "unresolved_link") for line in (1, 3, 5, 7, 9)]


def test_a_wiki_name_means_the_nearest_page_then_a_file_name_then_a_title(tmp_path: Path) -> None:
    files = {
        "x/note.md": "",
        "y/note.md": "",
        "y/from.md": "[[NOTE]]",
        "z/from.md": "[[note]] [[Top]] [[other name]]",
        "z/top.md": "",
        "named.md": "# Top",
        "titled.md": "---\ntitle: Other Name\n---\n",
    }
    records = list(read_markdown(_folder(tmp_path, files)))
    assert _links(records, "links_to") == [
        ("y/from.md", "y/note.md"),
        ("z/from.md", "x/note.md"),
        ("z/from.md", "z/top.md"),
        ("z/from.md", "titled.md"),
    ]


def test_markdown_reads_only_visible_markdown_files_in_order(tmp_path: Path) -> None:
    names = ["b.markdown", "a.md", "A.MD", "c.txt", ".hidden.md", ".git/x.md", "d/e.md", "d/.h/f.md", "c/g.md"]
    root = _folder(tmp_path / "root", dict.fromkeys(names, "text"))
    _folder(tmp_path / "elsewhere", {"secret.md": "secret"})
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "linked.md").symlink_to(tmp_path / "elsewhere" / "secret.md")
    os.mkfifo(root / "pipe.md")
    (root / "folder.md").mkdir()
    assert list(_memories(list(read_markdown(root)))) == ["A.MD", "a.md", "b.markdown", "c/g.md", "d/e.md"]


def test_markdown_reads_one_file(tmp_path: Path) -> None:
    _folder(tmp_path, {"one.md": "# One\n[two](two.md)", "two.md": "# Two"})
    records = list(read_markdown(tmp_path / "one.md"))
    assert list(_memories(records)) == ["one.md", "one.md#one"]
    assert _refused(records) == [(2, "unresolved_link")]
    with pytest.raises(FileNotFoundError):
        list(read_markdown(tmp_path / "none"))


def test_markdown_files_that_cannot_be_read_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "MAX_FILE_BYTES", 30)
    _folder(tmp_path, {"big.md": "x" * 31, "fits.md": "x" * 30, "marked.md": "\ufeff# Marked"})
    (tmp_path / "latin.md").write_bytes(b"one\ncaf\xe9")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.md")).write_text("text")
    records = list(read_markdown(tmp_path))
    assert list(_memories(records)) == ["fits.md", "marked.md", "marked.md#marked"]
    assert _refused(records) == [(1, "file_too_large"), (2, "not_utf8"), (1, "not_utf8")]
    for record in records:
        json.dumps([record.line, str(record)]).encode()
        str(record).encode()


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Hello, World!", "hello-world"),
        ("snake_case & more", "snake_case--more"),
        ("  Größe 東京 ", "größe-東京"),
        ("हिन्दी", "हिन्दी"),
        ("?!", "section"),
    ],
)
def test_slugs_are_github_s(title: str, slug: str) -> None:
    assert slug_of(title) == slug


def test_slugs_of_one_file_are_unique() -> None:
    sections = parse_markdown("# a\n# a-1\n# a\n# a\n# A!\n").sections[1:]
    assert [section.slug for section in sections] == ["a", "a-1", "a-2", "a-3", "a-4"]


@pytest.mark.parametrize(
    ("text", "front_matter", "content"),
    [
        ("---\na: 'x'\n---\nbody", {"a": "x"}, "body"),
        ("---\na:\n  b: 1\n...\nbody", "a:\n  b: 1", "body"),
        ("---\na: 1\nno end", {}, "---\na: 1\nno end"),
        ("---\n---\nbody", {}, "body"),
        ("--- x\nbody", {}, "--- x\nbody"),
        ("", {}, ""),
    ],
)
def test_front_matter(text: str, front_matter: object, content: str) -> None:
    document = parse_markdown(text)
    assert document.front_matter == front_matter
    assert document.sections[0].text == content


def test_line_ends_nul_and_nested_headings() -> None:
    sections = parse_markdown("pre\0\r\n\r\n# A\r\rx\u2028y\r\n> # quoted\r\n- # listed\r\n# B").sections
    assert [section.title for section in sections] == ["", "A", "B"]
    assert [section.text for section in sections] == ["pre\ufffd", "x\u2028y\n> # quoted\n- # listed", ""]


def test_a_paragraph_above_dashes_is_a_section_with_a_short_title() -> None:
    section = parse_markdown("word " * 100 + "\n---\nrest").sections[1]
    assert len(section.title) <= 200
    assert section.text == ("word " * 100).strip() + "\n\nrest"


@given(st.lists(st.sampled_from(["# a", "## b", "###### c", "text", "", "---", "```", "> # q", "[[x]]", "\t- y"])))
def test_sections_keep_every_line_once(lines: list[str]) -> None:
    document = parse_markdown("first\n" + "\n".join(lines))
    assert [section.level for section in document.sections].count(0) == 1
    assert len({section.slug for section in document.sections}) == len(document.sections)
    for number, section in enumerate(document.sections[1:], start=1):
        assert section.parent < number
        assert document.sections[section.parent].level < section.level
    kept = "\n".join(f"{section.title}\n{section.text}" for section in document.sections)
    assert kept.count("text") == lines.count("text")
