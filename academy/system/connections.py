"""What the environment says about connections: proxies and certificates.

The libraries that speak HTTP (httpx, requests, urllib; Prefect, MLflow, Docker and OpenAI with them) read the same
variables, and each fails in its own way. So one place decides for this process and its children: what runs on
loopback is never asked for through a proxy, and a variable that hinders is named.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from academy.errors import InputError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EXEMPT = ("no_proxy", "NO_PROXY")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exempt_loopback() -> None:
    """Add loopback to NO_PROXY, for this process and its children, if there is a proxy. It is idempotent."""
    if not any(_values(name) for name in _PROXIES):
        return
    # a library reads the lower-case name first; an address in brackets stops httpx
    value = next((os.environ[name] for name in _EXEMPT if os.environ.get(name)), "")
    hosts = [host.strip().removeprefix("[").removesuffix("]") for host in value.split(",") if host.strip()]
    hosts += [host for host in LOOPBACK if host not in hosts and "*" not in hosts]
    for name in _EXEMPT:
        os.environ[name] = ",".join(hosts)


def check_connections() -> None:
    """Exempt loopback, and raise InputError for a variable with which no connection can be made."""
    exempt_loopback()
    for name in _FILES:
        if path := os.environ.get(name):
            _check_certificates(name, path)
    if (folder := os.environ.get("SSL_CERT_DIR")) and not any(Path(part).is_dir() for part in folder.split(os.pathsep)):
        raise InputError(f"SSL_CERT_DIR names {folder}, which is not a folder.", "Correct it or unset it.")
    for lower in _PROXIES:
        for name, value in _values(lower):
            _check_proxy(name, value)


def _values(lower: str) -> list[tuple[str, str]]:
    """The name of a variable as it is set, in lower or upper case, with its value."""
    return [(name, value) for name in (lower, lower.upper()) if (value := os.environ.get(name, "").strip())]


def _check_certificates(name: str, path: str) -> None:
    if name != "SSL_CERT_FILE" and Path(path).is_dir():
        return
    if not Path(path).is_file():
        raise InputError(f"{name} names {path}, which is not a file.", "Set it to a file of certificates, or unset it.")
    try:
        ssl.create_default_context(cafile=path)
    except (ssl.SSLError, OSError) as problem:
        raise InputError(
            f"{name} names {path}, which holds no readable certificates.",
            "Set it to a file of certificates, or unset it.",
        ) from problem


def _check_proxy(name: str, value: str) -> None:
    refusal = InputError(f"{name} is not the address of a proxy.", "Write it as http://host:port, or unset it.")
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        usable = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # an invalid port or address
        raise refusal from None
    if not usable:
        raise refusal
    if parts.scheme in ("http", "https"):
        return
    if parts.scheme not in ("socks5", "socks5h"):
        raise InputError(
            f"{name} names a proxy of the kind {parts.scheme}://, which is not supported.",
            "Use http://, https:// or socks5://, or unset it.",
        )
    if find_spec("socksio") is None:
        raise InputError(
            f"{name} names a SOCKS proxy, and the package for it is not installed.",
            "Run pip install socksio pysocks, or unset it: a training needs no network.",
        )
