# ruff: noqa: E501  a pattern is read in one piece
"""Finds the values of names such as password, token and api_key, in code, configuration, markup, shell, SQL and prose."""

from __future__ import annotations

import re
from collections.abc import Iterator

from academy.curriculum.secret_values import is_code, is_dense, is_identifier, is_placeholder, is_strong, is_words

_PASSWORDS = (
    "pass", "pwd", "psw", "mdp", "mot de passe", "kennwort", "hasło", "haslo", "hasłem", "haslem", "contraseña", "contrasena",
    "senha", "wachtwoord", "lösenord", "пароль",
)  # fmt: skip
_ROOTS = (
    *_PASSWORDS, "secret", "token", "apikey", "key", "auth", "cred", "salt", "pepper", "seed", "mnemonic", "recovery",
    "backup code", "otp", "2fa", "klucz", "schlüssel", "schluessel", "zugangsdaten", "geheimnis", "sekret", "dsn",
    "connection string", "connectionstring", "connection_string", "webhook", "pin",
)  # fmt: skip
_ROOT = re.compile("|".join(re.escape(root) for root in _ROOTS))
_INSIDE_WORDS = (
    "password",
    "passwd",
    "passphrase",
    "passwort",
    "pwd",
    "kennwort",
    "hasło",
    "haslo",
    "senha",
    "secret",
    "token",
    "apikey",
)
"""Names that are found at the end of a longer word, too: PGPASSWORD, mysqlpwd."""
_KEY_OF = re.compile(
    r"(?:api|access|auth|private|secret|client|signing|encryption|enc|master|account|shared|storage|licen[cs]e|deploy|service|"
    r"hmac|app|application|session|integration|ssh|rsa|aes|admin|user|root|db|write|read|write|ingest|publish|sub|subscription|"
    r"routing|project|server|host|merchant|partner|maps|bot|(?<![a-z])x)[_ .-]?$"
)
_PUBLIC_KEY = re.compile(
    r"(?:bucket|foreign|hot|idx|natural|primary|pub|public|schema|sequence|cache|sort|partition|row|col|column|index|group|dict|map|"
    r"hash|object|lookup|unique|composite|registry|message|lang|event|shortcut|item|store|state|query|context|option|field|order|"
    r"dedup|idempotency|etag|file|image|blob|routing|metric|join|node|record|config|data|json|attr|widget|search|restore|storage|"
    r"mon|don|tur|hoc|joc|whis|ssh|build|layer|lock|commit|content)[_ .-]?$"
)
_KEY_WORD = re.compile(
    r"(?:board|word|note|frame|stroke|press|hole|ring|pair|up|down|name|size|length|type|error|stone|map|code|file|path|alias)"
)
_CLI = re.compile(r"(?:--[\w-]{0,40}|(?m:^)[ \t>$#]{0,12}(?:ENV|export|set|setenv|setx)[ \t]{1,4}[\w.-]{0,40})$")
_REST = (
    r"(?:word|wd|phrase|code|wort|wörter|e|entials?|s|id|url|key|val(?:ue)?|string|str|hash)?s?"
    r"(?:[_.-]\w{1,30}+|[A-Z]\w{0,30}+|\d{1,4}+){0,3}+"
)
_LINKS = (
    r"(?P<block>[ \t]{0,9}[:=][ \t]{0,9}[|>][+-]?\d?[ \t]{0,9}\n{1,4}[ \t]{0,40})"
    r"|(?P<pair>[\s,;/>}<{\"'-]{0,20}(?:(?:type|description)[ \t]{0,9}=[^\n]{0,80}\n\s{0,20}){0,3}(?:value|val|default|content)[\"']{0,9}\s{0,3}[:=]\s{0,3})"
    r"|(?P<cell></{1,4}\w{1,20}>{1,4}\s{0,40}<{1,4}\w{1,20}>{1,4}\s{0,20})"
    r"|(?P<typed>[ \t]{0,3}:[ \t]{0,3}[A-Za-z][\w.\[\]|<>?]{0,30}[ \t]{0,3}=[ \t]{0,3})"
    r"|(?P<assign>[ \t]{0,40}(?:=>|->|[?.+|:]{0,3}[:=]{1,3})[ \t]{0,40})(?!\n)"
    r"|(?P<element>(?:[ \t][^<>\n]{0,80})?>{1,4}\s{0,40})"
    r"|(?P<line>[ \t]{0,9}[:=]\*{0,2}[ \t]{0,9}\n{1,4}[ \t]{0,40})"
    r"|(?P<far>(?:[ \t]{1,3}[\w-]{1,20}){1,5}?(?:[ \t]{0,3}(?:=>|:=|=|:)[ \t]{1,3}|[ \t]{1,3}(?:is|was|ist|lautet|est|jest|brzmi)[ \t]{0,3}:?[ \t]{1,3}))"
    r"|(?P<verb>[ \t]{1,3}(?:is|was|to|lautet|ist|est|es|jest|to jest|set to|identified by)[ \t]{0,3}:?[ \t]{1,3})"
    r"|(?P<weak>,[ \t]{0,9}|\([ \t]{0,3}|[ \t]{0,20}\|[ \t]{0,20}|[ \t]{1,20})"
)
_BARE = r"[^\s\"'`<>,;(){}\[\]„“”]"
_VALUE = (
    r"\*{0,2}[ \t]?(?:\[|\b(?:Secret|SecretStr|String)\()?(?:[urbfURBF@]{0,2}(?:"
    r"(?:\"|\"{2,12}(?![,;:)}\]]))\s{0,4}(?P<double>[^\"\n]{4,300})\"|'{1,9}\s{0,4}(?P<single>[^'\n]{4,200})'|`(?P<back>[^`\n]{4,200})`|[„“”«](?P<typographic>[^„“”«»\n]{4,200})[“”»])"
    rf"|(?P<open>[\"'`]{{0,9}})(?P<bare>{_BARE}{{4,200}}))"
)
_AFTER = re.compile(rf"(?P<rest>{_REST})[\"'`\])}}*]{{0,9}}(?:{_LINKS}){_VALUE}")
_LONGER = re.compile(_BARE + "*")
_NOT_QUOTED = re.compile(r"[^\s\"'`]*")
_NEXT_PARAMETER = re.compile(r"&(?=[\w.-]{1,40}=)|&{2,}")
LONGEST = 200
"""Characters of a value that are looked at; it ends where its characters end."""
_WRAPPED = re.compile(
    r"(?:[ \t]{0,3}\\?\n[ \t]{0,40}[A-Za-z0-9+/_-]{40,}={0,2}(?=[\s\"'\\]|$))*(?:[ \t]{0,3}\\?\n[ \t]{0,40}[A-Za-z0-9+/_-]{2,80}={1,2}(?=[\s\"'\\]|$))?"
)
_IDENTIFIED = re.compile(
    r"\bidentified\s{1,4}(?:with\s{1,4}\S{1,60}\s{1,4})?by\s{1,4}(?:password\s{1,4})?(?:'(?P<single>[^'\n]{3,})'|\"(?P<double>[^\"\n]{3,})\")",
    re.IGNORECASE,
)
_NAMED_AFTER = re.compile(
    r"[\"'`]{0,3}[ \t]{1,3}(?:is|as|was|for|ist|jest)[ \t]{1,3}(?:the|a|an|your|my|our|its|das|to)[ \t]{1,3}(?:[\w-]{1,12}[ \t]{1,3}){0,3}?"
    r"(?:password|passphrase|passcode|token|secret|credential|(?:api |access |private |license )?key|passwort|kennwort|hasło)\b",
    re.IGNORECASE,
)
_ADDRESSES = ("dsn", "connection string", "connectionstring", "connection_string")
_TEMPLATE = re.compile(r"\$\{|\{\{|\{\w*\}")
_ARGUMENT = re.compile(r"[A-Za-z_]\w*[:=]")
_TERMS = re.compile(
    r"(?:sha-?\d+|md5|pbkdf2|bcrypt|scrypt|argon2\w*|base\d\d|utf-?\d+|[rhep]s\d{3}|ed25519|oauth2?|aes-?\d\w*|rsa-?\d*|"
    r"#[0-9a-f]{3,8}|\d+(?:[-.]?[a-z]+)?|\d+(?:\.\d+)*%?|.*\.(?:py|md|json|ya?ml|txt|env|toml|ini|cfg|pem|key|crt|js|ts|go|rs|java))$", re.IGNORECASE
)  # fmt: skip


def by_name(view: str) -> Iterator[tuple[str, int, int]]:
    """Kind and range of each value that its name shows."""
    lower = view.lower()
    if len(lower) != len(view):
        lower = view  # lower case changed the length: offsets would not match, so only lower-case names are found
    if "dentified" in view or "IDENTIFIED" in view:
        for match in _IDENTIFIED.finditer(view):
            if not is_placeholder(match["single"] or match["double"]):
                yield "password", *match.span(match.lastgroup or 0)
    yield from _named_after(view)
    until = 0
    for root in _ROOT.finditer(lower):
        if root.start() < until or (link := _AFTER.match(view, root.end())) is None:
            continue
        name = _Name(view, lower, root, link)
        if not name.counts:
            continue
        start, end = name.value
        if name.is_secret(view[start:end]):
            start, until = name.whole(view)
            yield name.kind, start, until


class _Name:
    """A name in a text with the value that may belong to it."""

    def __init__(self, view: str, lower: str, root: re.Match[str], match: re.Match[str]) -> None:
        self.root = root[0]
        self.link = match.lastgroup and next(name for name in _LINK_NAMES if match[name] is not None)
        self.is_flag = (
            self.link == "weak"
            and match["weak"].isspace()
            and _CLI.search(view, max(0, root.start() - 60), root.start()) is not None
        )
        at = root.start()
        before = view[max(0, at - 40) : at]
        self.word = re.search(r"(?<![\w.-])[\w.-]*$", before)[0]  # type: ignore[index]  # the pattern matches anything
        self.is_upper = view[at : root.end()].isupper() and (self.word == "" or self.word.isupper())
        self.is_password = self.root in _PASSWORDS
        self.is_full = lower.startswith(_INSIDE_WORDS, at)
        self.is_plain_key = self.root == "key" and not _KEY_OF.search(lower, max(0, at - 16), at)
        self.symbol = (match[self.link] or "").strip() if self.link else ""
        self.is_line = self.link == "assign" and match["assign"] == "=" and self.is_upper
        self.counts = self._counts(view, lower, at, match)
        group = next(name for name in ("double", "single", "back", "typographic", "bare") if match[name] is not None)
        self.quoted = group != "bare" or bool(match["open"])
        self.value = self._range(view, match, group)
        self.ends_in_call = group == "bare" and view[self.value[1] : self.value[1] + 1] in ("(", "[")

    @property
    def kind(self) -> str:
        """The name that is counted."""
        if self.is_password:
            return "password"
        return "token" if self.root in ("token", "auth") else "key"

    def _counts(self, view: str, lower: str, at: int, match: re.Match[str]) -> bool:
        """Whether this is a name of a secret here, and not a part of another word."""
        last = self.word[-1:]
        begins = not last.isalnum() or (last.islower() and view[at].isupper()) or self.root == "key"
        if (not begins and not (self.is_full or self.is_upper)) or (
            not begins and self.link in ("far", "verb", "weak")
        ):
            return False
        if self.link == "element" and view[at - len(self.word) - 1 : at - len(self.word)] != "<":
            return False
        if (
            self.root == "pass"
            and not self.is_full
            and (self.link in ("far", "verb") or (self.link == "weak" and not self.is_flag))
        ):
            return match["rest"].startswith("phrase")
        if self.root == "key" and _KEY_WORD.match(lower, at + 3 + (view[at + 3 : at + 4] in ("_", "-"))):
            return False
        return not (self.is_plain_key and _PUBLIC_KEY.search(lower, max(0, at - 14), at))

    def _range(self, view: str, match: re.Match[str], group: str) -> tuple[int, int]:
        start, end = match.span(group)
        if group == "bare":
            if self.is_line and not match["open"] and (rest := _NOT_QUOTED.match(view, end, start + LONGEST)):
                end = rest.end()
            if (cut := _NEXT_PARAMETER.search(view, start, end)) is not None:
                end = cut.start()
            if not match["open"]:
                end = start + len(view[start:end].rstrip(".,:;!?\\"))
        return start, end

    def whole(self, view: str) -> tuple[int, int]:
        """The range of the value with what lies beyond the part that was looked at: long tokens, wrapped lines."""
        start, end = self.value
        if end - start >= LONGEST and (longer := _LONGER.match(view, end)):
            end = longer.end()
        if end - start >= 40 and (wrapped := _WRAPPED.match(view, end)):
            end = wrapped.end()
        return start, end

    def is_secret(self, value: str) -> bool:
        """Whether the value looks like one, not like words, code or a placeholder."""
        if len(value) < 4 or is_placeholder(value) or _TEMPLATE.search(value) or _TERMS.match(value):
            return (
                self.root in ("pin", "otp", "2fa") and value.isdigit() and 4 <= len(value) <= 8 and self.symbol != ","
            )
        if self.root in ("pin", "otp", "2fa"):
            return re.fullmatch(r"[A-Z2-7]{16,}", value) is not None
        if self.ends_in_call and not self.quoted:
            return False
        if self.root in _ADDRESSES and any(sign in value for sign in "@="):
            return False  # the other rules remove only the password
        digits, marks = sum(c.isdigit() for c in value), sum(not c.isalnum() and c not in " _-./" for c in value)
        mixed = any(c.islower() for c in value) and any(c.isupper() for c in value)
        chosen = (
            len(value) >= 7
            and any(c.isalpha() for c in value)
            and ((digits >= 1 and marks > 0) or (mixed and digits >= 2))
        )
        if self.is_plain_key:
            return self._is_key(value)
        if self.link in ("line", "weak", "cell", "element") and not self.is_flag:
            if self.link == "element" and self.quoted:
                return False
            if self.link == "element" or (self.quoted and self.symbol == ","):
                return " " not in value and (digits > 0 or marks > 0) and not is_words(value) and len(value) >= 6
            if (
                " " in value
                or is_identifier(value)
                or (self.link == "weak" and not self.quoted and _ARGUMENT.match(value))
            ):
                return False
            plain = mixed and digits >= 2 and self.symbol not in (",", "(")
            return is_strong(value) or (len(value) >= 8 and (plain or (chosen and not is_code(value))))
        if self.quoted:
            return self._is_quoted_secret(value, digits, marks, mixed=mixed)
        return self._is_bare_secret(value, digits, marks, mixed=mixed)

    def _is_quoted_secret(self, value: str, digits: int, marks: int, *, mixed: bool) -> bool:
        if self.link in ("far", "verb") or self.symbol == "==":
            return (
                " " not in value.strip()
                and (digits > 0 or marks > 0)
                and not (is_words(value) and not self.is_password)
            )
        if " " in value.strip():
            return self.is_password and bool(re.fullmatch(r"[a-z]{3,10}(?:[ -][a-z]{3,10}){3,9}", value.strip()))
        if self.is_password or self.root == "secret":
            return (
                digits > 0
                or (marks > 0 and self.is_password)
                or (mixed and len(value) >= 8)
                or (len(value) >= 16 and not is_words(value))
            )
        if is_words(value):
            return False
        return (digits > 1 and len(value) >= 6) or (digits and mixed and len(value) >= 8) or len(value) >= 16

    def _is_bare_secret(self, value: str, digits: int, marks: int, *, mixed: bool) -> bool:
        if (
            self.is_line
            and (digits > 0 or marks > 0)
            and len(value) >= 6
            and not (is_words(value) and not self.is_password)
        ):
            return True
        if is_dense(value):
            return True
        if is_code(value) and (digits < 2 or re.fullmatch(r"[a-z_]+\d{1,2}|[a-z_]\w*(?:\.\w+)+", value)):
            return False
        if is_words(value) and not self.is_password:
            return False
        return (digits > 0 and (any(c.isalpha() for c in value) or marks > 0) and len(value) >= 6) or (
            mixed and len(value) >= 6 and any(c in "!#%^*$@+~" for c in value) and self.is_password
        )

    def _is_key(self, value: str) -> bool:
        """A value after a mere "key": only where it can be nothing else, for keys of maps and caches are everywhere."""
        if not is_strong(value) or is_identifier(value) or " " in value:
            return False
        if self.link in ("assign", "block") and re.fullmatch(r"(?:[a-z]+-)*[0-9a-f]{32,}", value, re.IGNORECASE):
            return self.word[-1:] in ("_", "-")
        return self.link in ("assign", "typed", "pair", "far", "verb", "block")


_LINK_NAMES = ("block", "pair", "cell", "typed", "assign", "element", "line", "far", "verb", "weak")


def _named_after(view: str) -> Iterator[tuple[str, int, int]]:
    """`x7Rf! is the password`: the value before its name."""
    for match in _NAMED_AFTER.finditer(view):
        end = match.start()
        start = end
        while start > max(0, end - 400) and not view[start - 1].isspace() and view[start - 1] not in "\"'`":
            start -= 1
        while view[start : start + 1] in ("#", "/", "*", ";", "(", "[") and start < end:
            start += 1
        value = view[start:end]
        digits = sum(c.isdigit() for c in value)
        shaped = any(c.isupper() for c in value) or any(not c.isalnum() and c not in "_-./" for c in value)
        if (
            len(value) >= 7
            and digits >= 1
            and (shaped or is_strong(value))
            and not (is_placeholder(value) or (is_code(value) and digits < 3) or _TERMS.match(value))
        ):
            yield "password", start, end
