# ruff: noqa: E501  a pattern is read in one piece
"""Detects prompt injection: text that gives orders to its reader instead of teaching something.

Disguises are removed first: compatible letters (NFKC), look-alike letters, invisible characters, spaced-out words and
base64. A lesson that only quotes such orders is dropped, too: losing a lesson costs less than obeying an order. The
reason is counted, so a team that writes about injections sees it in the funnel.
"""

from __future__ import annotations

import base64
import binascii
import re

from academy.experience.normal_form import compatible

_LOOKALIKES = str.maketrans("аеорсухіјѕԁ01345@$ıοαεν", "aeopcyxijsdoieasasioaev")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2060-\u2064\u206a-\u206f\ufe00-\ufe0f\ufeff]"
)
_HIDDEN = re.compile("(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]{3,}|[\u202d\u202e]")
"""Invisible letters, unless they belong to a flag, and marks that reverse the direction of what follows."""
_DIRECTION = re.compile("[\u202a\u202b\u2066-\u2068]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
"""Scripts that need marks of direction beside Latin letters."""
_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass|discard|do not follow|dont follow|stop following|pay no attention to)\b"
    r".{0,40}\b(?:previous|prior|above|earlier|preceding|all|any|your|system|initial|former|these|the)\b.{0,30}"
    r"\b(?:instructions?|prompts?|rules?|directions?|guidelines?|commands?|orders?|messages?|context|training|programming)\b"
    r"|\b(?:ignoruj|zignoruj|zapomnij|pomin|pomiń)\b.{0,40}\b(?:poprzedni\w*|wcześniejsz\w*|powyższ\w*|wszystki\w*)\b.{0,30}\b(?:instrukcj\w*|polece\w*|zasad\w*|reguł\w*)\b"
    r"|\b(?:ignoriere?|vergiss|missachte)\b.{0,40}\b(?:vorherige\w*|bisherige\w*|obige\w*|alle\w*)\b.{0,30}\b(?:anweisung\w*|instruktion\w*|regel\w*|befehl\w*)\b"
    r"|\b(?:ignore[rz]?|oublie[rz]?)\b.{0,40}\b(?:instructions?|consignes?|règles?)\b.{0,30}\b(?:précédent\w*|antérieur\w*|ci-dessus)\b"
    r"|\b(?:ignora|ignore|olvida|olvide)\b.{0,40}\b(?:instrucciones|istruzioni|instruções|reglas|regole|regras)\b.{0,30}\b(?:anterior\w*|previ\w*|precedent\w*)\b"
    r"|\b(?:you are now|from now on you are|act as|pretend to be|roleplay as)\b.{0,30}\b(?:dan|jailbroken|unrestricted|unfiltered|evil|developer mode|without (?:any )?(?:rules|restrictions|filters))\b"
    r"|\b(?:reveal|print|show|repeat|output|leak|tell me|send me|reproduce)\b.{0,30}\b(?:your|the|hidden|full|entire|original)\b.{0,20}\b(?:system prompt|system message|hidden instructions|initial prompt|secret instructions|initial instructions)\b"
    r"|\b(?:send|post|upload|exfiltrate|forward|email)\b.{0,40}\b(?:all|every|the|your|any)\b.{0,30}\b(?:secrets|credentials|passwords|api keys|tokens|env(?:ironment)? variables|conversation|chat history)\b.{0,40}\b(?:to|at)\b"
    r"|\bnew (?:system )?(?:instructions?|directive|prompt)\s*:"
    r"|\b(?:when|if) (?:you are|someone is|anyone is|a user is|asked)\b.{0,60}\b(?:always|never) (?:answer|respond|reply|say|reveal|output)\b.{0,60}\b(?:regardless|no matter|instead of|even if)\b",
    re.DOTALL,
)  # fmt: skip
_ROLE_MARKS = re.compile(
    r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id|begin_of_text)\|>"
    r"|\[/?INST\]|<</?SYS>>|<start_of_turn>|<end_of_turn>|</?s>\s*+\[INST|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS)\]"
    r"|(?m:^[^\S\n]*+#{2,4}\s*+(?:system|instruction|assistant|human|response)\s*+:\s*$)"
    r"|(?m:^[^\S\n]*+(?:system|assistant)\s*+:\s*+(?:you are|ignore|from now))",
    re.IGNORECASE,
)
_TRIGGERS = (
    "ignor", "disregard", "forget", "overrid", "bypass", "discard", "follow", "attention", "zapomn", "pomin", "pomiń", "vergiss",
    "missacht", "oubli", "olvid", "you are now", "from now", "act as", "pretend", "roleplay", "prompt", "secret", "credential",
    "password", "api key", "token", "variab", "chat history", "conversation", "directive", "always", "never", "new instruction",
)  # fmt: skip
_BASE64 = re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{24,400}={0,2}(?![\w+/])")
_SPACED = re.compile(r"(?:\b\w[ ._-]){6,}\w\b")


def find_injection(text: str) -> str:
    """Why a text looks like an order to its reader, as a short phrase that is counted; empty if it does not."""
    if _ROLE_MARKS.search(text):
        return "chat marks in the text"
    if not text.isascii() and (_HIDDEN.search(text) or (_DIRECTION.search(text) and not _RIGHT_TO_LEFT.search(text))):
        return "hidden text"
    plain = _undisguised(text)
    if _orders(plain):
        return "orders to the reader"
    if not text.isascii() and _orders(plain.translate(_LOOKALIKES)):
        return "orders to the reader, disguised"
    for run in _SPACED.findall(plain):
        if _squeezed_orders(re.sub(r"[^\w]", "", run)):
            return "orders to the reader, disguised"
    for block in _BASE64.findall(text):
        try:
            inside = base64.b64decode(block + "=" * (-len(block) % 4), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            continue
        if _orders(_undisguised(inside)):
            return "orders to the reader, disguised"
    return ""


def _undisguised(text: str) -> str:
    if not text.isascii():
        text = _INVISIBLE.sub("", compatible(text))
    return " ".join(text.casefold().split())


def _orders(plain: str) -> bool:
    return any(word in plain for word in _TRIGGERS) and _ORDERS.search(plain) is not None


def _squeezed_orders(letters: str) -> bool:
    return any(
        verb in letters and noun in letters
        for verb in ("ignore", "disregard", "forget", "override")
        for noun in ("instruction", "prompt", "rules")
    )
