"""Conversations with feedback, and files of examples, as rows for the store.

A line is a conversation in one of the dialects of models/dialects.py. It may have `id`, `user`, `domain`, `type` and
feedback (feedback.py), for the whole conversation or at single answers. Every rated answer becomes an experience with
the messages before it. A conversation without feedback gives its last answer, marked as model-made with an unknown
outcome: it is stored and not trained on. A correction replaces the answer. An answer of weight 0 is context only.

A message that calls tools is an answer of its own. Without feedback of its own it shares that of the answer which its
exchange ends with; where that is corrected, no one knows whether the calls before it were right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from academy.experience.experience import Kind, Outcome, Trace
from academy.experience.feedback import Feedback, Unreadable, feedback_beside
from academy.experience.reading import make_row, now, read_outcome
from academy.models.dialects import Dialogue, read_dialogues
from academy.models.exchanges import Conversation, Exchange, Reply, converse, message_of
from academy.models.turns import RowTurn
from academy.records import Record, digest_of

MOST_RATED = 200
"""Most answers of one conversation that are stored: each is stored with all messages before it."""


class ConversationFilter(Record):
    """Which conversations of a file are imported; an empty field allows all."""

    users: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    gold_only: bool = False

    def rejects(self, line: Mapping[str, Any]) -> bool:
        """Whether a line is filtered by user, domain or type."""
        return any(
            values and str(line.get(name) or "") not in values
            for name, values in (("user", self.users), ("domain", self.domains), ("type", self.types))
        )


class _Answer(NamedTuple):
    """An answer that may be learned, and the feedback on it."""

    start: int  # the number of messages before its request
    request: str
    text: str
    trace: Trace
    feedback: Feedback
    exchange: int  # number of its exchange
    is_doubtful: bool = False  # what followed it was corrected


def conversation_rows(line: Any, kind: Kind, batch: str, only: ConversationFilter) -> list[dict[str, Any]] | str:
    """The rows of one line (none if it is filtered), or the reason why it cannot be read.

    `kind` "conversation" reads feedback on every answer; "file" reads the last answer, as a successful example.
    """
    fields = line if isinstance(line, Mapping) else {}
    if only.rejects(fields):
        return []
    if no_weight(fields):
        return "the row has weight 0"
    dialogues = read_dialogues(line)
    if isinstance(dialogues, str):
        return dialogues
    rows: list[dict[str, Any]] = []
    for dialogue in dialogues:
        conversation = converse(dialogue.turns, dialogue.tools)
        answers = conversation if isinstance(conversation, str) else _answers(fields, dialogue, conversation)
        if isinstance(conversation, str) or isinstance(answers, str):
            return str(answers)
        rated = [answer for answer in answers if answer.feedback.is_given]
        last = [answer for answer in answers if answer.exchange == answers[-1].exchange]
        last = [answer for answer in last[:-1] if answer.trace.tool_calls] + last[-1:]
        if kind == "file":
            wanted = last
        elif only.gold_only:
            wanted = [answer for answer in answers if answer.feedback.gold_star]
        else:
            wanted = rated or last
        if len(wanted) > MOST_RATED:
            calls = any(answer.trace.tool_calls for answer in wanted)
            return f"more than {MOST_RATED} {'answers and calls' if calls else 'rated answers'}"
        messages = [message.model_dump(mode="json") for message in conversation.messages]
        rows += [_row(fields, dialogue, answer, messages[: answer.start], kind, batch) for answer in wanted]
    return rows


def _answers(line: Mapping[str, Any], dialogue: Dialogue, conversation: Conversation) -> list[_Answer] | str:
    """The answers in order. A message's own feedback stays with it; the line's belongs to the last answer."""
    whole = _whole_feedback(line, dialogue)
    if isinstance(whole, str):
        return whole
    if problem := _misplaced(dialogue.turns):
        return problem
    answers: list[_Answer] = []
    for number, exchange in enumerate(conversation.exchanges):
        answers += _final_answers(conversation, exchange, number)
    if not answers or answers[-1].exchange != len(conversation.exchanges) - 1:
        number = len(conversation.exchanges) - 1  # it ends with a call
        place, reply = max(conversation.exchanges[-1].learned_calls.items())
        answers.append(_step(conversation, conversation.exchanges[-1], number, place, reply))
    own = answers[-1].feedback
    if not own.is_given or (whole.correction and not own.correction):
        answers[-1] = answers[-1]._replace(feedback=whole)
    elif stated_outcome(line) == "failure" and not own.correction:
        answers[-1] = answers[-1]._replace(feedback=Feedback(thumb="down", comment=own.comment))
    return _with_steps(conversation, answers)


def _final_answers(conversation: Conversation, exchange: Exchange, number: int) -> list[_Answer]:
    """What an exchange ends with. Pieces with feedback of their own are answers of their own."""
    rated = [piece for piece in exchange.learned if _own_feedback(piece).is_given]
    answers = []
    for pieces in [[piece] for piece in rated] or ([exchange.learned] if exchange.learned else []):
        message = message_of(pieces)
        trace = Trace(
            parts=exchange.request.parts, steps=exchange.steps, reasoning=message.reasoning, tools=conversation.tools
        )
        feedback = _feedback_of(pieces)
        answers.append(_Answer(exchange.start, exchange.request.content, message.content, trace, feedback, number))
    return answers


def _step(conversation: Conversation, exchange: Exchange, number: int, place: int, reply: Reply) -> _Answer:
    """A message that calls tools, as an answer to what stands before it."""
    message = reply.message
    trace = Trace(
        parts=exchange.request.parts, steps=exchange.steps[:place], tool_calls=message.tool_calls,
        reasoning=message.reasoning, tools=conversation.tools,
    )  # fmt: skip
    feedback = _feedback_of(reply.turns)
    return _Answer(exchange.start, exchange.request.content, message.content, trace, feedback, number)


def _with_steps(conversation: Conversation, answers: list[_Answer]) -> list[_Answer]:
    """The answers with the steps before them, which share the feedback of the last answer of their exchange."""
    everything: list[_Answer] = []
    by_exchange: dict[int, list[_Answer]] = defaultdict(list)
    for answer in answers:
        by_exchange[answer.exchange].append(answer)
    for number, exchange in enumerate(conversation.exchanges):
        final = by_exchange[number]
        shared = final[-1].feedback if final else Feedback()
        for place, reply in exchange.learned_calls.items():
            step = _step(conversation, exchange, number, place, reply)
            if final and step.trace == final[-1].trace:
                continue
            if not step.feedback.is_given and shared.correction:
                step = step._replace(is_doubtful=True)
            elif not step.feedback.is_given:
                step = step._replace(feedback=shared.model_copy(update={"comment": ""}))
            everything.append(step)
        everything += final
    return everything


def _feedback_of(turns: Sequence[RowTurn]) -> Feedback:
    """The feedback of an answer's turns; of several, only one may have feedback."""
    own = [feedback for turn in turns if (feedback := _own_feedback(turn)).is_given]
    return own[0] if len(own) == 1 else Feedback()


def no_weight(line: Mapping[str, Any]) -> bool:
    """Whether a row says that nothing of it is learned."""
    weight = line.get("weight")
    return weight is False or str(weight) in ("0", "0.0", "-0.0")


def _whole_feedback(line: Mapping[str, Any], dialogue: Dialogue) -> Feedback | str:
    whole = feedback_beside(line)
    if isinstance(whole, Unreadable):
        return whole.because
    if dialogue.preferred is None:
        failed = whole.is_given and not whole.correction and stated_outcome(line) == "failure"
        return Feedback(thumb="down", comment=whole.comment) if failed else whole
    if whole.is_given:
        return "feedback beside a preference"
    return Feedback(thumb="up" if dialogue.preferred else "down", comment=whole.comment)


def _misplaced(turns: Sequence[RowTurn]) -> str:
    """Why the feedback at a turn cannot be used; empty where all can."""
    for turn in turns:
        feedback = feedback_beside(turn.source)
        if isinstance(feedback, Unreadable):
            return f"{feedback.because} (turn {turn.number})"
        if feedback.is_given and turn.role != "assistant":
            return f"feedback stands at a turn that is not an answer (turn {turn.number}: {turn.role})"
    return ""


def _own_feedback(piece: RowTurn) -> Feedback:
    feedback = feedback_beside(piece.source)
    return feedback if isinstance(feedback, Feedback) else Feedback()


def _row(
    line: Mapping[str, Any], dialogue: Dialogue, answer: _Answer, context: list[Any], kind: Kind, batch: str
) -> dict[str, Any]:
    outcome = _outcome(line, answer.feedback) if kind == "file" else answer.feedback.outcome
    outcome = "unknown" if answer.is_doubtful else outcome
    trace = answer.trace
    labels = [f"{name}:{line[name]}" for name in ("domain", "type") if line.get(name)]
    thread = str(line.get("id") or line.get("conversation_id") or _thread_of(dialogue))
    tags = line.get("tags") or []
    return make_row(
        kind=kind,
        situation=answer.request,
        action=answer.text,
        correction=answer.feedback.correction,
        result="",
        feedback=answer.feedback.comment,
        tags=[*labels, *(str(tag) for tag in (tags if isinstance(tags, list) else [tags]))],
        outcome=outcome,
        author=str(line.get("user") or line.get("author") or ""),
        batch=batch,
        at=str(line.get("at") or line.get("created_at") or now()),
        extra={},
        rating=answer.feedback.rating,
        gold=answer.feedback.gold_star,
        model_made=kind == "conversation" and not (answer.feedback.is_given and outcome == "success"),
        thread=thread if context or trace.steps or trace.tool_calls or kind == "conversation" else "",
        context=context,
        trace=trace.model_dump(mode="json"),
    )


def stated_outcome(line: Mapping[str, Any]) -> Outcome:
    """What the line says of itself; a failure in any of its fields is a failure."""
    signs = [
        read_outcome(line.get("outcome")),
        read_outcome(line.get("success"), line.get("result"), line.get("status")),
    ]
    return "failure" if "failure" in signs else signs[0]


def _thread_of(dialogue: Dialogue) -> str:
    """A name for a conversation without one. It stays the same while the conversation goes on."""
    roles = [turn.role for turn in dialogue.turns]
    return digest_of([(turn.role, turn.text) for turn in dialogue.turns[: roles.index("user") + 1]])[:16]


def _outcome(line: Mapping[str, Any], feedback: Feedback) -> Outcome:
    """An example is a success, unless the line or its feedback says otherwise. A failure of either is a failure.

    A correction is a success: what failed is the answer that it replaces.
    """
    stated = read_outcome(line.get("outcome"))
    if feedback.correction:
        return "success"
    if "failure" in (feedback.outcome, stated_outcome(line)):
        return "failure"
    if line.get("outcome") is not None:
        return stated
    return feedback.outcome if feedback.is_given else "success"
