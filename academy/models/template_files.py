"""Reads a model's chat template and what belongs to it from its files, without transformers, which loads slowly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from academy.errors import TemplateError
from academy.records import Record

FILE = "chat_template.jinja"
GENERATION = "generation_config.json"
TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
ADDITIONAL = "additional_chat_templates"
DEFAULT = "default"
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
PLAIN = (
    "{% for message in messages %}{{ '### ' + message['role'] + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
"""For base models without a chat template."""


class AddedToken(Record):
    """A token that is a whole text of its own: `special` ones are omitted from answers."""

    content: str
    special: bool


class TemplateFiles(Record):
    """A chat template with the special tokens that it may write."""

    text: str
    source: str  # where it is from, for messages
    special_tokens: dict[str, str]
    added: tuple[AddedToken, ...]
    ends: tuple[str, ...]  # tokens that may end an answer


def read_template_files(folder: Path) -> TemplateFiles:
    """The template of a model's folder. Raises TemplateError where it cannot be read."""
    text, source = read_text(folder)
    config = {**_json(folder / "special_tokens_map.json"), **_json(folder / CONFIG)}
    special = {name: token for name in TOKENS if (token := _token(config.get(name)))}
    rows = _json(folder / TOKENIZER).get("added_tokens")
    tokens = {row["content"]: row for row in rows or [] if isinstance(row, dict) and row.get("content")}
    by_id = {row.get("id"): content for content, row in tokens.items()}
    ends = [special.get("eos_token", ""), *(by_id.get(number, "") for number in end_ids(folder))]
    return TemplateFiles(
        text=text or PLAIN,
        source=source,
        special_tokens=special,
        added=tuple(AddedToken(content=text, special=bool(row.get("special"))) for text, row in tokens.items()),
        ends=tuple(dict.fromkeys(end for end in ends if end)),
    )


def read_text(folder: Path) -> tuple[str, str]:
    """The text of a model's default template, and the file that it is from. The text is empty without one.

    A file chat_template.jinja comes first, as in transformers; then tokenizer_config.json, whose chat_template is a
    text or a list of named ones; then the folder of named templates.
    """
    if (folder / FILE).is_file():
        return _read(folder / FILE), FILE
    value = _json(folder / CONFIG).get("chat_template")
    if isinstance(value, str):
        return value, CONFIG
    if value:
        return chosen(named(value), CONFIG), CONFIG
    files = sorted((folder / ADDITIONAL).glob("*.jinja"))
    return (chosen({file.stem: _read(file) for file in files}, ADDITIONAL), ADDITIONAL) if files else ("", "")


def named(value: Any) -> dict[str, str]:
    """Named templates of a configuration: a list of {name, template}, or an object."""
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        rows = value if isinstance(value, list) else []
        pairs = [(row.get("name"), row.get("template")) for row in rows if isinstance(row, dict)]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


def chosen(templates: dict[str, str], source: str) -> str:
    """The template named `default`, or the only one. Raises TemplateError."""
    if DEFAULT in templates:
        return templates[DEFAULT]
    if len(templates) == 1:
        return next(iter(templates.values()))
    names = ", ".join(sorted(templates)) or "none that can be read"
    raise TemplateError(
        f"The chat templates in {source} have no default: {names}.",
        f"Name one of them '{DEFAULT}', or write it to {FILE} in the model's folder.",
    )


def end_ids(folder: Path) -> list[int]:
    """The end tokens of generation_config.json; none where it is missing or invalid."""
    try:
        numbers = _json(folder / GENERATION).get("eos_token_id")
    except TemplateError:
        return []
    return [n for n in (numbers if isinstance(numbers, list) else [numbers]) if isinstance(n, int) and n >= 0]


def _token(value: Any) -> str:
    """The text of a special token, which may be an object."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise TemplateError(
            f"The chat template {file.name} cannot be read: it is not UTF-8 text.", "Copy the model again."
        ) from problem


def _json(file: Path) -> dict[str, Any]:
    """An object of a file; empty if the file is missing."""
    try:
        value = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError) as problem:
        raise TemplateError(
            f"{file.name} of the model is not valid JSON: {problem}.", "Copy the model again."
        ) from None
    return value if isinstance(value, dict) else {}
