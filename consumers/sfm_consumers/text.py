"""Text from elsewhere, fit for a log, a header or a page."""


def printable(text: str) -> str:
    """The same with what is not printable escaped: no line breaks, terminal sequences, or letters that change the
    direction of others."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
