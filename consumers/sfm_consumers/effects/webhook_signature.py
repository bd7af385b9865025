"""The signature of the Standard Webhooks scheme: who holds the secret can tell who sent a body, and when."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

_PREFIX = "whsec_"
MIN_SECRET_BYTES = 16


def secret_keys(secrets: str) -> tuple[bytes, ...]:
    """The keys of secrets that are separated by white space, the first being the newest.

    `whsec_` is followed by base64 of the key; any other text is the key itself, in UTF-8. Raises ValueError for
    base64 that is none, and for less than 16 bytes.
    """
    keys = tuple(_key(secret) for secret in secrets.split())
    if not keys:
        raise ValueError("holds no secret")
    return keys


def signature(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """What stands in `Webhook-Signature`: one `v1,<base64>` for each key, separated by spaces."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def _key(secret: str) -> bytes:
    try:
        key = (
            base64.b64decode(secret[len(_PREFIX) :], validate=True) if secret.startswith(_PREFIX) else secret.encode()
        )
    except (binascii.Error, ValueError) as error:
        raise ValueError("must be base64 after whsec_") from error
    if len(key) < MIN_SECRET_BYTES:
        raise ValueError(f"must have at least {MIN_SECRET_BYTES} bytes")
    return key
