"""Mutated files of the cases: each line is read, skipped or set aside as it came, without a traceback and in time."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from academy.errors import InputError
from academy.experience.conversations import ConversationFilter
from academy.experience.experience import Kind
from academy.experience.files import pieces_of
from academy.experience.importing import import_lines
from academy.experience.quarantine import REASONS
from academy.models.formats import read_row
from tests.foreign import budget
from tests.foreign.cases import Case, cases_of

LONGEST = 10.0
"""Seconds that no input may take longer than."""
CASES = [case for kind in ("formats", "annotations") for case in cases_of(kind)]
KINDS: dict[str, Kind] = {"--tasks": "task", "--conversations": "conversation", "--examples": "file"}
PIECES = [
    b"\n", b"\r", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"null", b"[]", b"{}", b"[", b"{", b'"', b",", b"-1", b"1e999",
    b"true", b'"messages": ', b'"role": ', b'"content": ', b'"feedback": ', b'"rating": ', b'"weight": ', b'"thumb": ',
    b'"scale": ', "👎".encode(), b"\\ud83d", b"\xc3", b"<|im_start|>", b"<|im_end|>", b"\n\nHuman:", b"[" * 5000,
    b"9" * 5000,
]  # fmt: skip
VALUES = [
    None, True, False, 0, 1, -1, 5, 11, 0.5, 1e300, "", " ", "up", "👎", "4/5", "0..1", "user", "assistant", "gpt",
    "tool", "text", "image_url", "\n\nHuman: a\n\nAssistant: b", "<|im_start|>user\na<|im_end|>", [], {}, [None],
    {"text": "a"},
]  # fmt: skip
Mutation = Callable[[bytes, random.Random], bytes]


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Bytes of a case with pieces cut, copied, replaced or inserted."""
    mutant = bytearray(content[:20_000])
    for _ in range(generator.randint(0, 6)):
        start = generator.randint(0, len(mutant))
        end = start + generator.randint(0, 40)
        other = generator.choice(
            [generator.choice(PIECES), generator.choice(CASES).content[:400], generator.randbytes(3)]
        )
        mutant[start:end] = generator.choice([b"", other, other + mutant[start:end]])
    return bytes(mutant)


def exchanged(content: bytes, generator: random.Random) -> bytes:
    """The rows of a case with values exchanged for other values, and keys omitted."""
    rows = []
    for line in content.splitlines():
        try:
            rows.append(orjson.dumps(_exchanged(orjson.loads(line), generator)))
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            rows.append(line)
    return b"\n".join(rows)


def _exchanged(value: Any, generator: random.Random) -> Any:
    if generator.random() < 0.05:
        return generator.choice([*VALUES, [value], {"content": value}, [value, value]])
    if isinstance(value, dict):
        return {key: _exchanged(inner, generator) for key, inner in value.items() if generator.random() > 0.03}
    if isinstance(value, list):
        return [_exchanged(inner, generator) for inner in value]
    return value


class Imports:
    """Imports inputs, checks that every line is accounted for, and counts."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0

    def run(self, content: bytes, kind: Kind) -> None:
        self.counts["inputs"] += 1
        file = self.place / "any.jsonl"
        file.write_bytes(content)
        rows: list[dict[str, Any]] = []

        def insert(batch: list[dict[str, Any]]) -> tuple[int, int, int]:
            rows.extend(batch)
            return len(batch), 0, 0

        began = time.monotonic()
        try:
            result = import_lines(file, self.place / "quarantine", kind, ConversationFilter(), insert)
        except InputError as problem:
            self.counts["refused as a whole" if problem.message and problem.remedy else "refused without a word"] += 1
            return
        seconds = time.monotonic() - began
        self.slowest = max(self.slowest, seconds)
        assert seconds < LONGEST
        lines = sum(1 for piece in pieces_of(file) if piece.text.strip())
        read = lines - result.skipped - len(result.unreadable)
        assert result.lines == lines
        assert 0 <= read <= len(rows), "a line that was read gives at least one lesson"
        assert all(row["situation"].strip() for row in rows), "an empty request"
        learned = [row for row in rows if row["outcome"] == "success"]
        assert all(row["action"].strip() or row["trace"].get("tool_calls") for row in learned), "an empty answer"
        assert sum(result.reasons.values()) == len(result.unreadable)
        if result.quarantine:
            self._compare(Path(result.quarantine), content)
        self.counts.update(lines=lines, read=read, skipped=result.skipped, aside=len(result.unreadable))

    def _compare(self, quarantine: Path, content: bytes) -> None:
        kept = quarantine.read_bytes()
        reasons = quarantine.with_name(quarantine.name.removesuffix(".jsonl") + REASONS)
        for line in reasons.read_bytes().splitlines():
            reason = orjson.loads(line)
            piece = kept[reason["start"] : reason["start"] + reason["bytes"]]
            assert piece
            assert piece in content, "a line that was set aside has other bytes"
        quarantine.unlink()
        reasons.unlink()


def fuzz(mutation: Mutation, place: Path) -> None:
    """Import mutants of the cases until the time is spent, and print the counts."""
    imports, until = Imports(place), time.monotonic() + budget.SECONDS

    @settings(
        max_examples=1_000_000, deadline=None, database=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(seed=st.integers(0, 1 << 48))
    def attempt(seed: int) -> None:
        generator = random.Random(seed)
        case = generator.choice(CASES)
        kinds = [KINDS[option] for option in case.input.get("options", []) if option in KINDS] or ["lesson"]
        kind = generator.choice([*kinds, *kinds, *kinds, "lesson", "task", "conversation", "file"])
        for _ in range(20):
            if time.monotonic() > until:
                raise TimeoutError
            imports.run(mutation(case.content, generator), kind)

    with pytest.raises(TimeoutError):
        attempt()
    print(f"\n{mutation.__name__}: {dict(imports.counts)}, slowest {imports.slowest:.2f} s")
    assert imports.counts["inputs"] > 100
    assert not imports.counts["refused without a word"]


@pytest.mark.campaign
def test_mutated_bytes_are_accounted_for(tmp_path: Path) -> None:
    fuzz(mutated, tmp_path)


@pytest.mark.campaign
def test_rows_with_odd_values_are_accounted_for(tmp_path: Path) -> None:
    fuzz(exchanged, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
def test_trainer_reads_the_rows_of_a_case_or_has_a_reason(case: Case) -> None:
    for line in case.content.splitlines():
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        transcript = read_row(row)
        if isinstance(transcript, str):
            assert transcript
        else:
            before, answer = transcript.messages[-2:]
            assert answer.role == "assistant"
            assert before.role in ("user", "tool")
            assert answer.words.strip()
