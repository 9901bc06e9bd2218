"""The chat template: the same rendering for training and for serving.

A model answers badly without a visible reason if serving renders messages in another way than training. So one function
turns messages into tokens, every adapter includes the template's text, and its manifest has the template's hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from academy.errors import TemplateError
from academy.records import digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "chat_template.jinja"
GENERATION = "generation_config.json"
PLAIN = (
    "{% for message in messages %}{{ '### ' + message['role'] + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
"""For base models without a chat template."""


def digest_of_template(text: str, special_tokens: Mapping[str, str]) -> str:
    """sha256 of a template's text and its special tokens (names and texts)."""
    return digest_of({"template": text, "special": dict(special_tokens)})


class Message(TypedDict):
    """One turn: role is system, user or assistant."""

    role: str
    content: str


class ChatTemplate:
    """A tokenizer with a fixed template, which transformers renders in jinja's immutable sandbox.

    The tokenizer's end-of-text token becomes the token that ends an answer. Some models (Gemma) end their turns with
    another token, which generation_config.json lists, and would never stop at the tokenizer's own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str | None = None) -> None:
        self.tokenizer: Any = tokenizer
        self.text: str = text or getattr(tokenizer, "chat_template", None) or PLAIN
        if tokenizer.eos_token_id is None:
            raise TemplateError(
                "The tokenizer has no end-of-text token.", "An answer could not end. Choose another model."
            )
        if end := _end_of_turns(tokenizer, self.text):
            tokenizer.eos_token = end
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    @classmethod
    def of(cls, base: Path, adapter: Path | None = None) -> ChatTemplate:
        """The adapter's stored template, or the base model's."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
        file = adapter / FILE if adapter else None
        return cls(tokenizer, file.read_text(encoding="utf-8") if file and file.is_file() else None)

    @property
    def digest(self) -> str:
        """sha256 of the template's text and its special tokens."""
        return digest_of_template(self.text, self.special_tokens)

    @property
    def special_tokens(self) -> dict[str, str]:
        """Names and texts of the tokenizer's special tokens."""
        return {name: str(token) for name, token in sorted(self.tokenizer.special_tokens_map.items())}

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids up to the start of the answer."""
        return self._ids(self._text(messages, answer_follows=True))

    def rendered(self, messages: Sequence[Message]) -> str:
        """The text of `prompt`, for engines that tokenize it themselves."""
        return self._text(messages, answer_follows=True)

    def example(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Token ids of the prompt, and of the answer with its end token.

        Raises TemplateError if the template does not put the answer after the prompt, or does not end it.
        """
        before = self._text(messages[:-1], answer_follows=True)
        whole = self._text(messages, answer_follows=False)
        if not whole.startswith(before):
            raise TemplateError(
                "The chat template does not put the answer after the prompt.",
                "The loss could not be limited to the answer. Give the base model another chat template.",
            )
        end = str(self.tokenizer.eos_token)
        answer, end_token, _ = whole[len(before) :].rpartition(end)
        if not end_token:
            raise TemplateError(
                f"The chat template does not end an answer with {end}.",
                "The model would not learn to stop. Give the base model another chat template.",
            )
        return self._ids(before), self._ids(answer + end)

    def _text(self, messages: Sequence[Message], *, answer_follows: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.text, add_generation_prompt=answer_follows, tokenize=False
            )
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _end_of_turns(tokenizer: Any, text: str) -> str:
    """The token that ends a template's answers, if it is not the tokenizer's; else empty."""
    try:
        end_ids = orjson.loads((Path(tokenizer.name_or_path) / GENERATION).read_bytes())["eos_token_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    numbers = [
        number
        for number in (end_ids if isinstance(end_ids, list) else [end_ids])
        if isinstance(number, int) and number >= 0
    ]
    candidates = [end for end in map(str, tokenizer.convert_ids_to_tokens(numbers)) if end != str(tokenizer.eos_token)]
    if not candidates:
        return ""
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        text_of_turns = str(tokenizer.apply_chat_template(talk, chat_template=text, tokenize=False)).rstrip()
    except Exception:  # noqa: BLE001  a template may raise anything; its use reports the error
        return ""
    if str(tokenizer.eos_token) in text_of_turns:
        return ""
    return next((end for end in candidates if text_of_turns.endswith(end)), "")
