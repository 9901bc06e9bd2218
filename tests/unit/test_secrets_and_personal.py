"""Secrets and personal data are found in formats that the rules' author had not seen, and little else is."""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.curriculum import personal, secrets
from academy.curriculum.filters import clean
from academy.errors import InputError
from academy.experience.experience import Experience
from tests.data.harmless import harmless
from tests.data.planted import planted


def drawn(length: int, signs: str = string.ascii_letters + string.digits, seed: int = 1) -> str:
    return "".join(random.Random(seed).choices(signs, k=length))


def both(text: str) -> str:
    return personal.redact(secrets.redact(text)[0])[0]


def test_nine_of_ten_planted_ones_are_taken_out() -> None:
    found = planted()
    missed = [one.kind for one in found if one.secret in both(one.text)]
    assert len(found) == 200
    assert len(missed) <= 20, missed


def test_look_alikes_stay() -> None:
    texts = [getattr(one, "text", one) for one in harmless()]
    changed = [text for text in texts if both(text) != text]
    assert len(texts) == 200
    assert len(changed) <= 4, changed


def test_the_example_lessons_hold_none() -> None:
    for path in sorted((Path(__file__).parents[2] / "examples" / "lessons").glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            row = orjson.loads(line)
            for text in (row["situation"], row.get("action") or ""):
                assert both(text) == text


SNIPPETS = [
    "password = " + '"' + "hunter" + "42xyz" + '"', "nothing here", "AKIA" + drawn(16, string.ascii_uppercase),
    "call +49 30 901820", "mail ana@" + "firma-test.pl", "Bearer " + drawn(40), "postgres://u:" + "geheim99@db/x",
    "-----BEGIN " + "PRIVATE KEY-----\n" + drawn(60), "token: " + drawn(30, seed=3), "[secret: key]",
    "4111 1111 1111 1111",
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=30)), max_size=6).map("\n".join))
def test_redacting_twice_changes_nothing_and_leaves_nothing(text: str) -> None:
    for module in (secrets, personal):
        once, _ = module.redact(text)
        assert module.redact(once) == (once, ())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("key AKIA" + drawn(16, string.ascii_uppercase + string.digits), "AWS key"),
        ("export GH=ghp_" + drawn(36), "GitHub token"),
        ("-----BEGIN " + "RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "private key"),
        ("clone https://ana:" + "geheim7@example.org/x", "password in an address"),
        ("DB_PASSWORD=" + "tr0ub4dor", "password"),
        ('"clientSecret": "' + drawn(24) + '"', "key"),
        ("the password for the wifi is " + "Kaffee2024", "password"),
        ("curl -u ana:" + "s3cret! https://x", "basic login"),
        ("acme_live_" + drawn(32), "unknown token"),
        ("CREATE USER a IDENTIFIED BY '" + "pw9" + "x'", "password"),
    ],
)
def test_secrets_are_named_by_kind(text: str, kind: str) -> None:
    assert kind in {one.kind for one in secrets.find_secrets(text)}


@pytest.mark.parametrize(
    "text",
    [
        "password = <your-password>", "password: ${DB_PASSWORD}", "token = get_token()", "api_key=settings.api_key",
        "the password is changed every month", "sha256:" + drawn(64, "0123456789abcdef"), "pass", "key: value",
        "index 51afb1f..fe32fa4 100644", "data:image/png;base64," + base64.b64encode(bytes(range(90))).decode(),
    ],
)  # fmt: skip
def test_placeholders_code_and_digests_are_no_secrets(text: str) -> None:
    assert secrets.find_secrets(text) == ()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jan.kowalski@" + "firma.pl", "e-mail"),
        ("jan (at) firma (dot) pl", "e-mail"),
        ("ring me on +48 601 234 567", "telephone number"),
        ("tel. 030 901820", "telephone number"),
        ("from 8.8.4.4 at night", "network address"),
        ("card 4111 1111 1111 1111", "card number"),
        ("IBAN DE89 3704 0044 0532 0130 00", "account number"),
        ("PESEL 44051401359", "national number"),
        ("ssn 536-90-4399", "national number"),
    ],
)
def test_personal_data_is_named_by_kind(text: str, kind: str) -> None:
    assert kind in {one.kind for one in personal.find_personal(text)}


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com", "noreply@firma.pl", "git@host.pl:team/repo.git", "listens on 127.0.0.1 and 192.168.1.4",
        "version 1.2.3.4", "order 4111 1111 1111 1112", "2026-11-21 03:00:00", "look at readme.md",
        "in 1700000000123 ms",
    ],
)  # fmt: skip
def test_what_belongs_to_nobody_is_not_personal(text: str) -> None:
    assert personal.find_personal(text) == ()


def experience(request: str, answer: str) -> Experience:
    return Experience(id="x", kind="lesson", request=request, answer=answer, outcome="success", provenance={})


def test_cleaning_keeps_the_rest_of_the_words_and_counts() -> None:
    cleaned, found = clean(experience("who is on call", "write to jan@" + "firma.pl, then wait"))
    assert cleaned.answer == "write to [personal: e-mail], then wait"
    assert found == {"personal: e-mail": 1}
    same = experience("who is on call", "Jan is")
    assert clean(same) == (same, {})


def test_a_finished_file_that_holds_a_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"

    def write(answer: str) -> None:
        turns = [{"role": "user", "content": "how"}, {"role": "assistant", "content": answer}]
        path.write_bytes(orjson.dumps({"messages": turns}) + b"\n")

    write("nothing")
    assert secrets.scan_file(path) == 1
    write("-----BEGIN " + "PRIVATE KEY-----\n" + drawn(64) + "\n-----END PRIVATE KEY-----")
    with pytest.raises(InputError, match=r"Line 1 of train.jsonl contains a secret \(private key\)"):
        secrets.scan_file(path)
    path.write_bytes(b"no json\n")
    with pytest.raises(InputError, match="cannot be scanned"):
        secrets.scan_file(path)


@pytest.mark.parametrize("find", [secrets.find_secrets, personal.find_personal])
@pytest.mark.parametrize("text", ["a" * 200_000, "a-" * 100_000, "key " * 50_000, "1 " * 100_000, "@." * 100_000])
def test_no_text_makes_them_slow(find: Callable[[str], object], text: str) -> None:
    """Not a timing: a pattern that goes back and back again would not end within the suite's patience."""
    find(text)
