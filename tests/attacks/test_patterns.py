"""No text freezes the Academy: patterns, and all that reads a text from outside, take linear time.

Each pattern meets its own worst texts, which pumps.py makes from its parse tree. The functions meet pumped texts, too:
a loop around a linear pattern can still be quadratic.
"""

from __future__ import annotations

import ast
import asyncio
import re
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.arena.suites.style import form_of
from academy.curriculum import personal, secrets
from academy.curriculum.carrying import carried, opposed
from academy.curriculum.decontamination import GuardedSuite, OverlapIndex
from academy.curriculum.filters import LONGEST_CONTEXT, as_learned, clean, judge, reason_to_drop
from academy.curriculum.injection import find_injection
from academy.curriculum.quality import noise, truncated
from academy.curriculum.scrubbing import SHORT, Scrubber
from academy.curriculum.secrets import UnscannableError
from academy.curriculum.similarity import shingles
from academy.curriculum.text_overlap import readings_of, short_lines
from academy.experience.experience import Experience
from academy.experience.feedback import read_feedback
from academy.experience.outcomes import outcome_of_lesson
from academy.experience.reading import normalised
from academy.experience.wording import signs, wording
from academy.habitat.log_parser import TrainingMetricsParser
from academy.models.dialects import read_dialogues
from academy.models.messages import Message
from academy.models.thinking import opened_block, without_thoughts
from academy.serving.gateway.openai_protocol import RequestError, read_request
from tests.attacks.pumps import ROOT, Named, Pump, all_patterns, calls_of_re, cost, pumps, seconds, sources, uses_of
from tests.foreign import budget

PATTERNS = all_patterns()
MOST_OF_A_PATTERN = 4.0
"""Milliseconds of CPU for a kilobyte of text. A quadratic pattern takes ten times as long for 64 kB."""
MOST_OF_A_FUNCTION = 100.0
"""The same for a function. The worst text that is known takes 50: a ligature of eighteen letters. Quadratic code takes
thousands for 100 kB."""
COMPUTED = {
    "academy/arena/graders.py": 2,  # patterns of questions, with a time limit (regex)
    "academy/curriculum/personal.py": 1,  # shapes of national numbers: none repeats without end
    "academy/experience/git/commit.py": 1,  # the digits of a digest
    "academy/experience/git/repository.py": 2,  # the same
    "academy/models/rendering.py": 2,  # literals
    "academy/store/signing.py": 1,  # the digits of a key's id
}
"""Patterns that are put together inside of a function, where no test sees them: how many, and why they are harmless."""
PIECES = (
    " ", "\n", "\t", "a", "A1", "0", "password is ", "password", "key", "token=", "@", "a@", "a at ", "a.", "://", "a://:@",
    "<", "[", "{", "(", "```", "```\n", "'", '"', "\\", "\\n", "&quot;", "-----BEGIN CERTIFICATE-----\n",
    "---- BEGIN PRIVATE KEY ----a: <", "-", "--", "account ", "account number ", "+1 ", "1.", "1:", ":", "data:\n",
    "kind: Secret\ndata:\n a: bbbbbbb1\n", "1 2 3 ", "ignore all ", "send all secrets ", "<think>", "<think></think>",
    "<|im_start|>", "<|im_start|>user\n", "n't", "don't ", "\n\nHuman:", "| a ", "+a\n", "> ", "AAAA 1111 ",
    "GB82 WEST ",
    "\ufdfa", "\u0300\u0315", "\uff9e\u0315", "curl -u ", "mysql ", "seed ", "cookie: a=", "eyJaaaaaaaa.", "machine ",
    "password=a1B2c3d4!x ", "identified by ", "bearer ", " is the password ", "\n##", "\nsystem:", "password\n", "%40",
    "${",
    "value=", "type=\n", "secret type=\nvalue", "passwordA", "token.a", "5", "5.", "loss: 1 ", "step 1/2 ",
    "{'loss': 1}",
)  # fmt: skip
FUNCTIONS: dict[str, Callable[[str], object]] = {
    "secrets": secrets.redact,
    "personal data": personal.redact,
    "injection": find_injection,
    "noise": noise,
    "truncation": truncated,
    "readings": lambda text: [list(short_lines(reading)) for reading in readings_of(text)],
    "overlaps": lambda text: OverlapIndex([GuardedSuite("s", [f"q {text}"])]).overlaps(text, f"c {text}"),
    "carried words": carried,
    "opposites": lambda text: opposed(text, text[::-1]),
    "wording": wording,
    "signs": signs,
    "normalised": normalised,
    "shingles": shingles,
    "outcome": lambda text: outcome_of_lesson(text, {}),
    "thoughts": without_thoughts,
    "opened block": opened_block,
    "dialogues": lambda text: read_dialogues({"text": text}),
    "preference": lambda text: read_dialogues({"chosen": text, "rejected": text[1:]}),
    "form": form_of,
    "feedback": lambda text: read_feedback({"rating": text, "scale": text, "thumb": text, "comment": text}),
    "training log": TrainingMetricsParser().parse_line,
}


LESSON = Experience(
    id="1",
    kind="lesson",
    batch="b",
    request="Which lights show that the gateway works?",
    answer="The two green ones.",
    outcome="success",
    provenance={},
)


def worst(named: Named, rounds: int, lengths: tuple[int, ...], seed: int = 0) -> tuple[float, Pump]:
    """The most milliseconds for a kilobyte, and the text that took them."""
    costs = [
        (cost(use, pump, lengths, MOST_OF_A_PATTERN), pump)
        for pump in pumps(named.pattern, rounds, seed)
        for use in uses_of(named)
    ]
    return max(costs, default=(0.0, Pump("", " ", "")))


def hidden(path: Path) -> int:
    """Patterns that a file puts together inside of functions."""
    tree = ast.parse(path.read_text())
    if all(isinstance(call.args[0], ast.Constant) for call in calls_of_re(tree)):
        return 0
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {(call.lineno, call.col_offset) for node in functions for call in calls_of_re(node)}
    return sum(
        not isinstance(call.args[0], ast.Constant) and (call.lineno, call.col_offset) in inside
        for call in calls_of_re(tree)
    )


def test_no_pattern_escapes_the_test() -> None:
    assert len(PATTERNS) > 200
    counts = {str(path.relative_to(ROOT)): hidden(path) for path in sources()}
    assert {name: number for name, number in counts.items() if number} == COMPUTED


def test_pumps_show_a_quadratic_pattern() -> None:
    for text in (r"\s*x", r"(\w+)n't"):
        slowest, pump = worst(Named(text, re.compile(text, re.DOTALL), searched=True), 2, (500, 4000, 16_000))
        assert slowest > MOST_OF_A_PATTERN, (text, pump)


def test_no_pattern_takes_more_than_linear_time() -> None:
    slow = {named.name: worst(named, 1, (500, 4000)) for named in PATTERNS}
    assert {name: result for name, result in slow.items() if result[0] > MOST_OF_A_PATTERN} == {}


@pytest.mark.campaign
def test_no_pattern_takes_more_than_linear_time_for_its_worst_texts() -> None:
    until = time.monotonic() + 3 * budget.SECONDS
    slowest: dict[str, tuple[float, Pump]] = {}
    tried = 0
    for seed in count():
        for named in PATTERNS:
            if time.monotonic() > until and seed > 1:
                break
            result = worst(named, 1, (500, 4000, 32_000), seed)
            slowest[named.name] = max(slowest.get(named.name, result), result)
            tried += 1
        else:
            continue
        break
    ranking = sorted(slowest.items(), key=lambda item: -item[1][0])
    print(f"\n{len(PATTERNS)} patterns, {tried / len(PATTERNS):.1f} rounds; the slowest, in ms for a kilobyte:")
    for name, (milliseconds, pump) in ranking[:5]:
        print(f"  {milliseconds:.2f} {name} {pump.piece[:40]!r}")
    assert [item for item in ranking if item[1][0] > MOST_OF_A_PATTERN] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_reading_a_text_takes_linear_time(name: str) -> None:
    for piece in PIECES:
        pump = Pump("password is", piece, "!")
        assert cost(FUNCTIONS[name], pump, (300, 2000), MOST_OF_A_FUNCTION) <= MOST_OF_A_FUNCTION, piece


@pytest.mark.campaign
@pytest.mark.parametrize("name", FUNCTIONS)
def test_reading_a_long_text_takes_linear_time(name: str) -> None:
    for piece in PIECES:
        pump = Pump("password is", piece, "!")
        assert cost(FUNCTIONS[name], pump, (300, 2000, 100_000), MOST_OF_A_FUNCTION) <= MOST_OF_A_FUNCTION, piece


def test_marks_on_one_letter_do_not_stop_the_comparison_of_texts() -> None:
    """Unicode's normalisation sorts them, in quadratic time."""
    assert seconds(lambda: wording("a" + "\u0315" * 20_000 + "\u0300" * 20_000)) < 1


def test_texts_of_other_words_are_compared_in_linear_time() -> None:
    one, other = (
        " ".join(f"{word}{chr(97 + n // 676)}{chr(97 + n // 26 % 26)}{chr(97 + n % 26)}x" for n in range(3000))
        for word in ("ab", "cd")
    )
    assert seconds(lambda: opposed(one, other)) < 1


def test_a_text_of_one_word_does_not_stop_the_search_for_overlaps() -> None:
    """It took cubic time: 800 characters 14 seconds."""
    index = OverlapIndex([GuardedSuite("exam", [f"q {'a ' * 5000}"])])
    assert seconds(lambda: index.overlaps("a " * 5000 + "b")) < 1


def test_many_findings_are_replaced_in_linear_time() -> None:
    text = "password=a1B2c3d4!x " * 5000
    assert seconds(lambda: secrets.redact(text)) < 5


def test_many_certificates_and_tokens_take_linear_time() -> None:
    text = "-----BEGIN CERTIFICATE-----\naB3xK9mQ2pL7vR5tY8wZ1nC4\n-----END CERTIFICATE-----\n" * 4000
    assert seconds(lambda: secrets.find_secrets(text)) < 3


def test_blanks_in_earlier_turns_do_not_slow_curation() -> None:
    turns = tuple(Message(role=role, content="\n" * 50_000) for role in ("user", "assistant"))
    experience = Experience.model_validate({**LESSON.model_dump(), "context": turns})
    assert seconds(lambda: (reason_to_drop(experience), clean(experience))) < 2


def test_earlier_turns_without_end_are_dropped_before_they_are_scanned() -> None:
    turns = (Message(role="user", content="1:" * LONGEST_CONTEXT),)
    experience = Experience.model_validate({**LESSON.model_dump(), "context": turns})
    assert seconds(lambda: reason_to_drop(experience)) < 0.1
    assert reason_to_drop(experience) == "earlier turns too long"


def test_a_text_that_cannot_be_scanned_in_time_is_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "SCAN_SECONDS", 0.0)
    leaky = LESSON.model_copy(update={"answer": "The password is hunTer22!x7, and the mail a.kowalska@firma.pl"})
    ((_, reason, _),) = judge([leaky])
    assert reason == "cannot be scanned for secrets in time"
    assert as_learned(leaky) is None  # so no examination, renewal or forgetting stops at it


def test_a_long_conversation_is_scrubbed_in_another_process_with_a_time_limit() -> None:
    scrubber = Scrubber(seconds=0.3)
    try:
        with pytest.raises(UnscannableError, match="could not be scanned for secrets within"):
            scrubber.scrub(["1:" * 500_000])
        began = time.process_time()
        scrubber.seconds = 30.0
        clean_texts = scrubber.scrub(["password is hunTer22!x " * 1000, "mail a.kowalska@firma.pl"])
        assert time.process_time() - began < 0.2  # this process does not scan
    finally:
        scrubber.close()
    assert "hunTer" not in clean_texts[0]
    assert clean_texts[1] == "mail [personal: e-mail]"


def test_the_loop_goes_on_while_the_worst_texts_are_scrubbed() -> None:
    """Two conversations in threads: one as long as a thread scrubs itself, and one of a megabyte."""

    async def longest_pause() -> float:
        scrubber, pause = Scrubber(seconds=0.5), 0.0
        texts = (["1:" * (SHORT // 2)], ["1:" * 500_000])
        work = [asyncio.create_task(asyncio.to_thread(scrubber.scrub, each)) for each in texts]
        while not all(task.done() for task in work):
            began = time.monotonic()
            await asyncio.sleep(0.005)
            pause = max(pause, time.monotonic() - began)
        results = await asyncio.gather(*work, return_exceptions=True)
        scrubber.close()
        assert isinstance(results[1], UnscannableError)
        return pause

    assert asyncio.run(longest_pause()) < 0.5


@pytest.mark.parametrize(("field", "value"), [("user", "1:" * 17_500), ("model", "a" * 300), ("stop", "a" * 600)])
def test_long_fields_of_a_request_are_refused(field: str, value: Any) -> None:
    body = {"model": "academy", "messages": [{"role": "user", "content": "Hello"}], field: value}
    with pytest.raises(RequestError, match=f"'{field}'") as refusal:
        read_request(orjson.dumps(body), 256)
    assert refusal.value.status == 400
    assert value not in str(refusal.value)
