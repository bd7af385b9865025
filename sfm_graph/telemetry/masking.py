"""Secrets out of texts that are shown."""

import re
from typing import Final

_HIDDEN: Final = "***"
# Bounded, so that a long text costs no more than its length.
_PATTERNS: Final = (
    # scheme://user:password@host. A password may hold anything but a space or a quote; the last @ ends it. What is a
    # port is none.
    (re.compile(r"(://[^\s:/@'\"]{0,256}):(?!\d{1,5}[/?#])[^\s'\"]{1,512}@"), rf"\1:{_HIDDEN}@"),
    # Authorization: Bearer x, as a header, a dict's repr or a tuple of bytes.
    (
        re.compile(
            r"(?i)((?:proxy-)?authorization['\"]?\s{0,4}[:=,]\s{0,4}(?:b(?=['\"]))?['\"]?)(?:(bearer|basic)\s+)?[^\s,'\"}]+"
        ),
        rf"\1{_HIDDEN}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {_HIDDEN}"),
    # libpq's `password=x`, and whatever else is named so: api_key, secret, token.
    (
        re.compile(
            r"(?i)\b((?:[a-z_]{0,32}_)?(?:password|passwd|secret|token|api[_-]?key)['\"]?\s{0,4}[:=]\s{0,4}b?)"
            r"('[^']{0,512}'|\"[^\"]{0,512}\"|[^\s,;&'\"}\])]+)"
        ),
        rf"\1{_HIDDEN}",
    ),
    # The service's own API keys, and JWTs.
    (re.compile(r"\bsfm_\d{1,19}_[A-Za-z0-9_-]{8,}"), f"sfm_{_HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{0,2048}"), _HIDDEN),
)


def mask(text: str) -> str:
    """A text with `***` for passwords in URLs and DSNs, credentials of headers, API keys and JWTs."""
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text
