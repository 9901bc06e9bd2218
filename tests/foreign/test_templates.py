"""Chat templates as model families have them, rendered with the seed model's tokenizer.

[input]
template = '''jinja'''           # or templates = [{name = "...", template = "..."}], or none: no template
file = "chat_template.jinja"     # where it lies; default: tokenizer_config.json
messages = [{role, content}]     # a conversation that ends with an answer
special = {eos_token = "..."}    # special tokens; all special tokens of the template are added to the tokenizer
marks = ["<|im_end|>"]           # more special tokens
ordinary = ["<think>"]           # added tokens that are not special
ends = ["<|end|>"]               # end tokens of generation_config.json
[right]
prompt = "..."                   # the text before the answer, also what is asked
answer = "..."                   # what is learned, with its end token
refused = "words"                # or: the reason, before any training
day = "2026-01-01"               # the day that is noted
system_in_request = true
visible = {"raw" = "shown"}      # what is graded and shown of an answer
note = "words"                   # what curation says about the template
same_every_day = true            # instead of `day`: it is noted, whatever it is
prompt_contains, answer_contains, answer_without   # words, or a list of them
either = [{...}, {...}]          # one of these is right
never = ["Traceback"]            # words of no reason
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.errors import AcademyError
from academy.models.base_model import SEED_FOLDER, BaseModel, check, digest_of_files
from academy.models.chat_template import ChatTemplate, Message
from academy.models.messages import Message as Turn
from academy.models.messages import Transcript
from academy.models.template_files import ADDITIONAL, CONFIG, GENERATION, TOKENIZER
from academy.models.weights import SINGLE
from tests.foreign.cases import Case, each_case

SECONDS = 10


def model_of(case: Case, folder: Path) -> BaseModel:
    """The seed model with the template and tokens of a case."""
    for name in (TOKENIZER, CONFIG, GENERATION, "config.json"):
        shutil.copyfile(SEED_FOLDER / name, folder / name)
    write_weights(folder / SINGLE)
    given = case.input
    tokens = {**given.get("special", {})}
    special, ordinary = [*tokens.values(), *given.get("marks", ())], given.get("ordinary", [])
    tokenizer = orjson.loads((folder / TOKENIZER).read_bytes())
    first = max(tokenizer["model"]["vocab"].values(), default=0) + 1
    existing = {row["content"] for row in tokenizer["added_tokens"]}
    first = max(first, 1 + max(row["id"] for row in tokenizer["added_tokens"]))
    new = [text for text in dict.fromkeys([*special, *ordinary]) if text not in existing]
    for number, text in enumerate(new, start=first):
        tokenizer["added_tokens"].append({
            "id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": text in special,
        })  # fmt: skip
    (folder / TOKENIZER).write_bytes(orjson.dumps(tokenizer))
    config = {**orjson.loads((folder / CONFIG).read_bytes()), **tokens}
    del config["chat_template"]
    template = given.get("templates", given.get("template"))
    if given.get("file") and isinstance(template, str):
        (folder / given["file"]).parent.mkdir(exist_ok=True)
        (folder / given["file"]).write_text(template, encoding="utf-8")
    elif given.get("file") == ADDITIONAL:
        (folder / ADDITIONAL).mkdir()
        for row in template:
            (folder / ADDITIONAL / f"{row['name']}.jinja").write_text(row["template"], encoding="utf-8")
    elif template is not None:
        config["chat_template"] = template
    (folder / CONFIG).write_bytes(orjson.dumps(config))
    if "ends" in given:
        numbers = {row["content"]: row["id"] for row in tokenizer["added_tokens"]}
        (folder / GENERATION).write_bytes(orjson.dumps({"eos_token_id": [numbers[end] for end in given["ends"]]}))
    return BaseModel(name=str(folder), path=folder, digest=digest_of_files(folder, check(str(folder), folder)))


def write_weights(path: Path) -> None:
    """A tensor for each layer of the configuration: templates need no more weights."""
    names = [str(number) for number in range(6)]
    entries = {name: {"dtype": "F32", "shape": [], "data_offsets": [4 * n, 4 * n + 4]} for n, name in enumerate(names)}
    header = orjson.dumps(entries)
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4 * len(names)))


def transcript_of(messages: Sequence[Message]) -> Transcript:
    """The conversation as curation has it."""
    return Transcript(tuple(Turn(role=turn["role"], content=turn["content"]) for turn in messages))


def refusal(base: BaseModel, messages: Sequence[Message]) -> str:
    """Why curation would not train on a conversation, or would not begin."""
    try:
        [size] = base.measure([transcript_of(messages)])
    except AcademyError as problem:
        return str(problem)
    return size if isinstance(size, str) else ""


@each_case("templates")
def test_template(case: Case, tmp_path: Path) -> None:
    base = model_of(case, tmp_path)
    messages: list[Message] = case.input["messages"]
    right = case.right
    began = time.monotonic()
    reason = refusal(base, messages)
    assert time.monotonic() - began < SECONDS
    assert not [word for word in right.get("never", ()) if word in reason]
    if "either" in right:
        refused = next(way for way in right["either"] if "refused" in way)
        trained = next(way for way in right["either"] if "refused" not in way)
        right = refused if reason else trained
    if "refused" in right:
        assert right["refused"] in reason
        return
    assert not reason
    prompt, answer = map(str, base.rendering.example(messages))
    assert prompt == right.get("prompt", prompt)
    assert answer == right.get("answer", answer)
    assert all(words in prompt for words in _listed(right.get("prompt_contains", [])))
    assert all(words in answer for words in _listed(right.get("answer_contains", [])))
    assert not any(words in answer for words in _listed(right.get("answer_without", [])))
    assert right.get("note", "") in base.template_note
    check_tokens(base, messages, right, prompt, answer)


def _listed(words: str | list[str]) -> list[str]:
    return [words] if isinstance(words, str) else words


def check_tokens(base: BaseModel, messages: list[Message], right: dict[str, Any], prompt: str, answer: str) -> None:
    """The tokenizer sees the same text, when asked as when trained, and no control token of a content."""
    template = ChatTemplate.of(base.path)
    prompt_ids, answer_ids = template.example(messages)
    assert template.prompt(messages[:-1]) == prompt_ids
    assert template.tokenizer.decode(prompt_ids) == prompt
    assert template.tokenizer.decode(answer_ids) == answer
    assert answer_ids[-1] == template.tokenizer.eos_token_id
    assert answer_ids.count(template.tokenizer.eos_token_id) == 1
    if right.get("same_every_day"):
        assert template.day
    else:
        assert template.day == right.get("day", "")
    assert template.rendering.system_in_request == right.get("system_in_request", template.rendering.system_in_request)
    for raw, shown in right.get("visible", {}).items():
        assert template.visible(raw) == shown
    [size] = base.measure([transcript_of(messages)])
    assert isinstance(size, int)
    has_control_tokens = any(base.rendering.has_control_tokens(message["content"]) for message in messages)
    trained = len(prompt_ids) + len(answer_ids)
    assert size == trained or (has_control_tokens and trained <= size)
    # the adapter's own copy of the template is the same template
    copy = ChatTemplate(template.tokenizer, template.text)
    assert (copy.digest, copy.prompt(messages[:-1])) == (template.digest, prompt_ids)


@pytest.mark.parametrize("day", ["2020-02-03", "2031-12-24"])
def test_prompt_is_the_same_on_any_day(day: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    case = next(case for case in _dated() if case.name == "llama-3-date-and-tools")

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Clock:
            return cls.fromisoformat(day).replace(tzinfo=tz)

    monkeypatch.setattr(datetime, "datetime", Clock)
    assert str(model_of(case, tmp_path).rendering.prompt(case.input["messages"][:-1])) == case.right["prompt"]


def _dated() -> list[Case]:
    from tests.foreign.cases import cases_of

    return cases_of("templates")
