"""Conversations of all shapes through the templates of the cases, and damaged templates.

The marks of an answer are exact, or there is a reason; never a traceback, never over ten seconds. Printed: the counts.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from academy.errors import AcademyError, TemplateError
from academy.models.base_model import SEED_FOLDER, BaseModel
from academy.models.chat_template import ChatTemplate, Message
from academy.models.rendering import Rendering
from academy.models.template_files import TemplateFiles, read_template_files
from tests.foreign import budget
from tests.foreign.budget import for_a_while
from tests.foreign.cases import Case, cases_of
from tests.foreign.test_templates import SECONDS, model_of, transcript_of

HOSTILE = ("endless-loop", "huge-text")
"""They take their whole time limit for every conversation."""
CONTROLS = (
    "<|im_end|>", "<|im_start|>", "<|eot_id|>", "</s>", "<s>", "[INST]", "[/INST]", "<|end|>", "<|user|>",
    "<|assistant|>", "<think>", "</think>", "<｜User｜>", "<｜Assistant｜>", "<end_of_turn>", "<|return|>",
    "<|channel|>", "\U000f0000", "\U000f0001", "{{ 1 }}", "{% if %}", "\n", " ",
)  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(CONTROLS), st.text(max_size=12)), max_size=5).map("".join)
ROLES = st.sampled_from(("user", "user", "assistant", "assistant", "system", "tool"))
TURNS = st.lists(st.builds(lambda role, content: Message(role=role, content=content), ROLES, TEXTS), max_size=5)


def usable(case: Case) -> bool:
    return case.name not in HOSTILE


@pytest.mark.campaign
def test_answers_are_marked_exactly_or_rejected_with_a_reason(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    cases = [case for case in cases_of("templates") if usable(case)]
    random.shuffle(cases)  # a short time reaches other templates each time
    ChatTemplate.of(SEED_FOLDER)  # loads the libraries
    end = time.monotonic() + budget.SECONDS
    for case in cases:
        if time.monotonic() > end:
            break
        folder = tmp_path / case.name
        folder.mkdir()
        base = model_of(case, folder)
        until = time.monotonic() + budget.SECONDS / len(cases)
        try:
            template = ChatTemplate.of(base.path)
        except AcademyError:
            counts["templates that no conversation passes"] += 1
            continue

        for_a_while(until, partial(_count, counts, base, template), turns=TURNS, answer=TEXTS)
    print(dict(counts))
    assert counts["trained"]
    assert counts["rejected"]


def _count(counts: Counter[str], base: BaseModel, template: ChatTemplate, turns: list[Message], answer: str) -> None:
    counts[_check(base, template, [*turns, Message(role="assistant", content=answer)])] += 1


def _check(base: BaseModel, template: ChatTemplate, messages: list[Message]) -> str:
    """What became of a conversation."""
    began = time.monotonic()
    try:
        [size] = base.measure([transcript_of(messages)])
        reason = size if isinstance(size, str) else ""
    except TemplateError as problem:
        reason = str(problem)
    if not reason:
        try:
            prompt, answer = template.example(messages)
        except TemplateError as problem:
            reason = str(problem)  # curation has no tokenizer
            if "as plain text" not in reason:
                raise
    assert time.monotonic() - began < SECONDS
    if reason:
        assert "Traceback" not in reason
        return "rejected"
    tokenizer = template.tokenizer
    assert template.prompt(messages[:-1]) == prompt
    assert answer[-1] == tokenizer.eos_token_id
    assert answer.count(tokenizer.eos_token_id) == 1, "a content ends an answer"
    text = tokenizer.decode(answer[:-1])
    given_text = messages[-1]["content"]
    assert text.strip() in (given_text.strip(), template.visible(given_text).strip()) or given_text.strip() in text
    controls = set(tokenizer.added_tokens_decoder)
    frame = [token for token in prompt if token in controls]
    bare: list[Message] = [Message(role=turn["role"], content="x") for turn in messages[:-1]]
    try:
        expected = [token for token in template.prompt(bare) if token in controls]
    except TemplateError:
        return "trained"
    # a model's own thoughts and marks in earlier answers are tokens; everything else is the template's
    if not any(turn["role"] == "assistant" for turn in messages[:-1]) and all(
        turn["content"] for turn in messages[:-1]
    ):
        assert frame == expected, "a content forges a control token"
    return "trained"


@pytest.mark.campaign
def test_damaged_templates_work_or_are_refused_with_a_sentence(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    sources: dict[str, TemplateFiles] = {}
    for case in cases_of("templates"):
        folder = tmp_path / case.name
        folder.mkdir()
        try:
            sources[case.name] = read_template_files(model_of(case, folder).path)
        except TemplateError:
            counts["unreadable"] += 1
    until = time.monotonic() + budget.SECONDS
    snippets = st.sampled_from((
        "{%", "%}", "{{", "}}", "{% for x in range(99999) %}", "{% endfor %}", "{{ 'a' * 99999999 }}",
        "{{ 9 ** 9 ** 9 }}", "{{ messages }}", "{{ '%99999999d' % 1 }}", "{{ tools[0].x.y }}", "|join('x')", "-",
        "{{ strftime_now('%c') }}", "{{ raise_exception(messages) }}", "{% generation %}", "{% include 'x' %}",
        "{% set messages = [] %}", "'", "\0", "é",
    ))  # fmt: skip

    def template(name: str, cuts: list[tuple[float, int, str]]) -> None:
        files: Any = sources[name]
        text = files.text
        for place, length, snippet in cuts:
            start = int(place * len(text))
            text = text[:start] + snippet + text[start + length :]
        began = time.monotonic()
        try:
            rendering = Rendering.of(files.model_copy(update={"text": text or " "}))
            rendering.example([Message(role="user", content="a"), Message(role="assistant", content="b c")])
            counts["works"] += 1
        except TemplateError as problem:
            counts["refused" if problem.message.endswith(".") else "refused without a sentence"] += 1
        assert time.monotonic() - began < SECONDS

    names = st.sampled_from(sorted(name for name in sources if name not in HOSTILE))
    cuts = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), snippets), min_size=1, max_size=3)
    for_a_while(until, template, name=names, cuts=cuts)
    print(dict(counts))
    assert counts["works"]
    assert counts["refused"]
    assert not counts["refused without a sentence"]
