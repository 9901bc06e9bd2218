# ruff: noqa: E501  a pattern is read in one piece
"""Finds secrets in texts: keys, tokens and passwords, by format, by name and by entropy.

Each rule runs only on texts that contain one of its literals, so a text without secrets costs little:

    formats    the key formats of providers; each pattern has a literal that the text must contain
    names      a value after a name such as password, token, api_key, in code, YAML, JSON, shell, SQL, headers, prose
    entropy    long tokens of mixed letters and digits that are not a digest, identifier, path or version

Placeholders (`<your-token>`, `changeme`, `$PASSWORD`, `***`) are not secrets, nor are the marks that redaction leaves.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from academy.errors import InputError
from academy.models.formats import read_row
from academy.records import Record


class Finding(Record):
    """A range of a text; `kind` is the name that is counted."""

    kind: str
    start: int
    end: int


_FORMATS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("private key", ("PRIVATE KEY",), r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:.*?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|.*)"),
    ("private key", ("AGE-SECRET-KEY-",), r"AGE-SECRET-KEY-1[0-9A-Z]{40,}"),
    ("private key", ("Private-Lines:",), r"Private-Lines: \d+(?:\s+[A-Za-z0-9+/=]+)+"),
    ("private key", ("PrivateKey", "PresharedKey"), r"(?:PrivateKey|PresharedKey)\s*=\s*[A-Za-z0-9+/]{42,44}=?"),
    ("AWS key", ("AKIA", "ASIA", "ABIA", "ACCA"), r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b"),
    ("Google key", ("AIza", "ya29.", "GOCSPX-"), r"\bAIza[\w-]{35}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}"),
    ("Azure key", ("AccountKey=", "SharedAccessKey=", "SharedAccessSignature", "Q~"), r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{20,}={0,2}|SharedAccessSignature[ =][^\s\"']{20,}|(?<![\w~.-])[\w~.-]{3}\dQ~[\w~.-]{31,34}"),
    ("Azure key", ("sig=",), r"[?&]sig=[A-Za-z0-9%+/]{30,}={0,2}"),
    ("GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"), r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"),
    ("GitLab token", ("glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glimt-", "glft-", "glsoat-", "glagent-", "gloas-", "GR1348941"), r"\bgl(?:pat|dt|rt|ptt|cbt|imt|ft|soat|agent|oas|ffct)-[\w-]{18,}|\bGR1348941[\w-]{20}"),
    ("Atlassian token", ("ATATT", "ATBB", "ATCTT"), r"\bAT(?:ATT|BB|CTT)[A-Za-z0-9_=-]{20,}"),
    ("Slack token", ("xox", "xapp-"), r"\bxox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{20,}"),
    ("webhook", ("hooks.", "webhook", "/api/webhooks/"), r"https?://(?:[\w.-]*hooks?[\w.-]*\.[a-z]{2,}|[\w.-]+)/(?:services|workflows|api/webhooks|webhook|webhooks|webhookb2|hooks?|triggers?)/[\w/@=-]{16,}"),
    ("Discord token", (".",), r"\b[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,}"),
    ("Telegram token", (":AA",), r"\b\d{8,10}:AA[\w-]{32,33}"),
    ("Stripe key", ("k_live_", "k_test_", "whsec_"), r"\b[spr]k_(?:live|test)_[A-Za-z0-9]{16,}|\bwhsec_[A-Za-z0-9+/=]{24,}"),
    ("payment key", ("sq0", "access_token$", "shp", "EZ", "rzp_"), r"\bsq0[a-z]{3}-[\w-]{22,}|access_token\$(?:production|sandbox)\$[a-z0-9]{16}\$[a-f0-9]{32}|\bshp(?:at|ss|ca|pa)_[a-fA-F0-9]{32}|\bEZ[AT]K[A-Za-z0-9]{54}|\brzp_(?:live|test)_\w{14,}"),
    ("Twilio key", ("SK", "AC"), r"\b(?:SK|AC)[0-9a-f]{32}\b"),
    ("mail key", ("SG.", "key-", "-us", "xkeysib-", "re_"), r"\bSG\.[\w-]{16,}\.[\w-]{16,}|\bkey-[0-9a-z]{32}\b|\b[0-9a-f]{32}-us\d{1,2}\b|\bxkeysib-[0-9a-f]{64}-\w{16}|\bre_[A-Za-z0-9]{8}_\w{20,}"),
    ("model key", ("sk-", "hf_", "r8_", "gsk_", "pplx-", "xai-", "co_"), r"\bsk-[\w-]{20,}|\bhf_[A-Za-z0-9]{20,}|\br8_[A-Za-z0-9]{30,}|\bgsk_[A-Za-z0-9]{30,}|\bpplx-[A-Za-z0-9]{30,}|\bxai-[A-Za-z0-9]{40,}"),
    ("registry token", ("npm_", "pypi-", "rubygems_", "dckr_", "cio", "oy2"), r"\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{30,}|\brubygems_[0-9a-f]{40,}|\bdckr_[a-z]{3}_[\w-]{20,}|\bcio[A-Za-z0-9]{32}\b|\boy2[a-z0-9]{43}"),
    ("cloud token", ("_v1_", "dapi", "hvs.", "hvb.", "tskey-", "sbp_", "pscale_", "dp.", "FlyV1", "HRKU-", "pul-", "ops_eyJ"), r"\bdo[opr]_v1_[0-9a-f]{40,}|\bdapi[0-9a-f]{32}|\bhv[sbr]\.[\w-]{24,}|\btskey-[\w-]{20,}|\bsbp_[0-9a-f]{40}|\bpscale_\w+_[\w.-]{30,}|\bdp\.(?:pt|st|ct|sa|scim|audit)\.[\w.]{30,}|FlyV1 \S{20,}|\bHRKU-[\w-]{30,}|\bpul-[0-9a-f]{40}|\bops_eyJ[\w=-]{50,}"),
    ("cloud token", ("atlasv1",), r"\w{14}\.atlasv1\.[\w-]{40,}"),
    ("service token", ("glsa_", "glc_", "lin_", "secret_", "ntn_", "figd_", "pat", "sntry", "NRAK-", "NRJS-", "PMAK-", "CFPAT-", "sl.", "EAA"), r"\bgls?[ac]_[\w+/=-]{30,}|\blin_(?:api|oauth)_\w{30,}|\bsecret_[A-Za-z0-9]{40,}|\bntn_[A-Za-z0-9]{40,}|\bfigd_[\w-]{30,}|\bpat[A-Za-z0-9]{14}\.[0-9a-f]{50,}|\bsntry[su]_[\w=/+-]{30,}|\bNR(?:AK|JS|II|RA)-[\w-]{19,}|\bPMAK-[0-9a-f-]{40,}|\bCFPAT-[\w-]{40,}|\bsl\.[\w-]{100,}|\bEAA[A-Za-z0-9]{50,}"),
    ("JSON web token", ("eyJ",), r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?"),
    ("password in an address", ("://",), r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s/:@\"'<>]{0,60}:(?P<value>[^\s/@\"'<>]{3,})@"),
    ("authorization header", ("uthorization", "AUTHORIZATION", "earer ", "BEARER "), r"(?i:\bauthorization\b[\"']?\s*[:=]\s*[\"']?(?:basic|bearer|token|digest|apikey|negotiate)?\s*|\bbearer\s+)(?P<value>[\w.~+/=:-]{12,})"),
    ("cookie", ("ookie",), r"(?i:\b(?:set-)?cookie\b[\"']?\s*[:=]\s*[\"']?)(?:[\w.-]+=[^;\s\"']*;\s*)*[\w.-]+=(?P<value>[^;\s\"']{16,})"),
    ("password hash", ("$2", "$6$", "$5$", "$1$", "$apr1$", "$argon2", "$y$", "pbkdf2_", "{SSHA}"), r"\$(?:2[aby]|[156y]|apr1|argon2(?:id?|d))\$[^\s:\"']{20,}|pbkdf2_sha\d+\$\d+\$\S{20,}|\{SSHA\}[A-Za-z0-9+/=]{20,}"),
    ("login file", ("machine ", "login "), r"\bmachine\s+\S+\s+login\s+\S+\s+password\s+(?P<value>\S+)"),
    ("login file", (":",), r"(?m:^[+ ]?[\w.*-]+:(?:\d{2,5}|\*):[\w*-]+:[\w*-]+:(?P<value>[^\s:]{4,})$)"),
    ("seed phrase", ("phrase", "mnemonic", "seed", "wallet"), r"(?i:\b(?:seed|recovery|backup|mnemonic|wallet)\b[^\n]{0,40}?[:=\"'\s])(?P<value>(?:[a-z]{3,8}[ ,]+){11}(?:[a-z]{3,8}[ ,]+){0,12}[a-z]{3,8})"),
    ("wallet key", ("0x",), r"\b0x[0-9a-fA-F]{64}\b"),
    ("docker login", ('"auth"',), r"\"auth\"\s*:\s*\"(?P<value>[A-Za-z0-9+/=]{12,})\""),
    ("basic login", ("curl", "wget", "http"), r"(?:\s-u|--user|--proxy-user)[ =]['\"]?[^\s:'\"]+:(?P<value>[^\s'\"]{3,})"),
    ("command line password", ("-p", "--pass", "sshpass", "-a "), r"(?:\bsshpass\s+-p\s*|\b(?:mysql|mysqldump|mysqladmin|mariadb)\b[^\n|;]*?\s-p|\bredis-cli\b[^\n|;]*?\s-a\s+)['\"]?(?P<value>[^\s'\"-][^\s'\"]{3,})"),
)  # fmt: skip
_COMPILED = tuple((kind, words, re.compile(pattern, re.DOTALL)) for kind, words, pattern in _FORMATS)

_ROOTS = (
    "pass", "pwd", "psw", "mdp", "mot de passe", "kennwort", "hasło", "haslo", "hasłem", "haslem", "contraseña", "contrasena",
    "senha", "wachtwoord", "lösenord", "пароль", "secret", "token", "apikey", "key", "auth", "cred", "salt", "pepper",
    "seed", "mnemonic", "recovery", "backup code", "otp", "2fa", "klucz", "schlüssel", "schluessel", "zugangsdaten",
    "geheimnis", "sekret", "dsn", "connection string", "connectionstring", "connection_string", "webhook", "pin",
)  # fmt: skip
_ROOT = re.compile("|".join(re.escape(root) for root in _ROOTS))
_KEY_OF = re.compile(
    r"(?:api|access|auth|private|secret|client|signing|encryption|enc|master|account|shared|storage|licen[cs]e|deploy|service|"
    r"hmac|app|application|session|integration|ssh|rsa|aes|admin|user|root|db|write|read|write|ingest|publish|sub|subscription|"
    r"routing|project|server|host|merchant|partner|maps|bot|x)[_ .-]?$"
)
_AFTER = re.compile(
    r"(?:word|wd|phrase|code|wort|wörter|e|entials?|s|id|url|key)?s?(?:[_.-]\w{1,30}|[A-Z]\w{0,30}|\d{1,4}){0,3}[\"'\])]{0,3}"
    r"(?P<link>(?:[ \t]+\w{1,12}){0,5}?(?:[ \t]*(?:=>|:=|=|:)[ \t]+|[ \t]+(?:is|was|ist|lautet|est|jest|brzmi)[ \t]*:?[ \t]+)|[ \t]*(?:=>|:=|==|=|:)[ \t]*|[ \t]+(?:is|was|to|lautet|ist|est|es|jest|to jest|set to|identified by)[ \t]*:?[ \t]+|,[ \t]*|[ \t]+)"
    r"(?:[\"'`„“”«]{1,3}(?P<quoted>[^\"'`„“”«»\n]{4,200})[\"'`„“”»]|(?P<bare>[^\s\"'`<>,;(){}\[\]„“”]{4,200}))"
)
_IDENTIFIED = re.compile(
    r"\bidentified\s+(?:with\s+\S+\s+)?by\s+(?:password\s+)?'(?P<value>[^'\n]{3,})'", re.IGNORECASE
)
_PLACEHOLDER = re.compile(
    r"^(?:[<{\[(%$*.#_x-]|x{3,}|\.{3}|your|my[-_]|the[-_]|some[-_]|insert|enter|replace|change|example|sample|dummy|test$|"
    r"testing$|todo|fixme|none$|null$|nil$|true$|false$|undefined|redacted|removed|hidden|masked|secret$|password|passwort|"
    r"passwd$|token$|empty|required|optional|string|str$|int$|bytes|bool|function|lambda|self\.|this\.|os\.|env\b|"
    r"environ|process\.env|config|settings|getenv|vault:|secretref|ssm:|arn:|ref\+|valuefrom|fromenv|\[secret|"
    r"https?://[^@]*$|/|\./|~/|secret/|kv/|vault/|projects/|op://|cache|v\d+$|\d{4}-\d\d-\d\d)",
    re.IGNORECASE,
)
_CODE = re.compile(r"^[A-Za-z_][\w-]*(?:(?:\.|::|->|/)[A-Za-z_][\w-]*)*(?:\(.*)?[.:!?]?$")
_TOKEN = re.compile(r"(?<![\w+/=.-])[A-Za-z0-9][\w+/.~-]{19,}={0,2}")
_NO_TOKEN = re.compile(
    r"^(?:sha\d{1,3}[-:]|md5[-:]|h1:|data:|[0-9a-fA-F-]+$|[0-9a-f]{7,}\.\.[0-9a-f]{7,}|v?\d+(?:\.\d+)+|.*\.(?:py|js|ts|md|rs|go|java|"
    r"json|ya?ml|toml|txt|html?|css|c|h|cpp|sh|png|jpe?g|svg|lock|cfg|ini|whl|gz|zip|com|org|net|io|dev)$)"
)
_PREFIXED = re.compile(r"^[A-Za-z][A-Za-z0-9]{1,11}(?:[_-][a-z0-9]{1,12}){0,3}[_-](?P<rest>[A-Za-z0-9]{16,})$")
_CARRIER = re.compile(
    r"(?:integrity|sha\d{3}|checksum|digest|resolved|hash|hashes|base64,|h1|zh|h2|public[_ -]?key|pub|ssh-(?:rsa|dss|ed25519)|"
    r"ecdsa-[\w-]+|cache[_ -]?key|fingerprint|etag|revision|commit|nonce)[\"'\s:=(\[]*$",
    re.IGNORECASE,
)
_PUBLIC_BLOCK = re.compile(
    r"-----BEGIN (?:[A-Z0-9 ]*CERTIFICATE(?: REQUEST)?|[A-Z0-9 ]*PUBLIC KEY(?: BLOCK)?|PGP SIGNATURE|PGP MESSAGE)-----.*?-----END",
    re.DOTALL,
)
UNKNOWN = "unknown token"
MIN_ENTROPY = 4.0
"""Bits per character of a long token (random base64 has about 5, identifiers and words have less than 3.8)."""
LONGEST_TOKEN = 150
"""Longer tokens are files in base64, not keys."""


def find_secrets(text: str) -> tuple[Finding, ...]:
    """All secrets in a text, in order, without overlaps."""
    return merge_findings([*_by_format(text), *_by_name(text), *_by_entropy(text)])


def redact(text: str) -> tuple[str, tuple[Finding, ...]]:
    """The text with `[secret: kind]` in place of each secret, and the findings. It is idempotent."""
    return replace_findings(text, find_secrets, "secret")


def holds_key_file(text: str) -> bool:
    """Whether the text contains a private key as in a key file. Such a text is dropped, not redacted."""
    return "PRIVATE KEY" in text and any(finding.kind == "private key" for finding in _by_format(text))


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
    """Replace findings by `[mark: kind]` until there are no more. Returns the text and all findings."""
    replacements: list[Finding] = []
    for _ in range(8):
        findings = find(text)
        if not findings:
            break
        replacements += findings
        for finding in reversed(findings):
            text = f"{text[: finding.start]}[{mark}: {finding.kind}]{text[finding.end :]}"
    return text, tuple(replacements)


def scan_file(path: Path) -> int:
    """Scan a training file for secrets, line by line, with JSON escapes decoded. Returns the number of lines.

    It fails closed: raises InputError if there is a secret or the file cannot be read.
    """
    import orjson

    number = 0
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                messages = read_row(orjson.loads(line))
                texts = [message["content"] for message in messages] if not isinstance(messages, str) else [messages]
                secret = next((finding for text in texts for finding in find_secrets(text)), None)
                if secret is not None:
                    raise InputError(
                        f"Line {number} of {path.name} contains a secret ({secret.kind}).",
                        "Nothing was trained. Delete the lesson with `academy lessons forget`.",
                    )
    except (OSError, orjson.JSONDecodeError) as problem:
        raise InputError(f"{path.name} cannot be scanned for secrets.", "Run `academy curate` again.") from problem
    return number


def _by_format(text: str) -> Iterator[Finding]:
    for kind, words, pattern in _COMPILED:
        if any(word in text for word in words):
            for match in pattern.finditer(text):
                has_value = "value" in pattern.groupindex
                start, end = match.span("value") if has_value else match.span()
                if not (has_value and _PLACEHOLDER.match(text[start:end])) and "XXXX" not in text[start:end]:
                    yield Finding(kind=kind, start=start, end=end)


def _by_name(text: str) -> Iterator[Finding]:
    lower = text.lower()
    if len(lower) != len(text):
        lower = text  # lower case changed the length: offsets would not match, so only lower-case names are found
    for match in _IDENTIFIED.finditer(text):
        if not _PLACEHOLDER.match(match["value"]):
            yield Finding(kind="password", start=match.start("value"), end=match.end("value"))
    until = 0
    for name in _ROOT.finditer(lower):
        if name.start() < until or not _begins_word(text, name.start()):
            continue
        if name[0] == "key" and not _KEY_OF.search(lower, max(0, name.start() - 16), name.start()):
            continue
        assignment = _AFTER.match(text, name.end())
        if assignment is None:
            continue
        group = "quoted" if assignment["quoted"] is not None else "bare"
        start, end = assignment.span(group)
        value = text[start:end]
        if group == "bare":
            value = value.rstrip(".,:;!?")
            end = start + len(value)
        if _is_value(value, assignment["link"], name[0], quoted=group == "quoted"):
            yield Finding(kind=_kind_of(name[0]), start=start, end=end)
            until = end


def _begins_word(text: str, at: int) -> bool:
    """Whether a name begins here: not after a letter, or as the next word of a camelCase name."""
    before = text[at - 1 : at]
    return not before.isalnum() or (before.islower() and text[at].isupper()) or text[at : at + 3] == "key"


def _is_value(value: str, link: str, name: str, *, quoted: bool) -> bool:
    """Whether the text after a name such as password looks like its value, not like words, code or a placeholder."""
    if len(value) < 4 or _PLACEHOLDER.match(value) or "${" in value or "{{" in value:
        return False
    if name.startswith(("pin", "otp", "2fa", "totp")):
        return bool(re.fullmatch(r"\d{4,8}|[A-Z2-7]{16,}", value)) and link.strip() != ","
    digits, marks = sum(c.isdigit() for c in value), sum(not c.isalnum() and c not in " _-./" for c in value)
    mixed_case = any(c.islower() for c in value) and any(c.isupper() for c in value)
    is_assignment = link.strip()[-1:] in ("=", ":", ">")
    if quoted and is_assignment and link.strip() != "==":
        if " " in value.strip():
            return name.startswith("pass") and bool(re.fullmatch(r"[a-z]{3,10}(?:[ -][a-z]{3,10}){3,9}", value.strip()))
        return digits > 0 or marks > 0 or (mixed_case and len(value) >= 8) or len(value) >= 16
    if quoted:
        return " " not in value.strip() and (digits > 0 or marks > 0)
    if _CODE.match(value) and (digits < 2 or re.fullmatch(r"[a-z_]+\d{1,2}|[a-z_]\w*(?:\.\w+)+", value)):
        return False
    if not is_assignment and link.strip() in ("", ","):
        return digits >= 2 and mixed_case and len(value) >= 8
    return (digits > 0 and (any(c.isalpha() for c in value) or marks > 0) and len(value) >= 6) or (
        marks > 0 and mixed_case
    )


def _kind_of(name: str) -> str:
    low = name.lower()
    if any(word in low for word in ("pass", "pwd", "psw", "has", "kenn", "mdp", "mot", "contrase", "senha", "пароль")):
        return "password"
    return "token" if "token" in low or "auth" in low else "key"


def _by_entropy(text: str) -> Iterator[Finding]:
    public = [match.span() for match in _PUBLIC_BLOCK.finditer(text)] if "-----BEGIN" in text else []
    for match in _TOKEN.finditer(text):
        if any(begin <= match.start() < end for begin, end in public):
            continue
        token = match[0].rstrip(".=-~")
        if not 20 <= len(token) <= LONGEST_TOKEN or _NO_TOKEN.match(token):
            continue
        prefix = _PREFIXED.match(token)
        core = prefix["rest"] if prefix else token
        if not _random(core, short=prefix is not None):
            continue
        if _CARRIER.search(text, max(0, match.start() - 24), match.start()):
            continue
        yield Finding(kind=UNKNOWN, start=match.start(), end=match.start() + len(token))


def _random(token: str, *, short: bool) -> bool:
    """Whether a token looks random: digits among letters of both cases, high entropy, without words or paths."""
    digits = sum(c.isdigit() for c in token)
    letters = sum(c.isalpha() for c in token)
    if digits < 3 or letters < 6 or len(token) < (16 if short else 24):
        return False
    if not (any(c.islower() for c in token) and any(c.isupper() for c in token)) and not short:
        return False
    if token.count("/") > 1 + len(token) // 24 or re.search(r"[a-z]{7,}|[A-Z][a-z]{4,}[A-Z_./-][a-z]|\d{8,}", token):
        return False
    if re.fullmatch(r"[0-9a-f]+", token):
        return short and len(token) not in (40, 64)  # a digest after a name
    return _entropy(token) >= (3.3 if short else MIN_ENTROPY)


def _entropy(token: str) -> float:
    counts = Counter(token)
    return -sum(n / len(token) * math.log2(n / len(token)) for n in counts.values())
