"""Renders conversations as text, and separates the answer from everything that the template puts around it.

Uses no tokenizer, so curation can try a template on every example before anything is decided.

The prompt is what the template makes of the messages with a generation prompt, and `lead`: what the template puts
between that and an answer, for example an empty block of thoughts. So a training sees the same prompt as an answer.

Control tokens in contents are plain text. `Rendering` replaces each by one character that occurs nowhere else, and
`Text.pieces` names them, so that a tokenizer does not read them as control tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from academy.errors import TemplateError
from academy.models.messages import Message as Turn
from academy.models.messages import Tool, ToolCall, Transcript
from academy.models.template_day import with_fixed_day
from academy.models.template_files import AddedToken, TemplateFiles
from academy.models.template_sandbox import MessagesRejectedError, render
from academy.models.thinking import WORDS, opened_block, without_thoughts

PROBE = "\U000f0000"
"""Stands for an answer whose place is looked for."""
FIRST_STAND_IN = 0xF0001
"""The first character that may stand for a control token; it and its followers are for private use."""
SYSTEM_PROBE = "Aspidistra"
OPENER = 200
"""Characters of a generation prompt's end that may be an opened block of thoughts."""


class Message(TypedDict):
    """One turn: role is system, user or assistant."""

    role: str
    content: str


class Text(NamedTuple):
    """A rendered text. Each character of `stand_ins` is a control token that someone wrote."""

    text: str
    stand_ins: dict[str, str]

    def pieces(self) -> list[tuple[str, bool]]:
        """Its parts in order, each with whether it is a control token that is plain text."""
        if not self.stand_ins:
            return [(self.text, False)]
        parts = re.split(f"([{''.join(self.stand_ins)}])", self.text)
        return [(self.stand_ins.get(part, part), part in self.stand_ins) for part in parts if part]

    def __str__(self) -> str:
        return "".join(piece for piece, _ in self.pieces())


class Frame(NamedTuple):
    """What a template puts around an answer."""

    opener: str  # the end of its generation prompt that an answer in a conversation does not have
    lead: str  # what is between the generation prompt and an answer
    tail: str  # what follows an answer, including the end token
    end: str  # the token that ends an answer


class Rendering:
    """A chat template with a fixed day."""

    def __init__(
        self,
        text: str,
        special_tokens: Mapping[str, object],
        added: Sequence[AddedToken],
        ends: Sequence[str],
        source: str,
    ) -> None:
        """`ends`: tokens that may end an answer. Raises TemplateError for invalid Jinja."""
        self.source = source or "the base model"
        self.text = with_fixed_day(text, self.source)
        self._first_line = 1 + self.text.count("\n") - text.count("\n")
        self._special = dict(special_tokens)
        self._added = tuple(added)
        self._ends = tuple(ends)

    @classmethod
    def of(cls, files: TemplateFiles) -> Rendering:
        """The template of a model's files."""
        return cls(files.text, files.special_tokens, files.added, files.ends, files.source)

    @cached_property
    def frame(self) -> Frame:
        """What the template puts around answers. Raises TemplateError where an answer cannot be found or has no end."""
        talk: list[Message] = [{"role": "user", "content": "a"}]
        before = self._render(talk, answer_follows=True)
        prompt, tail = self._around_probe(talk)
        opener = ""
        if not prompt.startswith(before):
            opener = before.removeprefix(prompt) if before.startswith(prompt) else "?"
            block = opened_block(opener[-OPENER:])
            if opener.strip() not in ("", block):
                raise _unmarked()
        end = min((end for end in self._ends if end in tail), key=tail.index, default="")
        if not end and self._ends:
            raise TemplateError(
                f"The chat template does not end an answer with {self._ends[0]}.",
                "The model would not learn to stop. Give the base model another chat template.",
            )
        tail = tail[: tail.index(end) + len(end)] if end else tail
        return Frame(opener, prompt[len(before) :] if not opener else "", tail, end)

    @cached_property
    def system_in_request(self) -> bool:
        """Whether a system message is put into the first request: the template rejects or omits it."""
        request: Message = {"role": "user", "content": "a"}
        try:
            text = self._render([{"role": "system", "content": SYSTEM_PROBE}, request], answer_follows=True)
        except TemplateError:
            return True
        return SYSTEM_PROBE not in text

    @cached_property
    def opened(self) -> str:
        """The tag of the block of thoughts in which an answer begins; empty if none."""
        return opened_block(self.frame.lead)

    @cached_property
    def closes_thoughts(self) -> bool:
        """Whether the template itself puts a block of thoughts before each answer."""
        lead = self.frame.lead
        return bool(lead.strip()) and not without_thoughts(lead)

    def prompt(self, messages: Sequence[Message]) -> Text:
        """The text up to the start of the answer. Raises TemplateError where the template rejects the messages."""
        turns, stand_ins = self._prepared(messages)
        before = self._render(turns, answer_follows=True)
        return Text(before.removesuffix(self.frame.opener) + self.frame.lead, stand_ins)

    def example(self, messages: Sequence[Message]) -> tuple[Text, Text]:
        """The prompt, and the answer with its end token. Raises TemplateError where the template rejects or changes it.

        The thoughts of an answer are omitted where the template has its own block of thoughts, or omits them.
        """
        prompt = self.prompt(messages[:-1])
        given = messages[-1]["content"]
        bare = without_thoughts(given)
        if not bare and given.strip():
            raise TemplateError("The answer has thoughts and nothing else.", "Remove the example.")
        for answer in [bare] if self.closes_thoughts else list(dict.fromkeys((given, bare))):
            turns, stand_ins = self._prepared([*messages[:-1], {"role": "assistant", "content": answer}])
            before, after = self._around_probe(turns[:-1])
            whole = self._render(turns, answer_follows=False)
            if not after.startswith(self.frame.tail):
                continue
            written = whole[len(before) : len(whole) - len(after)]
            if whole == before + written + after and written.strip() == turns[-1]["content"].strip():
                return Text(prompt.text, stand_ins | prompt.stand_ins), Text(written + self.frame.tail, stand_ins)
        raise TemplateError(
            "The chat template changes the answer, or puts another end after it than after other answers.",
            "Remove the example, or give the base model another chat template.",
        )

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template writes the definitions of tools, calls and results."""
        words = ("probe_tool", "Aspidistra", "Begonia", "Calathea")
        call = ToolCall(id="call00001", name=words[0], arguments=f'{{"plant":"{words[2]}"}}')
        turns = (
            Turn(role="user", content="a"),
            Turn(role="assistant", content="", tool_calls=(call,)),
            Turn(role="tool", content=words[3], tool_call_id=call.id, name=call.name),
        )
        schema = '{"properties":{"plant":{"type":"string"}},"type":"object"}'
        tools = [Tool(name=words[0], description=words[1], parameters=schema).as_function]
        try:
            text = self._render([turn.written(parsed=True) for turn in turns], answer_follows=True, tools=tools)
        except TemplateError:
            return False
        return all(word in text for word in words)

    def example_of(self, transcript: Transcript) -> tuple[Text, Text]:
        """As `example`, for a conversation that may have tools. Calls are a part of the answer; results never are.

        The answer is what the template writes behind the prompt, which must be a prefix of the whole.
        """
        if not transcript.has_tools:
            return self.example([{"role": turn.role, "content": turn.content} for turn in transcript.messages])
        if not self.takes_tools:
            raise TemplateError("The chat template has no place for tools.", "Give the base model another template.")
        *before, last = transcript.messages
        bare = without_thoughts(last.content)
        for content in [bare] if self.closes_thoughts else list(dict.fromkeys((last.content, bare))):
            answer = last.model_copy(update={"content": content})
            turns, tools, stand_ins = self._prepared_with_tools([*before, answer], transcript.tools)
            whole = self._render(turns, answer_follows=False, tools=tools)
            start = self._render(turns[:-1], answer_follows=True, tools=tools).removesuffix(self.frame.opener)
            prompt = start + self.frame.lead
            written, end, rest = whole.removeprefix(prompt).partition(self.frame.end or "\0")
            is_whole = bool(end) == bool(self.frame.end) and not rest.strip()
            if whole.startswith(prompt) and is_whole and _says(written, turns[-1]):
                return Text(prompt, stand_ins), Text(written + end, stand_ins)
        raise TemplateError(
            "The chat template does not put the answer with its calls behind the prompt.", "Remove the example."
        )

    def has_control_tokens(self, content: str) -> bool:
        """Whether a user's text contains control tokens."""
        return bool(self._controls[0].search(content))

    def _prepared(self, messages: Sequence[Message]) -> tuple[list[Message], dict[str, str]]:
        """Messages as the template gets them, and what their stand-in characters stand for."""
        turns: list[Message] = [{"role": m["role"], "content": m["content"]} for m in messages]
        if len(turns) > 1 and (turns[0]["role"], turns[1]["role"]) == ("system", "user") and self.system_in_request:
            content = f"{turns[0]['content']}\n\n{turns[1]['content']}"
            turns = [{"role": "user", "content": content}, *turns[2:]]
        of_others, of_assistant = self._controls
        texts = {
            token: ""
            for turn in turns
            for token in (of_assistant if turn["role"] == "assistant" else of_others).findall(turn["content"])
        }
        if not texts:
            return turns, {}
        characters = set().union(*(turn["content"] for turn in turns), self.text)
        free = (chr(n) for n in range(FIRST_STAND_IN, 0xFFFFE) if chr(n) not in characters)
        stand_ins = dict(zip(texts, free, strict=False))
        for turn in turns:
            controls = of_assistant if turn["role"] == "assistant" else of_others
            turn["content"] = controls.sub(lambda match: stand_ins[match[0]], turn["content"])
        return turns, {character: token for token, character in stand_ins.items()}

    def _prepared_with_tools(
        self, messages: Sequence[Turn], tools: Sequence[Tool]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None, dict[str, str]]:
        """As `_prepared`: control tokens are replaced in arguments, results and definitions, too."""
        turns = [message.written(parsed=True, thoughts=False) for message in messages]
        if [turn["role"] for turn in turns[:2]] == ["system", "user"] and self.system_in_request:
            content = f"{turns[0]['content']}\n\n{turns[1]['content']}"
            turns = [{**turns[1], "content": content}, *turns[2:]]
        functions = [tool.as_function for tool in tools]
        of_others, of_assistant = self._controls
        patterns = [of_assistant if turn["role"] == "assistant" else of_others for turn in turns]
        values = [*zip(patterns, turns, strict=True), (of_others, functions)]
        tokens = {token: "" for pattern, value in values for text in _strings(value) for token in pattern.findall(text)}
        if not tokens:
            return turns, functions or None, {}
        characters = set().union(*(text for _, value in values for text in _strings(value)), self.text)
        free = (chr(n) for n in range(FIRST_STAND_IN, 0xFFFFE) if chr(n) not in characters)
        stand_ins = dict(zip(tokens, free, strict=False))
        *turns, functions = [
            _mapped(value, partial(pattern.sub, lambda match: stand_ins[match[0]])) for pattern, value in values
        ]
        return turns, functions or None, {character: token for token, character in stand_ins.items()}

    @cached_property
    def _controls(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """Control tokens in contents of users and systems, and in answers.

        A model may write its own marks (tags of thoughts and tools) in an answer, but no special token and no mark that
        begins or ends a turn.
        """
        try:
            marks = self._render([{"role": "user", "content": "a"}], answer_follows=True) + self.frame.tail
        except TemplateError:
            marks = ""
        forbidden = [t.content for t in self._added if t.special or (t.content in marks and t.content not in WORDS)]
        return _any_of([t.content for t in self._added]), _any_of(forbidden)

    def _around_probe(self, turns: Sequence[Message]) -> tuple[str, str]:
        """What the template writes before and after an answer to these turns."""
        text = self._render([*turns, {"role": "assistant", "content": PROBE}], answer_follows=False)
        before, probe, after = text.partition(PROBE)
        if not probe or PROBE in after:
            raise _unmarked()
        return before, after

    def _render(
        self, turns: Sequence[Mapping[str, Any]], *, answer_follows: bool, tools: Sequence[Any] | None = None
    ) -> str:
        variables = {
            **self._special, "messages": [dict(turn) for turn in turns], "tools": tools, "documents": None,
            "add_generation_prompt": answer_follows,
        }  # fmt: skip
        try:
            return render(self.text, variables, self.source, self._first_line)
        except MessagesRejectedError as problem:
            words = str(problem)
            if any(len(text) > 3 and text[:40] in words for turn in turns for text in _texts_in(turn)):
                words = "it names a text of the conversation"  # reports contain no texts
            raise TemplateError(f"The chat template rejects the conversation: {words.rstrip('.')}.", "") from None


def _texts_in(turn: Mapping[str, Any]) -> Iterator[str]:
    """The content of a turn and the texts in the arguments of its calls."""
    yield from _strings(turn["content"])
    for call in turn.get("tool_calls", ()):
        yield from (text for value in call["function"]["arguments"].values() for text in _strings(value))


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (key, *_strings(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(inner, change) for key, inner in value.items()}
    return [_mapped(inner, change) for inner in value] if isinstance(value, list) else value


def _says(written: str, turn: Mapping[str, Any]) -> bool:
    """Whether what a template wrote has a turn's text, the names of what it calls, and the texts of the arguments."""
    functions = [call["function"] for call in turn.get("tool_calls", ())]
    texts = [text for function in functions for text in (function["name"], *_strings(function["arguments"]))]
    return str(turn["content"]).strip() in written and all(
        text in written or json.dumps(text, ensure_ascii=False)[1:-1] in written for text in texts
    )


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    """Matches any of these texts, the longest first; nothing if there are none."""
    ordered = sorted((text for text in texts if text.strip()), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def _unmarked() -> TemplateError:
    return TemplateError(
        "The chat template does not put the answer after the prompt.",
        "The loss could not be limited to the answer. Give the base model another chat template.",
    )
