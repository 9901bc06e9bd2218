"""Mutated files of the cases: each line is read, skipped or set aside as it came, without a traceback and in time.

FUZZ_SECONDS is the time of each test here.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

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
from tests.foreign.cases import cases_of

SECONDS = float(os.environ.get("FUZZ_SECONDS", "45"))
LONGEST = 10.0
"""Seconds that no input may take longer than."""
CASES = [case for kind in ("formats", "annotations") for case in cases_of(kind)]
SEEDS = [case.content for case in CASES]
KINDS: tuple[Kind, ...] = ("lesson", "task", "conversation", "file")
PIECES = [
    b"\n", b"\r", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"null", b"[]", b"{}", b"[", b"{", b'"', b",", b"-1", b"1e999", b"true",
    b'"messages": ', b'"role": ', b'"content": ', b'"feedback": ', b'"rating": ', b'"weight": ', b'"thumb": ', b'"scale": ',
    "👎".encode(), b"\\ud83d", b"\xc3", b"<|im_start|>", b"<|im_end|>", b"\n\nHuman:", b"[" * 5000, b"9" * 5000,
]  # fmt: skip
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 11), st.floats(allow_nan=False), st.text(max_size=8),
    st.sampled_from(["up", "👎", "4/5", "0..1", "user", "assistant", "gpt", "tool", "text", "image_url", "\n\nHuman: a\n\nAssistant: b"]),
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Bytes of a case with pieces cut, copied, replaced or inserted."""
    content = bytearray(draw(st.sampled_from(SEEDS))[:20_000])
    for _ in range(draw(st.integers(0, 6))):
        start, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        other = draw(
            st.one_of(
                st.sampled_from(PIECES), st.sampled_from(SEEDS).map(lambda seed: seed[:400]), st.binary(max_size=4)
            )
        )
        content[start : start + length] = draw(st.sampled_from([b"", other, other + content[start : start + length]]))
    return bytes(content)


@st.composite
def odd_rows(draw: st.DrawFn) -> bytes:
    """A row of a case with values exchanged for other values, and keys for other keys."""
    lines = [line for line in draw(st.sampled_from(SEEDS)).splitlines() if line.strip().startswith(b"{")]
    try:
        row = orjson.loads(draw(st.sampled_from(lines or [b"{}"])))
    except orjson.JSONDecodeError:
        row = {}
    generator = random.Random(draw(st.integers(0, 1 << 32)))
    values = draw(st.lists(PLAIN, min_size=1, max_size=4))
    return orjson.dumps(_exchanged(row, generator, values), option=orjson.OPT_PASSTHROUGH_SUBCLASS)


def _exchanged(value: object, generator: random.Random, values: list[object]) -> object:
    if generator.random() < 0.05:
        return generator.choice([*values, [value], {"content": value}, [value, value]])
    if isinstance(value, dict):
        return {key: _exchanged(inner, generator, values) for key, inner in value.items() if generator.random() > 0.03}
    if isinstance(value, list):
        return [_exchanged(inner, generator, values) for inner in value]
    return value


class Budget:
    """Runs an import on each input for a while, and counts what came of it."""

    def __init__(self) -> None:
        self.until = time.monotonic() + SECONDS
        self.inputs = self.refused = self.lines = self.read = self.skipped = self.aside = 0
        self.slowest = 0.0

    def try_import(self, content: bytes, kind: Kind, place: Path) -> None:
        if time.monotonic() > self.until:
            return
        self.inputs += 1
        file = place / "any.jsonl"
        file.write_bytes(content)
        rows: list[dict[str, object]] = []

        def insert(batch: list[dict[str, object]]) -> tuple[int, int, int]:
            rows.extend(batch)
            return len(batch), 0, 0

        began = time.monotonic()
        try:
            result = import_lines(file, place / "quarantine", kind, ConversationFilter(), insert)
        except InputError as problem:
            assert str(problem)
            self.refused += 1
            return
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)
            assert time.monotonic() - began < LONGEST
        pieces = [piece for piece in pieces_of(file) if piece.text.strip()]
        read = len(pieces) - result.skipped - len(result.unreadable)
        assert result.lines == len(pieces)
        assert read >= 0
        assert len(rows) >= read, "a line that was read gives at least one lesson"
        assert all(row["situation"].strip() for row in rows if isinstance(row["situation"], str))
        assert all(str(row["action"]).strip() for row in rows if row["outcome"] == "success"), "an empty answer"
        if result.quarantine:
            self._compare(Path(result.quarantine), content)
        assert sum(result.reasons.values()) == len(result.unreadable)
        self.lines, self.read = self.lines + len(pieces), self.read + read
        self.skipped, self.aside = self.skipped + result.skipped, self.aside + len(result.unreadable)

    def _compare(self, quarantine: Path, content: bytes) -> None:
        kept = quarantine.read_bytes()
        reasons = quarantine.with_name(quarantine.name.removesuffix(".jsonl") + REASONS)
        for line in reasons.read_bytes().splitlines():
            place = orjson.loads(line)
            piece = kept[place["start"] : place["start"] + place["bytes"]]
            assert piece
            assert piece in content
        quarantine.unlink()
        reasons.unlink()

    def show(self, name: str) -> None:
        """Print the counts."""
        print(
            f"\n{name}: {self.inputs:,} inputs, {self.refused:,} refused as a whole; {self.lines:,} lines: {self.read:,} "
            f"read, {self.skipped:,} skipped, {self.aside:,} set aside; slowest {self.slowest:.2f} s"
        )


FUZZING = settings(
    max_examples=1_000_000, deadline=None, database=None, phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def _fuzz(name: str, inputs: st.SearchStrategy[bytes], place: Path) -> None:
    budget = Budget()

    class Spent(Exception):
        pass

    @FUZZING
    @given(content=inputs, kind=st.sampled_from(KINDS))
    def attempt(content: bytes, kind: Kind) -> None:
        if time.monotonic() > budget.until:
            raise Spent
        budget.try_import(content, kind, place)

    with pytest.raises(Spent):
        attempt()
    budget.show(name)
    assert budget.inputs > 100


@pytest.mark.campaign
def test_mutated_bytes_are_accounted_for(tmp_path: Path) -> None:
    _fuzz("mutated bytes", mutated(), tmp_path)


@pytest.mark.campaign
def test_rows_with_odd_values_are_accounted_for(tmp_path: Path) -> None:
    _fuzz("odd rows", odd_rows(), tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
def test_training_rows_of_a_case_give_messages_or_a_reason(case: object) -> None:
    """The trainer's reader takes the same rows: an answer comes last, or there is a reason."""
    for line in getattr(case, "content").splitlines():  # noqa: B009
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        messages = read_row(row)
        if isinstance(messages, str):
            assert messages
        else:
            assert [message["role"] for message in messages[-2:]] == ["user", "assistant"]
            assert messages[-1]["content"].strip()
