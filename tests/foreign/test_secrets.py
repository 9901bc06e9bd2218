"""Secrets in texts as people have them: what is removed, and what stays.

Keys: `[input] text`; `secret` is a list of parts that make up a secret, which stands for `§` in all texts: `alnum:N`
and `hex:N` are N random signs, so no case holds a whole secret. `[right] gone`: strings that must not survive;
`stays`: strings that must.
"""

from __future__ import annotations

import random
import string
from pathlib import Path

import orjson
import pytest

from academy.curriculum import secrets
from academy.errors import InputError
from tests.foreign.cases import Case, each_case

ALPHABETS = {"alnum": string.ascii_letters + string.digits, "hex": "0123456789abcdef"}
LEAST_PIECE = 6
"""Characters of a line of a secret that must not survive anywhere."""


def secret_of(case: Case) -> str:
    """The secret that stands for `§`."""
    rng = random.Random(case.name)
    parts: list[str] = []
    for part in case.input.get("secret", ()):
        alphabet, _, length = part.partition(":")
        parts.append("".join(rng.choices(ALPHABETS[alphabet], k=int(length))) if alphabet in ALPHABETS else part)
    return "".join(parts)


@each_case("secrets")
def test_a_secret_is_removed_and_the_rest_stays(case: Case, tmp_path: Path) -> None:
    secret = secret_of(case)
    text = case.content.decode().replace("§", secret)
    clean, findings = secrets.redact(text)
    for gone in case.right.get("gone", ()):
        for line in gone.replace("§", secret).split():
            pieces = {line[at : at + LEAST_PIECE] for at in range(max(1, len(line) - LEAST_PIECE + 1))}
            assert not [piece for piece in pieces if piece in clean], clean
    for stays in case.right.get("stays", ()):
        assert stays in clean
    assert secrets.redact(clean) == (clean, ())
    file = tmp_path / "train.jsonl"
    turns = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": text}]
    file.write_bytes(orjson.dumps({"messages": turns}) + b"\n")
    if findings:
        with pytest.raises(InputError, match=r"contains a secret"):
            secrets.scan_file(file)
    else:
        assert secrets.scan_file(file) == 1
