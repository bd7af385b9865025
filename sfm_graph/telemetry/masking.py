"""Secrets out of texts that are shown."""

import re
from typing import Final

_HIDDEN: Final = "***"
# Up to a password in a URL; what is a port is none.
_BEFORE_PASSWORD: Final = re.compile(r"://[^\s:/@'\"]{0,256}:(?!\d{1,5}(?:[/?#]|[,;.)\]}]{0,4}(?:[\s'\"]|$)))")
_RUN: Final = re.compile(r"[^\s'\"]*")
# On from a space: a password that should have been quoted for its URL.
_SPACED: Final = re.compile(r"(?:(?!://)[^\r\n'\"@]){1,256}@")
# Bounded, so that a long text costs no more than its length.
_PATTERNS: Final = (
    # Authorization: Bearer x, as a header, a dict's repr or a tuple of bytes.
    (
        re.compile(
            r"(?i)((?:proxy-)?authorization['\"]?\s{0,4}[:=,]\s{0,4}(?:b(?=['\"]))?['\"]?)(?:(bearer|basic)\s+)?[^\s,'\"}]+"
        ),
        rf"\1{_HIDDEN}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {_HIDDEN}"),
    # libpq's `password=x`, and whatever else has a name that ends so: sslpassword, api_key, clientSecret, token.
    (
        re.compile(
            r"(?i)((?:password|passwd|secret|token|api[_-]?key)['\"]?\s{0,4}[:=]\s{0,4}b?)"
            r"('(?:[^'\\]|\\.){0,2048}'?|\"(?:[^\"\\]|\\.){0,2048}\"?|[^\s,;&'\"}\])]+)"
        ),
        rf"\1{_HIDDEN}",
    ),
    # The service's own API keys, and JWTs.
    (re.compile(r"\bsfm_\d{1,19}_[A-Za-z0-9_-]{8,}"), f"sfm_{_HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{0,2048}"), _HIDDEN),
)
# Left out on both sides of a cut: half a secret is not known for one.
_MARGIN: Final = 1_024


def mask(text: str) -> str:
    """A text with `***` for passwords in URLs and DSNs, credentials of headers, API keys and JWTs."""
    text = _without_passwords_of_urls(text)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def mask_bounded(text: str, most: int) -> str:
    """A text as `mask` shows it; of one that is longer than `most` characters the begin and the end."""
    if len(text) <= most:
        return mask(text)
    half = max(most // 2, _MARGIN)
    begin, end = mask(text[:half])[:-_MARGIN], mask(text[-half:])[_MARGIN:]
    return f"{begin} ...({len(text) - 2 * (half - _MARGIN)} characters)... {end}"


def _without_passwords_of_urls(text: str) -> str:
    """A password may hold anything but a quote; the last @ before a space ends it, or the first one after it."""
    shown: list[str] = []
    done = run_end = 0
    ending: int | None = None
    for found in _BEFORE_PASSWORD.finditer(text):
        begin = found.end()
        if begin < done:
            continue
        # Looked for once in each run: one of many such begins and no @ would be read again from each.
        if begin >= run_end:
            run_end, ending = _ending(text, begin)
        if ending is not None and begin < ending:
            shown += text[done:begin], _HIDDEN
            done, ending = ending, None
    return "".join((*shown, text[done:]))


def _ending(text: str, begin: int) -> tuple[int, int | None]:
    """Where the characters without a space end, and where the @ after a password is."""
    run = _RUN.match(text, begin)
    run_end = run.end() if run else begin
    last = text.rfind("@", begin, run_end)
    if last >= 0:
        return run_end, last
    spaced = _SPACED.match(text, run_end)
    return run_end, spaced.end() - 1 if spaced else None
