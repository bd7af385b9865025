"""One Markdown text (CommonMark) to its front matter, its sections and what they refer to."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

_MAX_TITLE_CHARS = 200
_WIKI_LINK = re.compile(r"\[\[([^\[\]\n]+)\]\]")
_LINE_END = re.compile(r"\r\n?")
_FRONT_MATTER_ENTRY = re.compile(r"([\w-]+):(?:\s+(.*))?")

FrontMatter = dict[str, str | list[str]]


@dataclass(frozen=True, slots=True)
class Reference:
    """A link in a section. target: what stands between `[[` and `]]`, or the link's address. line: from 1."""

    line: int
    target: str
    is_wiki: bool


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its own text, which ends at the next heading of any level.

    level: 1 to 6, or 0 for what stands before the first heading. slug: unique in its text, empty at level 0.
    parent: the index of the section that this one stands in, 0 at the top. line: where it starts, from 1.
    text: Markdown, stripped.
    """

    level: int
    title: str
    slug: str
    parent: int
    line: int
    text: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """front_matter: its entries when all of them are simple, else its source. sections: [0] has level 0."""

    front_matter: FrontMatter | str
    sections: list[Section]


def parse_markdown(text: str) -> Document:
    """Never fails: every text is Markdown. NUL becomes U+FFFD, as CommonMark has it."""
    lines = _LINE_END.sub("\n", text).replace("\0", "\ufffd").split("\n")
    body = _body_start(lines)
    tokens = _parser.parse("\n".join(lines[body:]))
    starts = [at for at, token in enumerate(tokens) if token.type == "heading_open" and token.level == 0]
    borders = [body, *(body + _lines_of(tokens[at])[0] for at in starts), len(lines)]
    preface = "\n".join(lines[body : borders[1]]).strip()
    sections = [Section(0, "", "", 0, 1, preface, _references(tokens[: [*starts, len(tokens)][0]], body))]
    slugs: dict[str, int] = {}
    for (start, end), border in zip(pairwise([*starts, len(tokens)]), borders[2:], strict=True):
        level, heading = int(tokens[start].tag[1:]), _plain_text(tokens[start + 1])
        title = heading[:_MAX_TITLE_CHARS]
        first_line, text_line = _lines_of(tokens[start])
        parent = len(sections) - 1
        while sections[parent].level >= level:
            parent = sections[parent].parent
        above = [heading, ""] if title != heading else []  # a paragraph above a line of dashes is a heading, too
        text = "\n".join([*above, *lines[body + text_line : border]]).strip()
        references = _references(tokens[start:end], body)
        slug = _unique(slug_of(title), slugs)
        sections.append(Section(level, title, slug, parent, body + first_line + 1, text, references))
    return Document(_front_matter(lines[1 : max(body - 1, 1)]), sections)


def slug_of(title: str) -> str:
    """The anchor that GitHub makes of a heading; `section` where nothing is left of it."""
    return "".join(filter(_in_slug, title.strip().lower())).replace(" ", "-") or "section"


def _in_slug(char: str) -> bool:
    return char.isalnum() or char in " -_" or unicodedata.category(char).startswith("M")


def _unique(slug: str, taken: dict[str, int]) -> str:
    """Appends -1, -2, ... to a slug that is taken. taken: how often each was given or asked for."""
    unique = slug
    while unique in taken:
        taken[slug] += 1
        unique = f"{slug}-{taken[slug]}"
    taken[unique] = 0
    return unique


def _lines_of(block: Token) -> tuple[int, int]:
    first, end = block.map or (0, 0)
    return first, end


def _plain_text(inline: Token) -> str:
    shown = {"softbreak": " ", "hardbreak": " ", "html_inline": ""}
    return "".join(shown.get(child.type, child.content) for child in inline.children or []).strip()


def _references(tokens: Sequence[Token], body: int) -> tuple[Reference, ...]:
    found: list[Reference] = []
    for inline in tokens:
        if inline.type != "inline":
            continue
        line = body + _lines_of(inline)[0] + 1
        for child in inline.children or []:
            if child.type == "wiki_link":
                found.append(Reference(line, child.meta["target"], is_wiki=True))
            elif child.type == "link_open":
                found.append(Reference(line, str(child.attrs["href"]), is_wiki=False))
    return tuple(found)


def _wiki_link(state: StateInline, silent: bool) -> bool:
    """`[[target]]` and `[[target|shown]]`; in a table the bar is written `\\|`."""
    found = _WIKI_LINK.match(state.src, state.pos)
    if found is None:
        return False
    if not silent:
        target, _, shown = found[1].replace("\\|", "|").partition("|")
        token = state.push("wiki_link", "", 0)
        token.content = shown.strip() or target.strip()
        token.meta = {"target": target.strip()}
    state.pos = found.end()
    return True


_parser = MarkdownIt("commonmark")
_parser.inline.ruler.before("link", "wiki_link", _wiki_link)


def _body_start(lines: list[str]) -> int:
    """The index of the first line after the front matter; 0 without one."""
    if lines[0].rstrip() != "---":
        return 0
    return next((at + 1 for at, line in enumerate(lines) if at and line.rstrip() in ("---", "...")), 0)


def _front_matter(lines: list[str]) -> FrontMatter | str:
    """Reads `name: text`, `name: [text, text]` and `name:` above lines `- text`; else keeps the source."""
    entries: FrontMatter = {}
    for line in filter(str.strip, lines):
        entry = _FRONT_MATTER_ENTRY.fullmatch(line.rstrip())
        last = next(reversed(entries.values()), None)
        if entry:
            entries[entry[1]] = _front_matter_value(entry[2] or "")
        elif line.lstrip().startswith("- ") and isinstance(last, list):
            last.append(_unquoted(line.lstrip()[2:]))
        else:
            return "\n".join(lines)
    return {name: value or "" for name, value in entries.items()}


def _front_matter_value(text: str) -> str | list[str]:
    if not text:
        return []
    if text.startswith("[") and text.endswith("]"):
        return [_unquoted(item) for item in text[1:-1].split(",") if item.strip()]
    return _unquoted(text)


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
