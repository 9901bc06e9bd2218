"""Writes an Ollama Modelfile for a GGUF file: the chat template in Ollama's own language, the context, the stop sign.

Ollama's templates are Go templates, and a chat template is Jinja. So the pieces of text between the messages are taken
from rendered conversations, and the template is refused where these pieces do not reproduce a longer conversation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from jinja2 import TemplateError

from academy.errors import AcademyError, InputError
from academy.models.chat_template import ChatTemplate, Message
from academy.records import Record

SYSTEM, REQUEST, ANSWER, SECOND = "<system-text>", "<first-request>", "<first-answer>", "<second-request>"
"""Contents that no chat template has."""


class Pieces(Record):
    """The texts around messages: before the first request, before an earlier answer, before a later request, last.

    `before_system` and `after_system` are None where the template takes no system message.
    """

    before_request: str
    before_answer: str
    before_later_request: str
    end: str
    before_system: str | None = None
    after_system: str | None = None

    def rendered(self, messages: Sequence[Message]) -> str:
        """A conversation as Ollama renders it from the Modelfile: an optional system message, requests and answers."""
        text, last = "", ""
        for message in messages:
            match message["role"]:
                case "system":
                    before = self.before_system or ""
                case "user" if last == "system":
                    before = self.after_system or ""
                case "user":
                    before = self.before_later_request if last else self.before_request
                case _:
                    before = self.before_answer
            text, last = text + before + message["content"], message["role"]
        return text + self.end


def pieces_of(template: ChatTemplate) -> Pieces:
    """The pieces of a chat template. Raises InputError if it cannot be taken apart."""
    request: Message = {"role": "user", "content": REQUEST}
    conversation: list[Message] = [
        request,
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": SECOND},
    ]
    unfit = InputError(
        "This chat template cannot be written for Ollama: its text around a message depends on more than the role.",
        "Serve the version with `academy serve --runtime ollama`, which renders the template itself.",
    )
    whole = template.rendered(conversation)
    before_request, first_sign, rest = whole.partition(REQUEST)
    before_answer, answer_sign, rest = rest.partition(ANSWER)
    before_later_request, second_sign, end = rest.partition(SECOND)
    if not (first_sign and answer_sign and second_sign):
        raise unfit
    pieces = Pieces(
        before_request=before_request, before_answer=before_answer, before_later_request=before_later_request, end=end
    )
    for turns in ([request], [*conversation, *conversation[1:]]):
        if template.rendered(turns) != pieces.rendered(turns):
            raise unfit
    system: Message = {"role": "system", "content": SYSTEM}
    try:
        opening = template.rendered([system, *conversation])
    except (AcademyError, TemplateError):  # it refuses system messages
        return pieces
    before_system, system_sign, rest = opening.partition(SYSTEM)
    after_system, _, _ = rest.partition(REQUEST)
    with_system = pieces.model_copy(update={"before_system": before_system, "after_system": after_system})
    return with_system if system_sign and with_system.rendered([system, *conversation]) == opening else pieces


def modelfile(model: str, template: ChatTemplate, *, context: int, licence: str) -> str:
    """The Modelfile for a GGUF file beside it. Raises InputError for a template that Ollama cannot have."""
    pieces = pieces_of(template)
    # Ollama adds the first token by itself where the tokenizer does
    first = str(template.tokenizer.bos_token or "")
    begins = bool(first) and template.tokenizer("a")["input_ids"][:1] == [template.tokenizer.bos_token_id]
    opening = pieces.before_request.removeprefix(first) if begins else pieces.before_request
    system = ""
    if pieces.before_system is not None and pieces.after_system is not None:
        before = pieces.before_system.removeprefix(first) if begins else pieces.before_system
        system = f'{{{{ else if eq .Role "system" }}}}{_literal(before)}{{{{ .Content }}}}'
    after_system = f'{{{{ else if eq $last "system" }}}}{_literal(pieces.after_system or "")}' if system else ""
    go_template = (
        '{{- $last := "" }}{{- range .Messages }}'
        f'{{{{- if eq .Role "user" }}}}{{{{ if eq $last "" }}}}{_literal(opening)}{after_system}'
        f"{{{{ else }}}}{_literal(pieces.before_later_request)}{{{{ end }}}}{{{{ .Content }}}}"
        f'{{{{ else if eq .Role "assistant" }}}}{_literal(pieces.before_answer)}{{{{ .Content }}}}'
        f"{system}{{{{ end }}}}{{{{- $last = .Role }}}}{{{{- end }}}}{_literal(pieces.end)}"
    )
    lines = [
        f"FROM ./{model}",
        f'TEMPLATE """{go_template}"""',
        f"PARAMETER num_ctx {context}",
        f"PARAMETER stop {_quoted(str(template.tokenizer.eos_token))}",
        f'LICENSE """{licence}"""',
    ]
    return "\n".join(lines) + "\n"


def licence(digest: str) -> str:
    """The only field of a model that Ollama stores and returns unchanged: which adapter the model is."""
    return f"academy adapter {digest}"


def _literal(text: str) -> str:
    """A text as a Go template writes it, whatever signs it has."""
    return f"{{{{ {_quoted(text)} }}}}" if text else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
