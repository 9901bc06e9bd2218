"""Which key belongs to which origin (scheme, host and port): a key is never sent to another one."""

from __future__ import annotations

from urllib.parse import urlsplit

from academy.border.masking import remember
from academy.errors import InputError
from academy.system.connections import is_loopback

PORTS = {"http": 80, "https": 443}
FORM = "Write ACADEMY_ENDPOINT_KEY as https://host:port=KEY; separate several with white space."


def origin_of(url: str) -> str:
    """`scheme://host:port` of an address, in one spelling. Raises InputError for what has none."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii").lower()
        port = parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError, UnicodeError) as problem:
        raise InputError(f"{url} is not the address of a server.", "Write it as https://host:port.") from problem
    if not host:
        raise InputError(f"{url} is not the address of a server.", "Write it as https://host:port.")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def key_for(url: str, keys: str, default: str = "") -> str:
    """The key for an address; empty for an origin without one.

    `keys` are `origin=key` words, or one key alone: that belongs to the origin of `default`. Raises InputError where it
    is unclear whose key it is, and for a key that would cross a network in plain text.
    """
    keys = keys.strip()
    if not keys:
        return ""
    remember(keys)
    origin = origin_of(url)
    words = keys.split()
    named = dict(pair for word in words if (pair := _pair(word)))
    if not named and len(words) == 1:
        if not default:
            raise InputError(f"ACADEMY_ENDPOINT_KEY does not say that it is for {origin}.", FORM)
        named = {origin_of(default): keys}
    elif len(named) < len(words):
        raise InputError("ACADEMY_ENDPOINT_KEY has a key without its address, or two for one address.", FORM)
    remember(*named.values())
    key = named.get(origin, "")
    refuse_plain_text(url, key)
    return key


def refuse_plain_text(url: str, key: str) -> None:
    """Raise InputError for a key that would be sent over a network without encryption."""
    parts = urlsplit(url)
    if key and parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise InputError(
            f"The key for {origin_of(url)} would cross the network in plain text.",
            "Use https://, or forward a port of this machine to that server (ssh -L).",
        )


def _pair(word: str) -> tuple[str, str] | None:
    if not word.startswith(("http://", "https://")):
        return None
    url, separator, key = word.partition("=")
    if not separator or not key or urlsplit(url).path.strip("/"):
        raise InputError("ACADEMY_ENDPOINT_KEY has an address without its key, or with a path.", FORM)
    return origin_of(url), key
