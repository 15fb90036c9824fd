"""Signs an event as Standard Webhooks says, so that its receiver can tell who sent it, and when. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

PREFIX = "whsec_"
"""What a secret begins with, so that a scanner for leaked secrets knows it."""
KEY_BYTES = range(24, 65)


class SecretError(ValueError):
    """What is no secret. The text says what it has to be, and shows nothing of it."""


def signing_keys(secrets: str) -> tuple[bytes, ...]:
    """The keys of one secret, or of several with blanks between them: while it is changed, both sign.

    Raises:
        SecretError: one is none.
    """
    keys = tuple(map(_key, secrets.split()))
    if not keys:
        raise SecretError("holds no secret")
    return keys


def _key(secret: str) -> bytes:
    make = f'make one with: echo "{PREFIX}$(openssl rand -base64 32)"'
    if not secret.startswith(PREFIX):
        raise SecretError(f"does not begin with {PREFIX}; {make}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise SecretError(f"is no base64 after {PREFIX}; {make}") from None
    if len(key) not in KEY_BYTES:
        raise SecretError(f"has {len(key)} bytes, and 24 to 64 are needed; {make}")
    return key


def signature_headers(keys: Iterable[bytes], event: str, at: int, payload: bytes) -> dict[str, str]:
    """The headers that prove an attempt to post an event.

    Args:
        keys: of all secrets that a receiver may have.
        event: the event's id, the same for all attempts.
        at: when this attempt is made, in seconds since 1970; a receiver refuses what is more than minutes old.
        payload: the body, byte for byte.
    """
    signed = f"{event}.{at}.".encode() + payload
    signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": event,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
