"""The chat template: its end token, its day, and what stands before an answer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.adapters.adapter import AdapterFiles
from academy.arena.answers import AnswerCache
from academy.arena.suites.base import Generation, Reply
from academy.errors import AdapterError, TemplateError
from academy.lifecycle.gate import _check_template
from academy.models.base_model import SEED_FOLDER, resolve
from academy.models.chat_template import PLAIN, ChatTemplate, Message
from academy.models.messages import Message as Turn
from academy.models.messages import Transcript
from academy.models.template_day import DAY, day_of, with_fixed_day
from academy.models.thinking import ThoughtsFilter, without_thoughts
from academy.serving.export.gguf_vocabulary import vocabulary
from tests.adapters import make_adapter


def transcript(*messages: Any) -> Transcript:
    return Transcript(tuple(Turn.model_validate(message) for message in messages))


TALK: list[Message] = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "because"}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The seed model like Gemma: its turns end with another token than its texts."""
    folder = Path(shutil.copytree(SEED_FOLDER, tmp_path / "model"))
    change(folder / "tokenizer_config.json", eos_token="<|begin|>")
    change(folder / "generation_config.json", eos_token_id=[1, 5])
    return folder


def change(file: Path, **said: Any) -> None:
    """Other values of some keys."""
    file.write_bytes(orjson.dumps({**orjson.loads(file.read_bytes()), **said}))


def test_answer_ends_with_the_model_s_end_of_turn_token(model: Path) -> None:
    usual, other = ChatTemplate.of(SEED_FOLDER), ChatTemplate.of(model)
    assert other.tokenizer.eos_token == "<|end|>"
    assert other.example(TALK) == usual.example(TALK)
    assert other.digest == usual.digest
    assert ChatTemplate(other.tokenizer, usual.text).tokenizer.eos_token_id == 5
    assert vocabulary(model, 300).eos == vocabulary(SEED_FOLDER, 300).eos == 5


@pytest.mark.parametrize("ends", [1, [1], [], None, [1, 99_999], "5", [4], -5])
def test_unused_end_token_is_ignored(model: Path, ends: Any) -> None:
    change(model / "generation_config.json", eos_token_id=ends)
    with pytest.raises(TemplateError, match=r"does not end an answer with <\|begin\|>"):
        ChatTemplate.of(model).example(TALK)


@pytest.mark.parametrize("content", [b"no json", b"[]", None])
def test_missing_or_invalid_generation_config_changes_nothing(model: Path, content: bytes | None) -> None:
    file = model / "generation_config.json"
    file.unlink() if content is None else file.write_bytes(content)
    assert ChatTemplate.of(model).tokenizer.eos_token == "<|begin|>"


DATED = "{{ strftime_now('%Y') }}" + PLAIN


def test_adapter_whose_template_reads_the_current_day_is_rejected(tmp_path: Path) -> None:
    old = AdapterFiles(make_adapter(tmp_path / "old", template=DATED.encode()))
    with pytest.raises(AdapterError, match="the day of its training was not recorded"):
        _check_template(old)
    fixed = with_fixed_day(DATED, "the test")
    assert day_of(fixed) == DAY.isoformat()
    _check_template(AdapterFiles(make_adapter(tmp_path / "new", template=fixed.encode())))


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("<think>\n\n</think>\n\nyes", "yes"),
        ("<think>a</think>b <think>c</think>", "b <think>c</think>"),
        ("[THINK]a[/THINK]b", "b"),
        ("<think>never ends", ""),
        ("plain", "plain"),
        (" < 3", " < 3"),
        ("write </think> to close", "write </think> to close"),
        ("", ""),
    ],
)
def test_thoughts_are_removed_at_once_and_in_pieces_alike(raw: str, answer: str) -> None:
    assert without_thoughts(raw) == answer
    thoughts = ThoughtsFilter()
    assert "".join(thoughts.add(character) for character in raw) + thoughts.rest() == answer
    whole = ThoughtsFilter()
    assert whole.add(raw) + whole.rest() == answer


def test_thoughts_that_the_prompt_opens_are_removed() -> None:
    thoughts = ThoughtsFilter("<think>")
    assert [thoughts.add(piece) for piece in ("hm </th", "ink>", "\n\nye", "s")] == ["", "", "ye", "s"]


def test_raw_text_of_an_answer_is_kept(tmp_path: Path) -> None:
    generation = Generation(max_new_tokens=8)
    replies = [Reply(text="yes", tokens=9, raw="<think>a</think>yes"), Reply(text="no", tokens=2)]
    AnswerCache(tmp_path, "player", generation).add(["a", "b"], replies)
    cache = AnswerCache(tmp_path, "player", generation)
    assert [cache["a"], cache["b"]] == replies


@pytest.mark.parametrize("template", ["{% for m in messages %}{{ m.content }}", "{{ tools_prompt.text }}", "hello"])
def test_template_that_does_not_work_has_no_note_beside_its_error(model: Path, template: str) -> None:
    (model / "chat_template.jinja").write_text(template)
    base = resolve(str(model))
    assert base.template_note == ""
    with pytest.raises(TemplateError) as problem:
        base.measure([transcript({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})])
    assert ".." not in str(problem.value)


def test_curation_counts_what_the_template_rejects(model: Path) -> None:
    strict = "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}" + PLAIN
    change(model / "tokenizer_config.json", chat_template=strict, eos_token="<|end|>")
    base = resolve(str(model))
    size, reason = base.measure([transcript(*TALK), transcript(*TALK, *TALK)])
    assert isinstance(size, int)
    assert reason == "chat template: rejects the conversation: too long"


def test_reason_of_a_rejection_contains_no_text(model: Path) -> None:
    change(model / "tokenizer_config.json", chat_template="{{ raise_exception(messages[0]['content']) }}")
    secret: list[Message] = [{"role": "user", "content": "the secret of a user"}, TALK[1]]
    with pytest.raises(TemplateError) as problem:
        resolve(str(model)).rendering.prompt(secret[:1])
    assert "secret" not in str(problem.value)
