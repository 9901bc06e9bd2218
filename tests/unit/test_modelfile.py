"""An Ollama Modelfile renders conversations as the chat template does, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from academy.errors import InputError
from academy.models.base_model import resolve
from academy.models.chat_template import ChatTemplate, Message
from academy.serving.export.modelfile import modelfile, pieces_of

USER: Message = {"role": "user", "content": 'say """ and {{ .Content }}'}
REPLY: Message = {"role": "assistant", "content": "done"}
SYSTEM: Message = {"role": "system", "content": "be brief"}
PLAIN = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
IN_FIRST_REQUEST = (
    "{% for m in messages %}{% if m.role == 'system' %}[INST] {{ m.content }}\n\n{% elif m.role == 'user' %}"
    "{% if loop.first or not messages[loop.index0 - 1].role == 'system' %}[INST] {% endif %}{{ m.content }} [/INST]"
    "{% else %} {{ m.content }}<|end|>{% endif %}{% endfor %}"
)
COUNTING = "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}<|end|>{% endfor %}"


def template(text: str) -> ChatTemplate:
    return ChatTemplate(AutoTokenizer.from_pretrained(resolve("seed").path), text)


@pytest.mark.parametrize("text", [PLAIN, NO_SYSTEM, IN_FIRST_REQUEST])
def test_pieces_reproduce_conversations(text: str) -> None:
    pieces, chat = pieces_of(template(text)), template(text)
    conversations: list[list[Message]] = [[USER], [USER, REPLY, USER], [USER, REPLY, USER, REPLY, USER]]
    for conversation in conversations:
        assert pieces.rendered(conversation) == chat.rendered(conversation)
        assert pieces.before_system is not None  # a template that refuses system messages gets them in the request
        assert pieces.rendered([SYSTEM, *conversation]) == chat.rendered([SYSTEM, *conversation])


def test_template_that_counts_messages_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written for Ollama"):
        pieces_of(template(COUNTING))


def test_modelfile_names_model_context_stop_sign_and_adapter() -> None:
    base = resolve("seed")
    chat = ChatTemplate.of(base.path)
    lines = modelfile("merged.gguf", chat, context=base.context, licence="academy adapter abc").splitlines()
    assert lines[0] == "FROM ./merged.gguf"
    assert lines[-3:] == [
        f"PARAMETER num_ctx {base.context}", 'PARAMETER stop "<|end|>"', 'LICENSE """academy adapter abc"""',
    ]  # fmt: skip
    assert go_rendered("\n".join(lines[1:-3]), [SYSTEM, USER, REPLY, USER]) == chat.rendered(
        [SYSTEM, USER, REPLY, USER]
    )
    assert go_rendered("\n".join(lines[1:-3]), [USER]) == chat.rendered([USER])


def go_rendered(line: str, messages: list[Message]) -> str:
    """What Go's text/template makes of a TEMPLATE line, translated to Jinja action by action."""
    import re

    import jinja2

    source = line.removeprefix('TEMPLATE """').removesuffix('"""')
    ends: list[str] = []

    def action(match: re.Match[str]) -> str:
        text = match[1].strip(" -")
        if text.startswith(("if ", "else if ")):
            name = "elif" if text.startswith("else") else "if"
            ends.extend(["endif"] if name == "if" else [])
            left, right = re.fullmatch(r"(?:else )?if eq (\S+) (.+)", text).groups()  # type: ignore[union-attr]
            return "{% " + f"{name} {variable(left)} == {right}" + " %}"
        if text == "else":
            return "{% else %}"
        if text.startswith("range"):
            ends.append("endfor")
            return "{% for message in messages %}"
        if text == "end":
            return "{% " + ends.pop() + " %}"
        if text.startswith("$last"):
            return "{% set state.last = " + ('""' if ":=" in text else "message.role") + " %}"
        return "{{ " + variable(text) + " }}"

    def variable(name: str) -> str:
        return {"$last": "state.last", ".Role": "message.role", ".Content": "message.content"}.get(name, name)

    # a literal may contain the signs that end an action, so literals are matched as a whole
    translated = re.sub(r'\{\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}\}', action, source)
    environment: Any = jinja2.Environment(autoescape=False)  # noqa: S701  no HTML
    return str(environment.from_string("{% set state = namespace(last='') %}" + translated).render(messages=messages))
