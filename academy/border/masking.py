"""Removes secrets from texts that people read: passwords in addresses, tokens in headers, values of this process.

`mask` is the one function for this. Every error of the Academy and every log line passes through it. It masks what has
the shape of a secret, and the exact values that `remember` was given. It may hide too much, but never too little.
"""

from __future__ import annotations

import base64
import logging
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"
SHORTEST = 8
"""Shorter values are not remembered: they would hide ordinary words. Their shape may still give them away."""
_WEB = ("http", "https", "ws", "wss", "git+https", "git+http")
"""Schemes where the user's name may be a token."""
_SEPARATOR = r"\s,;|\"'()\[\]<>"
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]{0,30})://"
    rf"(?P<rest>(?:(?!(?<=[{_SEPARATOR}])[A-Za-z][A-Za-z0-9+.\-]{{0,30}}://)\S){{1,4096}})"
)
_QUERY = re.compile(r"(?P<before>[?&;#])(?P<name>[^=&;#?\s]{1,100})=(?P<value>[^&;#\s]{1,8192})")
_NAMES_IN_QUERIES = re.compile(
    r"password|passwd|passphrase|secret|token|apikey|signature|credential|accesskey|accountkey|authstring"
    r"|^(?:key|pwd|pass|sig|auth|code|pw|subscriptionkey|userkey|session|sessionid|jwt)$"
)
_NAMES = (
    r"(?:password|passwd|pwd|passphrase|secret|credentials?|api[_-]?key|access[_-]?key(?:[_-]id)?|account[_-]?key"
    r"|private[_-]?key|auth[_-]?string|auth[_-]?token|access[_-]?token|bearer[_-]?token|shared[_-]?access[_-]?signature)"
)
_QUOTED = r"\"(?:[^\"\\\n]|\\.){0,4096}\"|'(?:[^'\\\n]|\\.){0,4096}'"
_ASSIGNED = re.compile(
    rf"(?i)(?P<before>(?<![A-Za-z0-9])(?:[A-Za-z0-9]{{1,30}}[_.\-]){{0,6}}(?:ssl|pg)?{_NAMES}[\"']?\s{{0,3}}"
    rf"(?:=\s{{0,3}}|:\s{{0,3}}(?=[\"'])))(?P<value>{_QUOTED}|[^\s&;,)\]}}]{{1,4096}})"
)
_VARIABLE = re.compile(
    rf"(?P<before>\b[A-Z][A-Z0-9]{{0,30}}(?:_[A-Z0-9]{{1,30}}){{0,6}}_(?:KEY|TOKEN|SECRET|PASSWORD|PASS)=)"
    rf"(?P<value>{_QUOTED}|\S{{1,4096}})"
)
_HEADER = re.compile(
    r"(?i)(?P<before>\b(?:proxy-authorization|authorization|x-api-key|api-key|x-auth-token|x-amz-security-token"
    r"|cookie|set-cookie)[\"']?\s{0,3}[:=,]\s{0,3}(?:b(?=[\"']))?[\"']?(?:(?:bearer|basic|token|digest)\s{1,3})?)"
    r"(?P<value>[^\s\"',][^\r\n\"',]{0,8192})"
)
_BEARER = re.compile(
    r"(?i)(?P<before>\b(?:bearer|basic)\s{1,3})(?P<value>(?=[A-Za-z._~+/=\-]{0,60}\d)[\w.~+/=\-]{12,4096})"
)
_FORMATS = re.compile(
    r"\b(?:sk-[\w\-]{16,256}|gh[pousr]_[A-Za-z0-9]{20,256}|github_pat_\w{20,256}|glpat-[\w\-]{16,256}|hf_[A-Za-z0-9]{20,256}"
    r"|xox[abeoprs]-[\w\-]{10,256}|(?:AKIA|ASIA)[0-9A-Z]{16}|eyJ[\w\-]{8,2048}+\.eyJ[\w\-]{8,4096}+\.[\w\-]{8,2048})"
)
_NAME_OF_SECRET = re.compile(
    r"(?i)(?:password|passwd|passphrase|secret|token|credential|auth_string|private_key|api_?key|access_key|_key|_pass|_pwd)s?$"
)
_known: dict[str, None] = {}
"""Values to mask, the longest first."""


def mask(text: str) -> str:
    """The text without secrets. Masking it again changes nothing."""
    for value in tuple(_known):
        text = text.replace(value, MASK)
    if "://" in text:
        text = _URL.sub(_mask_url, text)
    if "=" in text or ":" in text:
        text = _QUERY.sub(_mask_query, text)
        text = _VARIABLE.sub(_mask_value, text)
        text = _ASSIGNED.sub(_mask_value, text)
        text = _HEADER.sub(_mask_value, text)
    return _FORMATS.sub(MASK, _BEARER.sub(_mask_value, text))


def remember(*values: str) -> None:
    """Mask these values from now on in all texts of this process, also percent-encoded."""
    forms = {
        form
        for value in values
        for form in (value, quote(value, safe=""), quote_plus(value), unquote(value), unquote_plus(value))
        if len(form) >= SHORTEST and form != MASK
    }
    forms |= {base64.b64encode(form.encode()).decode() for form in forms}
    if not forms <= _known.keys():
        ordered = sorted({*_known, *forms}, key=len, reverse=True)
        _known.clear()
        _known.update(dict.fromkeys(ordered))


def password_in(url: str) -> str:
    """The password in an address; empty where there is none."""
    match = _URL.search(url)
    if match is None:
        return ""
    start, end = _user_info(match["scheme"], match["rest"])
    return match["rest"][start:end].partition(":")[2]


def is_secret(name: str, value: str) -> bool:
    """Whether a variable of an environment holds a secret: by its name, or by a password in its address."""
    return bool(value) and (_NAME_OF_SECRET.search(name) is not None or ("://" in value and mask(value) != value))


def remember_environment(environment: Mapping[str, str]) -> None:
    """Remember the secrets among the variables of an environment."""
    for name, value in environment.items():
        if _NAME_OF_SECRET.search(name):
            remember(value, value.partition(":")[2])
        elif "://" in value:
            remember(password_in(value))


def mask_outputs() -> None:
    """Mask log lines and tracebacks of this process from now on."""
    logging.setLogRecordFactory(MaskedRecord)
    sys.excepthook = _print_exception
    threading.excepthook = lambda problem: _print_exception(
        problem.exc_type, problem.exc_value, problem.exc_traceback
    )  # fmt: skip


class MaskedRecord(logging.LogRecord):
    """A line of a log whose message and traceback are masked, whatever handler writes it."""

    _traceback: str | None = None

    def getMessage(self) -> str:  # noqa: N802  logging's name
        """The message with its arguments."""
        return mask(super().getMessage())

    @property
    def exc_text(self) -> str | None:
        """The text of a traceback, which logging keeps here."""
        return self._traceback

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._traceback = text and mask(text)


def _print_exception(kind: type[BaseException], problem: BaseException | None, where: TracebackType | None) -> None:
    if kind is SystemExit or sys.stderr is None:
        return
    if problem is not None:
        sys.stderr.write(mask("".join(traceback.format_exception(kind, problem, where))))


def _user_info(scheme: str, rest: str) -> tuple[int, int]:
    """Where user name and password stand in an address after `://`; an empty range where it has none."""
    end_of_path = min((at for sign in "?#" if (at := rest.find(sign)) >= 0), default=len(rest))
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    last = rest.rfind("@")
    if scheme.lower() not in _WEB:  # a password may hold every sign
        before_query = rest.rfind("@", 0, end_of_path)
        return 0, before_query if before_query >= 0 else max(last, 0) if ":" in rest[: max(last, 0)] else 0
    if "@" in authority:
        return 0, rest.rfind("@", 0, end_of_path)
    port = authority.partition(":")[2]
    if last >= 0 and port and not port.isdigit() and not authority.startswith("["):
        return 0, last
    return 0, 0


def _mask_url(match: re.Match[str]) -> str:
    scheme, rest = match["scheme"], match["rest"]
    _, end = _user_info(scheme, rest)
    if not end:
        return match[0]
    user, colon, _password = rest[:end].partition(":")
    if scheme.lower() in _WEB:
        return f"{scheme}://{MASK}{rest[end:]}"
    return f"{scheme}://{user}{f':{MASK}' if colon else ''}{rest[end:]}"


def _mask_query(match: re.Match[str]) -> str:
    name = re.sub(r"[\W_]", "", unquote(match["name"]).lower())
    if _NAMES_IN_QUERIES.search(name):
        return f"{match['before']}{match['name']}={MASK}{_ending(match['value'])}"
    return match[0]


def _mask_value(match: re.Match[str]) -> str:
    value: Any = match["value"]
    quotes = value[0] if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1 else ""
    ending = "" if quotes else _ending(value)
    return f"{match['before']}{quotes}{MASK}{quotes}{ending}"


def _ending(value: str) -> str:
    """The signs after a value that belong to the sentence around it."""
    return value[len(value.rstrip("\"').,:>`")) :]
