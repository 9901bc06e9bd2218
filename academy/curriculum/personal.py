# ruff: noqa: E501  a pattern is read in one piece
"""Finds personal data in texts: e-mail addresses, telephone numbers, IP addresses, cards, accounts, national numbers.

A number counts only if its check digits are valid (python-stdnum) or a numbering plan contains it (phonenumbers), so
order numbers, versions and digests stay. Addresses that belong to no person (example.org, noreply, private and
documentation networks) are not personal.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import cache

from academy.curriculum.secrets import Finding, merge_findings, replace_findings

_AT = r"(?:@|\s?[\[({]\s?(?:at|@|małpa|malpa)\s?[\])}]\s?|\s(?:at|AT|małpa)\s|&#64;|%40)"
_DOT = r"(?:\.|\s?[\[({]\s?(?:dot|kropka|punkt|\.)\s?[\])}]\s?|\s(?:dot|DOT|kropka)\s)"
_DOTS = re.compile(_DOT)
_EMAIL = re.compile(
    rf"(?<![\w.+-])(?P<local>[A-Za-z0-9_][\w.+-]{{0,63}}?){_AT}(?P<domain>(?:[\w-]{{1,40}}{_DOT}){{1,4}}[A-Za-z]{{2,12}})(?!\w)"
)
_IMPERSONAL_DOMAIN = re.compile(
    r"(?i:(?:^|[.@])example\.(?:com|org|net|edu)$|\.(?:example|test|invalid|localhost|local)$|^(?:users\.noreply|noreply)\.)"
)
_SHARED_LOCAL_PART = re.compile(
    r"(?i:^(?:no-?reply|do-?not-?reply|git|hostmaster|postmaster|mailer-daemon|user|name|you|me)$)"
)
_IPV4 = re.compile(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")
_VERSION = re.compile(r"(?i:(?:version|ver|release|v|==|>=|~=|\^)[\s:=]{0,12}$)")
_PHONE = re.compile(r"(?<![\w./:-])(?:\+|00)?\(?\d[\d ()./\u00a0-]{6,20}\d(?![\w-]|\.\d)")
_PHONE_WORDS = re.compile(
    r"(?i:\b(?:tel|telefon|telephone|téléphone|phone|mobile|mob|cell|call|ring|fax|gsm|kom|komórka|zadzwoń|dzwoń|handy|"
    r"nummer|anrufen|ruf|erreichbar|reach|sms|whatsapp|signal|number|numer|nr|portable|móvil|teléfono|cellulare)\b)"
)
_REGIONS = ("US", "GB", "DE", "PL", "FR", "ES", "IT", "NL", "CZ", "AT", "CH", "SE", "BR", "IN", "AU", "CA", "UA", "IE")
_CARD = re.compile(
    r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{1,7}(?![\w-])|(?<![\w.-])3[47]\d{2}[ -]?\d{6}[ -]?\d{5}(?![\w-])"
)
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?(?!\w)")
_ACCOUNT = re.compile(r"(?<!\w)\d{2}(?:[ -]?\d{4}){6}(?!\w)")
_NAMED_ACCOUNT = re.compile(
    r"(?i:\b(?:account|acct|konto|kontonummer|nr konta|rachunek|compte|cuenta|conto|routing|sort code|passport|paszport|"
    r"reisepass|driver'?s licen[cs]e|dowód osobisty|nr dowodu|personalausweis)(?:\s++(?:number|no\.?|nr\.?|numer|nummer))?+\s*+"
    r"(?:is|to|lautet|jest|:|=|#)?+\s*+)(?P<value>[A-Z]{0,3}\d[\d -]{5,20}\d)"
)
_STRICT = re.compile(
    r"(?<![\w.-])(?:[A-Z]{1,2}[ -]?|[A-Z]{1,6})?\d[\dA-Z]*(?:[ ./+-]\d[\dA-Z]*){0,8}(?:[ -]?[A-Z])?(?![\w-])"
)
_NUMBER_WORDS = re.compile(
    r"(?i:\b(?:pesel|nip|regon|steuer-?id(?:entifikationsnummer)?|idnr|steuernummer|bsn|burgerservicenummer|sofi|dni|nie|nif|"
    r"nir|sécu(?:rité sociale)?|insee|personnummer|samordningsnummer|cpf|aadhaar|aadhar|ssn|social security|sin|nino|"
    r"national insurance|ni number|nhs|codice fiscale|hetu|henkilötunnus|cpr|cnp|egn|rodné číslo|rč|rrn|tckn|curp|fødselsnummer|"
    r"tax id|tfn|medicare|ahv|avs|national id|id number|identity number|numer identyfikacyjny)\b)"
)


def find_personal(text: str) -> tuple[Finding, ...]:
    """All personal data in a text, in order, without overlaps."""
    findings = [*_emails(text)]
    if any(character.isdigit() for character in text):
        findings += [*_accounts(text), *_national(text), *_networks(text), *_phones(text, findings)]
    return merge_findings(findings)


def redact(text: str) -> tuple[str, tuple[Finding, ...]]:
    """The text with `[personal: kind]` in place of each finding, and the findings. It is idempotent."""
    return replace_findings(text, find_personal, "personal")


def _emails(text: str) -> Iterator[Finding]:
    if not any(mark in text for mark in ("@", "at", "AT", "małpa", "&#64;", "%40")):
        return
    for match in _EMAIL.finditer(text):
        domain = _DOTS.sub(".", match["domain"]).lower()
        plain = "@" in match[0]
        if not plain and not re.search(r"[\[({&%]|\bdot\b|kropka|\.", match[0][len(match["local"]) :], re.IGNORECASE):
            continue
        if not plain and " at " in match[0] and not re.search(r"\s(?:dot|DOT|kropka)\s|[\[({]", match[0]):
            continue  # "look at readme.md" is a sentence
        if (
            _IMPERSONAL_DOMAIN.search(domain)
            or _SHARED_LOCAL_PART.match(match["local"])
            or domain.endswith((".py", ".md", ".js", ".sh"))
        ):
            continue
        if text[match.end() : match.end() + 1] == ":" and match["local"] == "git":
            continue
        yield Finding(kind="e-mail", start=match.start(), end=match.end())


def _networks(text: str) -> Iterator[Finding]:
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            if pattern is _IPV4 and _VERSION.search(text, max(0, match.start() - 12), match.start()):
                continue
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            if address.is_global and not address.is_multicast:
                yield Finding(kind="network address", start=match.start(), end=match.end())


def _accounts(text: str) -> Iterator[Finding]:
    from stdnum import iban, luhn

    for match in _IBAN.finditer(text):
        for end in range(len(match[0]), 14, -1):  # following capitals are not part of the number
            if iban.is_valid(match[0][:end]):
                yield Finding(kind="account number", start=match.start(), end=match.start() + end)
                break
    for match in _ACCOUNT.finditer(text):
        if iban.is_valid("PL" + re.sub(r"[ -]", "", match[0])):
            yield Finding(kind="account number", start=match.start(), end=match.end())
    for match in _CARD.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn.is_valid(digits):
            yield Finding(kind="card number", start=match.start(), end=match.end())
    for match in _NAMED_ACCOUNT.finditer(text):
        if sum(character.isdigit() for character in match["value"]) >= 6:
            yield Finding(kind="account number", start=match.start("value"), end=match.end("value"))


def _national(text: str) -> Iterator[Finding]:
    """Numbers with an unmistakable format, and others after words that name them."""
    for match in _STRICT.finditer(text):
        number = match[0]
        has_name = bool(_NUMBER_WORDS.search(text, max(0, match.start() - 40), match.start()))
        checks = _checks()
        if any(check(number) for check in checks["unmistakable"]) or (
            has_name and any(check(number) for check in checks["named"])
        ):
            yield Finding(kind="national number", start=match.start(), end=match.end())


@cache
def _checks() -> dict[str, tuple[Callable[[str], bool], ...]]:
    from stdnum.au import tfn
    from stdnum.br import cpf
    from stdnum.ca import sin
    from stdnum.cz import rc
    from stdnum.de import idnr
    from stdnum.dk import cpr
    from stdnum.es import dni, nie
    from stdnum.fi import hetu
    from stdnum.fr import nir
    from stdnum.gb import nhs
    from stdnum.in_ import aadhaar
    from stdnum.it import codicefiscale
    from stdnum.kr import rrn
    from stdnum.mx import curp
    from stdnum.nl import bsn
    from stdnum.no import fodselsnummer
    from stdnum.pl import nip, pesel
    from stdnum.pt import nif
    from stdnum.ro import cnp
    from stdnum.se import personnummer
    from stdnum.tr import tckimlik
    from stdnum.us import ssn

    def formatted(pattern: str, check: Callable[[str], bool] = lambda _number: True) -> Callable[[str], bool]:
        shape = re.compile(pattern)
        return lambda number: bool(shape.fullmatch(number)) and check(number)

    unmistakable = (
        formatted(r"\d{3}-\d{2}-\d{4}", ssn.is_valid),
        formatted(r"\d{3}\.\d{3}\.\d{3}-\d{2}", cpf.is_valid),
        formatted(r"\d{11}", pesel.is_valid),
        formatted(r"\d{8}-?[A-Z]", dni.is_valid),
        formatted(r"[XYZ]-?\d{7}-?[A-Z]", nie.is_valid),
        formatted(r"[A-Z]{6}[0-9LMNPQRSTUV]{2}[A-Z]\d[0-9A-Z]\d[A-Z]?\d?[0-9A-Z]{0,3}", codicefiscale.is_valid),
        formatted(r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}", nir.is_valid),
        formatted(r"(?:\d{2})?\d{6}[-+]\d{4}", personnummer.is_valid),
        formatted(r"\d{6}[-+A]\d{3}[0-9A-Y]", hetu.is_valid),
        formatted(r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]"),
        formatted(r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d", curp.is_valid),
        formatted(r"\d{4}[ -]\d{4}[ -]\d{4}", aadhaar.is_valid),
        formatted(r"\d{6}-\d{7}", rrn.is_valid),
        formatted(r"\d{6}/\d{3,4}", rc.is_valid),
        formatted(r"\d{3}-\d{3}-\d{2}-\d{2}", nip.is_valid),
    )
    after_a_name = (
        nip.is_valid, idnr.is_valid, bsn.is_valid, sin.is_valid, aadhaar.is_valid, cpf.is_valid, ssn.is_valid, tfn.is_valid,
        nhs.is_valid, cpr.is_valid, cnp.is_valid, fodselsnummer.is_valid, tckimlik.is_valid, nif.is_valid, nir.is_valid,
        personnummer.is_valid, dni.is_valid, pesel.is_valid,
    )  # fmt: skip
    return {"unmistakable": unmistakable, "named": after_a_name}


def _phones(text: str, emails: list[Finding]) -> Iterator[Finding]:
    import phonenumbers

    following = emails[::-1]
    for match in _PHONE.finditer(text):
        number = match[0].strip()
        digits = re.sub(r"\D", "", number)
        if not 8 <= len(digits) <= 15 or re.fullmatch(r"\d{4}[-./]\d{2}[-./]\d{2}.*", number):
            continue  # too short or long, or a date
        while following and following[-1].end <= match.start():
            following.pop()
        if following and following[-1].start <= match.start():
            continue
        international = number.startswith(("+", "00"))
        has_phone_word = bool(_PHONE_WORDS.search(text, max(0, match.start() - 30), match.start()))
        is_grouped = re.fullmatch(r"\(?0?\d{2,5}\)?[ /.-]\d{2,4}(?:[ .-]?\d{2,4}){1,3}", number) is not None
        if not international and not (has_phone_word or (is_grouped and re.match(r"\(|0", number))):
            continue
        regions = (None,) if international else _REGIONS
        plain = f"+{digits[2:]}" if number.startswith("00") else number
        for region in regions:
            try:
                phone = phonenumbers.parse(plain, region)
            except phonenumbers.NumberParseException:
                continue
            if phonenumbers.is_valid_number(phone) or (international and phonenumbers.is_possible_number(phone)):
                yield Finding(kind="telephone number", start=match.start(), end=match.start() + len(number))
                break
