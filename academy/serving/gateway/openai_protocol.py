"""OpenAI's protocol of chat completions: reads requests, writes answers and errors.

Fields that would change an answer and are not supported (tools, penalties, several choices) are refused by name. Fields
that change nothing, and unknown fields, are ignored. No error repeats a request's text.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from academy.errors import ServingError
from academy.models.chat_template import Message
from academy.records import expectation
from academy.serving.runtimes.base import Piece, Turn

TEMPERATURE = 0.0
"""The default. OpenAI's is 1; ours gives the answer that was examined, the same every time."""
MAX_STOPS, LONGEST_STOP = 4, 500
"""Most stop strings, and most characters of each."""
LONGEST_USER = 200
"""Most characters of the name of a user."""


class RequestError(ServingError):
    """A refused request: an HTTP status and OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry: float | None = None,
    ) -> None:
        super().__init__(message)
        self.args = (status, message, param, code, retry)
        self.status = status
        self.param = param
        self.code = code
        self.retry = retry  # seconds after which a retry may succeed

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The header `retry-after`, where a retry may succeed."""
        return {} if self.retry is None else {"retry-after": str(max(1, round(self.retry)))}


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class TextPart(_Read):
    """A part of a message; only text is supported."""

    type: Literal["text"]
    text: str


class ChatMessage(_Read):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(_Read):
    """What a stream carries besides the answer."""

    include_usage: bool = False


class ChatRequest(_Read):
    """A request for a chat completion."""

    model: str = Field(min_length=1, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, max_length=LONGEST_USER)

    @property
    def limit(self) -> int | None:
        """The requested limit of tokens; the newer name wins where both are given."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages as the template takes them; the role developer becomes system."""
        return tuple(
            {"role": "system" if message.role == "developer" else message.role, "content": message.text}
            for message in self.messages
        )

    def turn(self, max_new_tokens: int) -> Turn:
        """The turn for the runtime. `top_p` 0 leaves only the likeliest token, which is greedy."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        temperature = TEMPERATURE if self.temperature is None else self.temperature
        return Turn(
            messages=self.conversation,
            max_new_tokens=max_new_tokens,
            temperature=0.0 if self.top_p == 0 else temperature,
            top_p=self.top_p or 1.0,
            seed=self.seed,
            stop=tuple(stops),
        )


def read_request(body: bytes, most_messages: int) -> ChatRequest:
    """A request from its bytes. Raises RequestError (400) naming the field, never its content."""
    raw = _object(body)
    _refuse_unsupported(raw)
    try:
        request = ChatRequest.model_validate(raw)  # what was checked above, not a second reading of the bytes
    except ValidationError as problem:
        raise _refused(problem) from None
    if len(request.messages) > most_messages:
        raise RequestError(
            400, f"{len(request.messages)} messages are too many (maximum {most_messages}).", param="messages"
        )
    if request.messages[-1].role == "assistant":
        raise RequestError(
            400, "The last message must not be the assistant's: there is nothing to answer.", param="messages"
        )
    if not any(message.text.strip() for message in request.messages):
        raise RequestError(400, "The messages contain no text.", param="messages")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > MAX_STOPS or not all(0 < len(stop) <= LONGEST_STOP for stop in stops):
        raise RequestError(
            400,
            f"'stop' must be a string or a list of up to {MAX_STOPS} strings of 1 to {LONGEST_STOP} characters.",
            param="stop",
        )
    return request


def _object(body: bytes) -> dict[str, Any]:
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RequestError(400, "The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise RequestError(400, "The body must be a JSON object.", code="invalid_json")
    return raw


UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
}
"""Fields that would change the answer, and their values that do not."""


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    for name, harmless in UNSUPPORTED.items():
        value = raw.get(name)
        if value is None or any(
            value == default and isinstance(value, bool) == isinstance(default, bool) for default in harmless
        ):
            continue
        raise RequestError(
            400, f"'{name}' is only supported with its default value.", param=name, code="unsupported_parameter"
        )


def _refused(problem: ValidationError) -> RequestError:
    """The first error, with the field's name and what it must be, without the input itself."""
    first = problem.errors(include_input=False, include_url=False)[0]
    place = [str(part) for part in first["loc"] if part not in ("str", "list[TextPart]", "list[str]")]
    param = ".".join(place) or None
    missing = first["type"] == "missing"
    message = f"'{param}' is missing." if missing else f"'{param}' is not valid: {expectation(first)}."
    return RequestError(400, message, param=param, code="missing_required_parameter" if missing else "invalid_value")


class Envelope:
    """The fields that all parts of one answer share."""

    def __init__(self, id_: str, model: str, fingerprint: str) -> None:
        self.id = id_
        self.model = model
        self.fingerprint = fingerprint
        self.created = int(time.time())

    def completion(self, text: str, last: Piece) -> bytes:
        """The whole answer as one object."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": last.finish,
        }
        return orjson.dumps({**self._head("chat.completion"), "choices": [choice], "usage": usage(last)})

    def chunk(self, delta: Mapping[str, str], finish: str | None, *, usage_wanted: bool) -> bytes:
        """One event of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        body = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return event({**body, "usage": None} if usage_wanted else body)

    def usage_chunk(self, last: Piece) -> bytes:
        """The event with the token counts; it has no choices."""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage(last)})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


DONE = b"data: [DONE]\n\n"


def event(body: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


def usage(last: Piece) -> dict[str, int]:
    """Token counts of the prompt, of the answer, and of both."""
    return {
        "prompt_tokens": last.prompt_tokens,
        "completion_tokens": last.tokens,
        "total_tokens": last.prompt_tokens + last.tokens,
    }


def model_list(names: Sequence[str], created: int, owner: str) -> dict[str, Any]:
    """The list of available models."""
    return {"object": "list", "data": [model_card(name, created, owner) for name in names]}


def model_card(name: str, created: int, owner: str) -> dict[str, Any]:
    """One available model."""
    return {"id": name, "object": "model", "created": created, "owned_by": owner}
