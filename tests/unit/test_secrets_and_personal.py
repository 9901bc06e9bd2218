"""The filters find secrets and personal data in formats that the author of the rules had not seen, and little else."""

from __future__ import annotations

import base64
import random
import string
import time
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


def random_token(length: int, signs: str = string.ascii_letters + string.digits, seed: int = 1) -> str:
    return "".join(random.Random(seed).choices(signs, k=length))


def redact_all(text: str) -> str:
    return personal.redact(secrets.redact(text)[0])[0]


def test_nine_of_ten_planted_secrets_are_redacted() -> None:
    samples = planted()
    missed_kinds = [sample.kind for sample in samples if sample.secret in redact_all(sample.text)]
    assert len(samples) == 200
    assert len(missed_kinds) <= 20, missed_kinds


def test_harmless_look_alikes_stay() -> None:
    texts = [getattr(sample, "text", sample) for sample in harmless()]
    false_alarms = [text for text in texts if redact_all(text) != text]
    assert len(texts) == 200
    assert len(false_alarms) <= 4, false_alarms


def test_the_example_lessons_contain_no_secrets() -> None:
    for path in sorted((Path(__file__).parents[2] / "examples" / "lessons").glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            row = orjson.loads(line)
            for text in (row["situation"], row.get("action") or ""):
                assert redact_all(text) == text


SNIPPETS = [
    "password = " + '"' + "hunter" + "42xyz" + '"', "nothing here", "AKIA" + random_token(16, string.ascii_uppercase),
    "call +49 30 901820", "mail ana@" + "firma-test.pl", "Bearer " + random_token(40),
    "postgres://u:" + "geheim99@db/x",
    "-----BEGIN " + "PRIVATE KEY-----\n" + random_token(60), "token: " + random_token(30, seed=3), "[secret: key]",
    "4111 1111 1111 1111",
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=30)), max_size=6).map("\n".join))
def test_redaction_is_idempotent_and_leaves_no_secret(text: str) -> None:
    for module in (secrets, personal):
        once, _ = module.redact(text)
        assert module.redact(once) == (once, ())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("key AKIA" + random_token(16, string.ascii_uppercase + string.digits), "AWS key"),
        ("export GH=ghp_" + random_token(36), "GitHub token"),
        ("-----BEGIN " + "RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "private key"),
        ("clone https://ana:" + "geheim7@example.org/x", "password in an address"),
        ("DB_PASSWORD=" + "tr0ub4dor", "password"),
        ('"clientSecret": "' + random_token(24) + '"', "key"),
        ("the password for the wifi is " + "Kaffee2024", "password"),
        ("curl -u ana:" + "s3cret! https://x", "basic login"),
        ("acme_live_" + random_token(32), "unknown token"),
        ("CREATE USER a IDENTIFIED BY '" + "pw9" + "x'", "password"),
    ],
)
def test_a_secret_has_its_kind(text: str, kind: str) -> None:
    assert kind in {finding.kind for finding in secrets.find_secrets(text)}


@pytest.mark.parametrize(
    "text",
    [
        "password = <your-password>", "password: ${DB_PASSWORD}", "token = get_token()", "api_key=settings.api_key",
        "the password is changed every month", "sha256:" + random_token(64, "0123456789abcdef"), "pass", "key: value",
        "index 51afb1f..fe32fa4 100644", "data:image/png;base64," + base64.b64encode(bytes(range(90))).decode(),
    ],
)  # fmt: skip
def test_placeholders_code_and_digests_are_not_secrets(text: str) -> None:
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
def test_personal_data_has_its_kind(text: str, kind: str) -> None:
    assert kind in {finding.kind for finding in personal.find_personal(text)}


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com", "noreply@firma.pl", "git@host.pl:team/repo.git", "listens on 127.0.0.1 and 192.168.1.4",
        "version 1.2.3.4", "order 4111 1111 1111 1112", "2026-11-21 03:00:00", "look at readme.md",
        "in 1700000000123 ms",
    ],
)  # fmt: skip
def test_impersonal_addresses_and_numbers_are_not_personal(text: str) -> None:
    assert personal.find_personal(text) == ()


def experience(request: str, answer: str) -> Experience:
    return Experience(id="x", kind="lesson", request=request, answer=answer, outcome="success", provenance={})


def test_clean_keeps_the_other_words_and_counts_redactions() -> None:
    redacted_lesson, redactions = clean(experience("who is on call", "write to jan@" + "firma.pl, then wait"))
    assert redacted_lesson.answer == "write to [personal: e-mail], then wait"
    assert redactions == {"personal: e-mail": 1}
    harmless_lesson = experience("who is on call", "Jan is")
    assert clean(harmless_lesson) == (harmless_lesson, {})


def test_a_training_file_with_a_secret_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"

    def write(answer: str) -> None:
        turns = [{"role": "user", "content": "how"}, {"role": "assistant", "content": answer}]
        path.write_bytes(orjson.dumps({"messages": turns}) + b"\n")

    write("nothing")
    assert secrets.scan_file(path) == 1
    write("-----BEGIN " + "PRIVATE KEY-----\n" + random_token(64) + "\n-----END PRIVATE KEY-----")
    with pytest.raises(InputError, match=r"Line 1 of train.jsonl contains a secret \(private key\)"):
        secrets.scan_file(path)
    path.write_bytes(b"no json\n")
    with pytest.raises(InputError, match="cannot be scanned"):
        secrets.scan_file(path)


@pytest.mark.parametrize("find", [secrets.find_secrets, personal.find_personal])
@pytest.mark.parametrize("unit", ["a", "a-", "key ", "1 ", "@."])
def test_the_time_to_search_grows_linearly_with_the_text(find: Callable[[str], object], unit: str) -> None:
    """A pattern that backtracks over the whole text would need 16 times as long for 4 times the text, or more."""

    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        timings = []
        for _ in range(3):
            begin = time.process_time()
            assert find(text) == ()
            timings.append(time.process_time() - begin)
        return min(timings)

    assert seconds(200_000) < 8 * seconds(50_000) + 0.02
