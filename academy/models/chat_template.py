"""The chat template: the same rendering for training and for serving.

A model answers badly without a visible reason if serving renders messages in another way than training. So one function
turns messages into tokens, every adapter includes the template's text, and its manifest has the template's hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from academy.errors import TemplateError
from academy.models.messages import Transcript
from academy.models.rendering import Message, Rendering, Text
from academy.models.template_day import day_of
from academy.models.template_files import FILE, PLAIN, AddedToken, chosen, end_ids, named, read_text
from academy.models.thinking import WORDS, without_thoughts
from academy.records import digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["FILE", "PLAIN", "ChatTemplate", "Message", "digest_of_template"]
JOINER = "\u2060"
"""An invisible character that breaks a control token for engines that tokenize a text themselves."""


def digest_of_template(text: str, special_tokens: Mapping[str, str]) -> str:
    """sha256 of a template's text, which includes its day, and its special tokens (names and texts)."""
    return digest_of({"template": text, "special": dict(special_tokens)})


class ChatTemplate:
    """A tokenizer with a fixed template.

    The tokenizer's end-of-text token becomes the token that ends an answer. Some models (Gemma) end their turns with
    another token, which generation_config.json lists, and would never stop at the tokenizer's own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str | None = None, source: str = "") -> None:
        """`source`: where the text is from, for messages. Raises TemplateError."""
        self.tokenizer: Any = tokenizer
        if tokenizer.eos_token_id is None:
            raise TemplateError(
                "The tokenizer has no end-of-text token.", "An answer could not end. Choose another model."
            )
        folder = Path(tokenizer.name_or_path)
        added = [
            AddedToken(content=str(token.content), special=bool(token.special))
            for token in self.tokenizer.added_tokens_decoder.values()
        ]
        ends = [str(tokenizer.eos_token)]
        ends += [str(end) for end in self.tokenizer.convert_ids_to_tokens(end_ids(folder)) if end]
        own = getattr(tokenizer, "chat_template", None)
        if own is not None and not isinstance(own, str):
            own = chosen(named(own), "the tokenizer")
        self.rendering = Rendering(
            text or own or PLAIN, tokenizer.special_tokens_map, added, list(dict.fromkeys(ends)), source
        )
        self.text = self.rendering.text
        with suppress(TemplateError):  # its use reports the error
            tokenizer.eos_token = self.rendering.frame.end
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    @classmethod
    def of(cls, base: Path, adapter: Path | None = None) -> ChatTemplate:
        """The adapter's stored template, or the base model's."""
        file = adapter / FILE if adapter else None
        text, source = read_text(base)
        if file and file.is_file():
            text, source = file.read_text(encoding="utf-8"), str(file)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False, local_files_only=True)
        return cls(tokenizer, text or None, source)

    @property
    def digest(self) -> str:
        """sha256 of the template's text and its special tokens."""
        return digest_of_template(self.text, self.special_tokens)

    @property
    def day(self) -> str:
        """The day that every prompt shows; empty if the template shows none."""
        return day_of(self.text)

    @property
    def special_tokens(self) -> dict[str, str]:
        """Names and texts of the tokenizer's special tokens."""
        return {name: str(token) for name, token in sorted(self.tokenizer.special_tokens_map.items())}

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids up to the start of the answer. Raises TemplateError for messages that the template rejects."""
        return self._ids(self.rendering.prompt(messages))

    def rendered(self, messages: Sequence[Message]) -> str:
        """The text of `prompt`, for engines that tokenize it themselves. Control tokens of the contents are broken."""
        pieces = self.rendering.prompt(messages).pieces()
        return "".join(piece[:1] + JOINER + piece[1:] if plain else piece for piece, plain in pieces)

    def example(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Token ids of the prompt, and of the answer with its end token.

        Raises TemplateError if the template rejects or changes the example, or does not end it.
        """
        prompt, answer = self.rendering.example(messages)
        return self._ids(prompt), self._ids(answer)

    def example_of(self, transcript: Transcript) -> tuple[list[int], list[int]]:
        """As `example`, for a conversation that may have tools."""
        prompt, answer = self.rendering.example_of(transcript)
        return self._ids(prompt), self._ids(answer)

    def raw_answer(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens, without special tokens other than the tags of thoughts."""
        tags = {number: token for number, token in self._thought_tags().items() if number in tokens}
        if not tags:
            return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        parts, start = [], 0
        for place, token in enumerate([*tokens, -1]):
            if token in tags or token == -1:
                parts.append(str(self.tokenizer.decode(tokens[start:place], skip_special_tokens=True)))
                parts.append(tags.get(token, ""))
                start = place + 1
        return "".join(parts).strip()

    def visible(self, raw: str) -> str:
        """An answer without the thoughts before it, as it is graded and shown."""
        return without_thoughts(self.rendering.opened + raw)

    def _thought_tags(self) -> dict[int, str]:
        """Special tokens that are tags of thoughts."""
        return {
            number: str(token.content)
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.special and token.content in WORDS
        }

    def _ids(self, text: Text) -> list[int]:
        ids: list[int] = []
        for piece, plain in text.pieces():
            ids += self._plain(piece) if plain else self._tokens(piece)
        return ids

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _plain(self, token: str) -> list[int]:
        """A control token's text as ordinary tokens: in two parts, or in its characters."""
        controls = set(self.tokenizer.added_tokens_decoder)
        cuts = [(token[:place], token[place:]) for place in range(1, len(token))]
        for parts in [*cuts, tuple(token)]:
            ids = [number for part in parts for number in self._tokens(part)]
            if not controls.intersection(ids):
                return ids
        raise TemplateError(f"The tokenizer cannot write {token!r} as plain text.", "Remove it from the text.")
