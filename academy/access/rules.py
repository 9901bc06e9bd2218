"""Whether a request is admitted: pure, but for the question which account is connected.

    a bearer token that fits            admitted from everywhere: no page of another origin can send one
    a Basic password that fits          the same, but not for a page of another origin: browsers repeat a password
    a Basic password that does not fit  refused: a program with the password of another home means that one
    loopback, no token                  admitted for the home's owner and root, where the Host is a loopback name and no
                                        page of another origin and no proxy asks
    anything else                       401 where a token would help, otherwise 403

A page of another origin is one whose Origin is not the address that it asks, or one that the browser's Sec-Fetch-Site
calls foreign. Links that a person follows are other requests: a browser opens them as a document.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import pwd
import re
from collections.abc import Callable
from typing import Literal

from academy.access.peers import Address, is_loopback
from academy.records import Record

Scheme = Literal["http", "https", "ws", "wss"]
AccountOf = Callable[[Address, Address], int | None]
HolderOf = Callable[[str], str]
"""The name of the person whose key a bearer token is; empty where it is not a key of a user."""
KEY_PREFIX = "ack_"
"""How users' keys begin."""
SINGLE = ("host", "origin", "authorization")
"""Headers that decide, so that a request with two of one is refused: programs behind the layer may read the other."""
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers of a proxy: it may carry requests of anybody under its own account."""
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:@/?#\s]+)(?::(\d{1,5}))?")


class AccessRules(Record):
    """Who may connect to a server."""

    owners: frozenset[int]  # uids that need no token on loopback
    tokens: tuple[str, ...]  # bearer tokens, and passwords (or whole `user:password`) of Basic authentication
    public: tuple[str, ...] = ()  # paths that every account may read


class Request(Record):
    """The parts of a request that decide."""

    scheme: Scheme
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...]  # names in small letters
    client: Address | None
    server: Address | None

    def header(self, name: str) -> str:
        """The value of a header; empty where there is none."""
        return next((value for key, value in self.headers if key == name), "")


class Admission(Record):
    """Why a request was admitted; `account` is the uid of the connection where that decided."""

    by: Literal["token", "account", "public"]
    account: int | None = None
    key: str = ""  # the name of the user's key


class Refusal(Record):
    """Why a request is refused, in one sentence. 401: a token would help."""

    status: Literal[401, 403]
    sentence: str


def admit(
    request: Request, rules: AccessRules, account_of: AccountOf, holder_of: HolderOf = lambda _token: ""
) -> Admission | Refusal:
    """Admit a request or refuse it."""
    for name in SINGLE:
        if sum(key == name for key, _ in request.headers) > 1:
            return Refusal(status=403, sentence=f"The request has more than one {name.title()} header.")
    scheme, credentials = _credentials(request.header("authorization"))
    token_fits = any(_same(credentials, token) for token in rules.tokens)
    if scheme == "bearer" and token_fits:
        return Admission(by="token")
    if scheme == "bearer" and credentials and (name := holder_of(credentials)):
        return Admission(by="token", key=name)
    if scheme == "bearer" and credentials.startswith(KEY_PREFIX):  # its holder must not become the owner
        return Refusal(status=401, sentence="The key is unknown, or it was removed.")
    if refusal := _foreign_page(request):
        return refusal
    if scheme == "basic" and (token_fits or _password_fits(credentials, rules.tokens)):
        return Admission(by="token")
    if scheme == "basic":
        return Refusal(status=401, sentence="The password is not of this home.")
    local = bool(
        request.client and request.server and is_loopback(request.client[0]) and is_loopback(request.server[0])
    )
    if local and (refusal := _foreign_host(request)):
        return refusal
    outcome = _admit_account(request, rules, account_of, local=local)
    if isinstance(outcome, Refusal) and _is_public(request, rules):
        return Admission(by="public")
    return outcome


def _is_public(request: Request, rules: AccessRules) -> bool:
    return request.path in rules.public and request.method in ("GET", "HEAD") and request.scheme in ("http", "https")


def _admit_account(request: Request, rules: AccessRules, account_of: AccountOf, *, local: bool) -> Admission | Refusal:
    if not local or request.client is None or request.server is None:
        return Refusal(status=401, sentence="Connections from another machine need the home's secret or a token.")
    if any(request.header(name) for name in FORWARDED):
        return Refusal(status=401, sentence="A request through a proxy needs the home's secret or a token.")
    account = account_of(request.client, request.server)
    if account is None:
        return Refusal(status=401, sentence="The account of this connection is unknown, so it needs the home's secret.")
    if account not in rules.owners:
        return Refusal(
            status=401, sentence=f"The account {account_name(account)} needs the home's secret or a token here."
        )
    return Admission(by="account", account=account)


def account_name(account: int) -> str:
    """The login name of an account, or its number if it has no name."""
    try:
        return pwd.getpwuid(account).pw_name
    except KeyError:
        return f"uid {account}"


def _credentials(header: str) -> tuple[str, str]:
    """Scheme and credentials of an Authorization header; Basic ones are decoded."""
    scheme, _, value = header.partition(" ")
    scheme, value = scheme.lower(), value.strip()
    if scheme != "basic":
        return scheme, value
    try:
        return scheme, base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return scheme, ""


def _password_fits(credentials: str, tokens: tuple[str, ...]) -> bool:
    return any(_same(credentials.partition(":")[2], token) for token in tokens)


def _same(text: str, token: str) -> bool:
    return bool(token) and hmac.compare_digest(text.encode(), token.encode())


def _foreign_host(request: Request) -> Refusal | None:
    """A web page reaches this machine under its own name by DNS rebinding; its Host then is that name."""
    host = request.header("host")
    match = _HOST.fullmatch(host)
    name = match[1].strip("[]").lower() if match else ""
    if name == "localhost" or is_loopback(name):
        return None
    return Refusal(status=403, sentence="The Host of the request is not a name of loopback.")


def _foreign_page(request: Request) -> Refusal | None:
    origin = request.header("origin")
    if origin and not _is_own(origin, request):
        return Refusal(status=403, sentence="Pages of another origin may not use this server.")
    site = request.header("sec-fetch-site")
    followed = (
        request.header("sec-fetch-mode") == "navigate"
        and request.header("sec-fetch-dest") == "document"
        and request.method in ("GET", "HEAD")
    )
    if site and site not in ("same-origin", "none") and not followed:
        return Refusal(status=403, sentence="Pages of another origin may not use this server.")
    return None


def _is_own(origin: str, request: Request) -> bool:
    """Whether a page of this origin asks the server that it came from."""
    scheme = {"ws": "http", "wss": "https"}.get(request.scheme, request.scheme)
    return bool(request.header("host")) and origin.lower() == f"{scheme}://{request.header('host')}".lower()
