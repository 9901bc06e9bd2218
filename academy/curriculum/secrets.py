# ruff: noqa: E501  a pattern is read in one piece
r"""Finds secrets in texts: keys, tokens and passwords, by format, by name and by entropy.

    formats    the key formats of providers, addresses, headers, command lines (secret_formats.py)
    names      a value with a name such as password, token, api_key, in code, YAML, JSON, XML, shell, SQL, prose
    entropy    long tokens of mixed letters and digits that are not a digest, identifier, path or version

The rules search a view of the text in which escapes (`\"`, `&quot;`, `%22`, `\n`) are plain signs of the same length,
so a secret in JSON within JSON, in XML or in an address is found like any other.

Placeholders (`<your-token>`, `changeme`, `$PASSWORD`, `***`) are not secrets, nor are the marks that redaction leaves:
a few short words of letters. Anybody can write brackets around a secret.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from academy.curriculum.secret_formats import by_format
from academy.curriculum.secret_names import by_name
from academy.curriculum.secret_values import is_code, is_identifier, is_random, is_strong, is_words
from academy.errors import InputError
from academy.models.formats import read_row
from academy.records import Record


class Finding(Record):
    """A range of a text; `kind` is the name that is counted."""

    kind: str
    start: int
    end: int


_ESCAPES = re.compile(
    r"[\\&%\[](?:(?<=\\)\\{0,7}(?:(?P<quote>[\"'`]|u002[27])|(?P<line>[nrt]|x[0-9a-fA-F]{2})|(?P<less>u003[cC])|(?P<greater>u003[eE])|(?P<and>u0026))"
    r"|(?<=&)(?:(?P<quote_entity>(?:quot|apos|#34|#39|#x22|#x27);)|(?P<less_entity>lt;)|(?P<greater_entity>gt;)|(?P<and_entity>amp;))"
    r"|(?<=%)(?:(?P<quote_percent>2[27])|(?P<equals>3[dD])|(?P<colon>3[aA])|(?P<space>20)|(?P<and_percent>26))"
    r"|(?<=\[)(?P<mark>(?:secret|personal): [A-Za-z-]{1,14}(?: [A-Za-z-]{1,14}){0,4}\]))"
)
_PLAIN = {"less": "<", "greater": ">", "line": "\n", "mark": "\n", "quote": '"'}
_LAST = {"equals": "=", "colon": ":", "space": " ", "and": "&"}
_TOKEN = re.compile(r"(?<![\w+/=.-])[A-Za-z0-9][\w+/.~-]{19,}={0,2}")
_NO_TOKEN = re.compile(
    r"(?:sha\d{1,3}[-:]|md5[-:]|h1:|data:|[0-9a-fA-F]+$|[0-9]+(?:-[0-9a-fA-F]+)+$|[0-9a-fA-F]+(?:-[0-9a-fA-F]{1,12}){2,}$|[0-9a-f]{7,}\.\.[0-9a-f]{7,}|v?\d+(?:\.\d+)+|.*\.(?:py|js|ts|md|rs|go|java|"
    r"json|ya?ml|toml|txt|html?|css|c|h|cpp|sh|png|jpe?g|svg|lock|cfg|ini|whl|gz|zip|com|org|net|io|dev)$)"
)
_PREFIXED = re.compile(r"[A-Za-z][A-Za-z0-9]{1,11}(?:[_.-][a-z0-9]{1,12}){0,3}[_.-](?P<rest>[A-Za-z0-9]{16,})$")
_DIGEST_PREFIX = re.compile(
    r"(?:.*[_-])?(?:sha\d*|md5|rev|commit|hash|digest|build|index|chunk|etag|layer|blob|cache|npm|app|main|git|image|img)[_.-]",
    re.IGNORECASE,
)
_CARRIER = re.compile(
    r"(?:integrity|sha\d{3}|checksum|digest|resolved|hash|hashes|base64,|h1|zh|h2|public[_ -]?key|pub|ssh-(?:rsa|dss|ed25519)|"
    r"ecdsa-[\w-]{1,24}|cache[_ -]?key|fingerprint|etag|revision|commit|nonce)[\"'\s:=(\[]*$",
    re.IGNORECASE,
)
_CONTEXT = re.compile(
    r"secret|token|passw|pwd|credential|api.?key|private|licen[cs]e|access.?key|\bkey\b|bearer", re.IGNORECASE
)
_PUBLIC_BLOCK = re.compile(
    r"-----BEGIN (?:[A-Z0-9 ]*CERTIFICATE(?: REQUEST)?|[A-Z0-9 ]*PUBLIC KEY(?: BLOCK)?|PGP SIGNATURE|PGP MESSAGE)-----"
    r"[^-]*+(?:-(?!----(?:BEGIN|END))[^-]*+)*+-----END"
)
UNKNOWN = "unknown token"
LONGEST_FILE_TOKEN = 150
"""Longer tokens of plain base64 are files, unless the words before them name a secret."""
MOST_PASSES, SCAN_SECONDS = 50, 60.0
"""Redaction repeats until nothing is left: limits of its passes, and of the CPU seconds of its thread."""


class UnscannableError(InputError):
    """A text cannot be scanned for secrets or personal data within the limits. It must not be learned or stored."""


def find_secrets(text: str) -> tuple[Finding, ...]:
    """All secrets in a text, in order, without overlaps."""
    view = _view(text)
    ranges = (*by_format(view), *by_name(view), *_by_entropy(view))
    return merge_findings([Finding(kind=kind, start=start, end=end) for kind, start, end in ranges])


def redact(text: str) -> tuple[str, tuple[Finding, ...]]:
    """The text with `[secret: kind]` in place of each secret, and the findings. It is idempotent."""
    return replace_findings(text, find_secrets, "secret")


def holds_key_file(text: str) -> bool:
    """Whether the text contains a private key as in a key file. Such a text is dropped, not redacted."""
    return "PRIVATE KEY" in text and any(kind == "private key" for kind, _, _ in by_format(_view(text)))


def merge_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """Findings in order; overlapping ones become one that covers them all, with the kind of the first."""
    ranges: list[Finding] = []
    for finding in sorted(findings, key=lambda finding: (finding.start, -finding.end)):
        if ranges and finding.start < ranges[-1].end:
            previous = ranges[-1]
            kind = finding.kind if previous.kind == UNKNOWN else previous.kind
            ranges[-1] = Finding(kind=kind, start=previous.start, end=max(finding.end, previous.end))
        else:
            ranges.append(finding)
    return tuple(ranges)


def replace_findings(
    text: str, find: Callable[[str], tuple[Finding, ...]], mark: str
) -> tuple[str, tuple[Finding, ...]]:
    """Replace findings by `[mark: kind]` until there are no more. Returns the text and all findings.

    It fails closed: raises UnscannableError where something may be left.
    """
    replacements: list[Finding] = []
    until = time.thread_time() + SCAN_SECONDS
    for _ in range(MOST_PASSES):
        findings = find(text)
        if not findings:
            return text, tuple(replacements)
        if time.thread_time() > until:
            break
        replacements += findings
        parts: list[str] = []
        end = 0
        for finding in findings:
            parts += (text[end : finding.start], f"[{mark}: {finding.kind}]")
            end = finding.end
        text = "".join((*parts, text[end:]))
    raise UnscannableError(
        f"A text of {len(text):,} characters cannot be scanned for secrets and personal data within the limits.",
        "It is neither learned nor stored. Split it.",
    )


def scan_file(path: Path) -> int:
    """Scan a training file for secrets, line by line, with JSON escapes decoded. Returns the number of lines.

    It fails closed: raises InputError if there is a secret or the file cannot be read.
    """
    import orjson

    number = 0
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                transcript = read_row(orjson.loads(line))
                if isinstance(transcript, str):
                    raise InputError(
                        f"Line {number} of {path.name} cannot be scanned for secrets: {transcript}.",
                        "Nothing was trained. Run `academy curate` again.",
                    )
                secret = next((finding for text in transcript.texts for finding in find_secrets(text)), None)
                if secret is not None:
                    raise InputError(
                        f"Line {number} of {path.name} contains a secret ({secret.kind}).",
                        "Nothing was trained. Delete the lesson with `academy lessons forget`.",
                    )
    except (OSError, orjson.JSONDecodeError) as problem:
        raise InputError(f"{path.name} cannot be scanned for secrets.", "Run `academy curate` again.") from problem
    return number


def _view(text: str) -> str:
    """The text with escapes as plain signs, and marks of earlier redactions as line ends; the length stays."""
    if not any(sign in text for sign in ("\\", "&", "%", "[")):
        return text
    return _ESCAPES.sub(_plain, text)


def _plain(match: re.Match[str]) -> str:
    name, length = (match.lastgroup or "").partition("_")[0], len(match[0])
    return _PLAIN[name] * length if name in _PLAIN else _LAST[name].rjust(length)


def _by_entropy(view: str) -> Iterator[tuple[str, int, int]]:
    public = [match.span() for match in _PUBLIC_BLOCK.finditer(view)][::-1] if "-----BEGIN" in view else []
    for match in _TOKEN.finditer(view):
        token = match[0].rstrip(".=-~")
        if len(token) < 20 or _NO_TOKEN.match(token):
            continue
        while public and public[-1][1] <= match.start():
            public.pop()
        if public and public[-1][0] <= match.start():
            continue
        prefix = _PREFIXED.match(token)
        core = prefix["rest"] if prefix else token
        start = match.start()
        if not is_random(core, short=prefix is not None) and not _is_named(view, start, token):
            continue
        if prefix and re.fullmatch(r"[0-9a-f]+", core) and _DIGEST_PREFIX.match(token):
            continue
        if (
            len(token) > LONGEST_FILE_TOKEN
            and not re.search(r"[-_.~]", token)
            and not _CONTEXT.search(view, max(0, start - 60), start)
        ):
            continue
        if _CARRIER.search(view, max(0, start - 24), start):
            continue
        yield UNKNOWN, start, start + len(token)


def _is_named(view: str, start: int, token: str) -> bool:
    """Whether a long token of one case stands behind a word such as token or secret."""
    if (
        not re.search(r"[g-zG-Z]", token)
        or is_words(token)
        or (is_code(token) and "_" in token)
        or is_identifier(token)
        or not is_strong(token)
    ):
        return False
    return sum(c.isdigit() for c in token) >= 4 and _CONTEXT.search(view, max(0, start - 40), start) is not None
