"""Text to sentences."""

import re

_CLOSING = "[\"'\u2019\u201d)\\]\u300d\u300f]*"
_ENDS = re.compile(f"[.!?\u2026\u3002\uff01\uff1f]{_CLOSING}$")
# A full stop of a script without spaces ends a sentence wherever it stands; the others before white space alone.
_BORDER = re.compile("(?<=[\u3002\uff01\uff1f])(?![\u3002\uff01\uff1f\"'\u2019\u201d)\\]\u300d\u300f])|\\s+")
_BEFORE = re.compile(f"(?:[.!?\u2026]|[\u3002\uff01\uff1f]){_CLOSING}\\Z")
_SHORTENED = re.compile(r"(?:^|[\s(\"'])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|No|vs|etc|e\.g|i\.e|cf|ca|approx)\.\Z")
_LOOK_BACK = 24  # characters: longer than any shortened word with what closes after it


def sentences(text: str) -> list[str]:
    """The sentences of a text in order, white space inside of them collapsed, none empty.

    A sentence ends with its mark before white space (not after an initial or a usual abbreviation, nor before a
    small letter), with an empty line, or with a line whose successor does not begin with a small letter. Linear in
    the text's length.
    """
    found, start = [], 0
    for border in _BORDER.finditer(text):
        if _is_border(text, border):
            found.append(text[start : border.start()])
            start = border.end()
    found.append(text[start:])
    return [kept for kept in (" ".join(part.split()) for part in found) if kept]


def ends_with_mark(sentence: str) -> bool:
    """Whether a sentence ends as sentences do, rather than as a heading or an item of a list does."""
    return _ENDS.search(sentence[-_LOOK_BACK:]) is not None


def _is_border(text: str, gap: re.Match[str]) -> bool:
    space = gap.group()
    if not space or space.count("\n") > 1:
        return True
    if gap.end() < len(text) and text[gap.end()].islower():
        return False
    if "\n" in space:
        return True
    before = text[max(0, gap.start() - _LOOK_BACK) : gap.start()]
    return _BEFORE.search(before) is not None and _SHORTENED.search(before) is None
