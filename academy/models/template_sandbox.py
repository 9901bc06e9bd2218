"""Renders chat templates of unknown origin: no access to Python, to the clock or to chance, in bounded time and memory.

The environment is that of transformers (block trimming, loop controls, `{% generation %}`, `raise_exception`,
`tojson`), without `strftime_now`: a template's day is fixed before it is rendered (academy.models.template_day).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from academy.errors import TemplateError

SECONDS = 5.0
"""Time limit of one rendering."""
LONGEST = 4_000_000
"""Characters of a text."""
MAX_NUMBER = 100_000
"""Largest number that a template may give to a function, most bits of a power, and most values of a list."""
LARGEST = 60 << 10
"""Bytes of a template. An adapter's copy of it, with its day, must fit into 64 KiB."""
REMEDY = "Correct the base model's chat template, or choose another base model."

ALLOCATED = 25 * LONGEST
"""Characters of all values that one rendering makes, those included that it drops again."""
PLACE = 16
"""What a place in a list counts, in characters."""
DEEPEST = 64
"""Levels of a value that a template puts together."""
WIDEST = 100
"""Largest indentation of JSON."""

_WIDE = re.compile(r"\{[^{}]*:[^{}]*(?:\d{4}|\{)")
"""A field with a width of four digits, or one that an argument sets."""
_METHODS = frozenset(("encode", "expandtabs", "format_map", "maketrans", "translate"))
"""Methods of texts that make bytes or text of any length; chat templates do not use them."""
_WRITERS = frozenset(("string", "tojson", "join", "urlencode", "list"))
"""Filters that write every value inside of a value."""
_OMITTED = frozenset(("random", "wordwrap", "urlize", "striptags", "xmlattr", "pprint"))
"""Filters that depend on chance, or that take long for a long text; chat templates do not use them."""
TOO_LARGE = "it makes too large a value"


class _Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self.until = time.monotonic() + SECONDS
        self.characters = 10 * LONGEST
        self.allocated = ALLOCATED


_budget: ContextVar[_Budget] = ContextVar("budget")


class MessagesRejectedError(Exception):
    """The template called `raise_exception`."""


class _LimitError(Exception):
    """The template takes too long or makes too large a value."""


class _Generation(Extension):
    """`{% generation %}` marks what a training learns. It renders to its content."""

    tags = {"generation"}  # noqa: RUF012  jinja's own attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The content of the block."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class _Environment(ImmutableSandboxedEnvironment):
    """Every loop round, call, operator and output checks the limits."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,  # constants would be computed at compile time, outside of the limits
            finalize=_written,
        )
        self.filters["tojson"] = _tojson
        self.filters = {
            name: _guarded(name, function) for name, function in self.filters.items() if name not in _OMITTED
        }
        self.globals["raise_exception"] = _raise_exception
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.body.insert(0, nodes.ExprStmt(_of_environment("tick", []), lineno=loop.lineno))
        _limit_operators(tree)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute: none of numbers and bytes, and not all of texts."""
        if isinstance(obj, int | float | complex | bytes | bytearray) or (isinstance(obj, str) and attr in _METHODS):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def tick(self) -> None:
        """Called in every round of a loop; `call` checks the time."""

    def joined(self, *values: Any) -> str:
        """The operator `~`."""
        return str(_checked("".join([str(_shown(value)) for value in values])))

    def made(self, value: Any) -> Any:
        """A list, tuple or object as the template writes it."""
        return _flat(value)

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """A slice: `value[start:stop:step]`."""
        return _checked(value[slice(start, stop, step)])

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method within the limits."""
        _check_time()
        name, owner = getattr(obj, "__name__", ""), getattr(obj, "__self__", None)
        _flat([value for value in (*args, *kwargs.values()) if isinstance(value, list | tuple | dict)])
        if isinstance(owner, str):
            _check_arguments(name, (owner, *args), kwargs)
            args = tuple(map(_counted, args))
        return _checked(super().call(context, obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` without large widths."""
        write = super().wrap_str_format(value)
        if write is None:
            return None

        @wraps(write)
        def limited(*args: Any, **kwargs: Any) -> str:
            if _WIDE.search(value.__self__):
                raise _LimitError(TOO_LARGE)
            _check_arguments("format", (value.__self__, *args, 10**3), kwargs)
            return str(_checked(write(*args, **kwargs)))

        return limited

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator whose result can be large."""
        _check_time()
        # a place in a list counts as much as the text that it may hold
        sizes = [
            len(side) * (1 if isinstance(side, str) else LONGEST // MAX_NUMBER)
            for side in (left, right)
            if isinstance(side, str | list | tuple)
        ]
        numbers = [abs(side) for side in (left, right) if isinstance(side, int)]
        if operator == "*" and (sizes or len(numbers) == 2):
            too_large = sizes[0] * numbers[0] > LONGEST if sizes and numbers else max(numbers) > 1 << MAX_NUMBER
        elif operator == "**":
            too_large = len(numbers) == 2 and numbers[0].bit_length() * numbers[1] > MAX_NUMBER
        elif operator == "%":  # a width in a format makes text of any length
            too_large = isinstance(left, str)
        else:
            too_large = sum(sizes) > LONGEST
        if too_large:
            raise _LimitError(TOO_LARGE)
        return _checked(super().call_binop(context, operator, left, right))


def render(text: str, variables: Mapping[str, Any], source: str = "the chat template", first_line: int = 1) -> str:
    """Render a template. `first_line` is the number of its first line in `source`, for messages.

    Raises TemplateError for an invalid or failing template, with its line, and MessagesRejectedError where the template
    itself refuses the messages.
    """
    template = compiled(text, source, first_line)
    token = _budget.set(_Budget())
    try:
        return str(_checked(template.render(**variables)))
    except MessagesRejectedError:
        raise
    except _LimitError as problem:
        raise TemplateError(f"The chat template in {source} was stopped: {problem}.", REMEDY) from None
    except Exception as problem:  # noqa: BLE001  a template may raise anything
        words = " ".join(str(problem).split())[:200].rstrip(".") or type(problem).__name__
        raise TemplateError(
            f"The chat template in {source} fails{_line(problem, first_line)}: {words}.", REMEDY
        ) from None
    finally:
        _budget.reset(token)


@lru_cache(maxsize=64)
def compiled(text: str, source: str, first_line: int = 1) -> jinja2.Template:
    """A template that is ready to render. Raises TemplateError for invalid Jinja."""
    if len(text.encode(errors="replace")) > LARGEST + 4096:
        raise TemplateError(f"The chat template in {source} has more than {LARGEST:,} bytes.", REMEDY)
    token = _budget.set(_Budget())
    try:
        return ENVIRONMENT.from_string(text)
    except jinja2.TemplateSyntaxError as problem:
        line = max(1, problem.lineno - first_line + 1)
        words = (problem.message or type(problem).__name__).rstrip(".")
        raise TemplateError(
            f"The chat template in {source} is not valid Jinja (line {line}): {words}.", REMEDY
        ) from None
    except (jinja2.TemplateError, RecursionError, SyntaxError, MemoryError, ValueError) as problem:
        raise TemplateError(
            f"The chat template in {source} is not valid Jinja: {str(problem)[:200] or type(problem).__name__}.", REMEDY
        ) from None
    finally:
        _budget.reset(token)


def _line(problem: BaseException, first_line: int) -> str:
    """Where a template failed."""
    line, frame = 0, problem.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return f" (line {max(1, line - first_line + 1)})" if line else ""


def _of_environment(name: str, arguments: Sequence[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)


def _limit_operators(node: nodes.Node) -> None:
    """Replace every `~` and every slice, which cannot be intercepted, by a call."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            for place, child in enumerate(value):
                if isinstance(child, nodes.Node):
                    _limit_operators(child)
                    value[place] = _limited(child)
        elif isinstance(value, nodes.Node):
            _limit_operators(value)
            setattr(node, name, _limited(value))


def _limited(node: nodes.Node) -> nodes.Node:
    if isinstance(node, nodes.Concat):
        return _of_environment("joined", node.nodes).set_lineno(node.lineno)
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _of_environment("made", [node]).set_lineno(node.lineno)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        ends = [end or nodes.Const(None) for end in (node.arg.start, node.arg.stop, node.arg.step)]
        return _of_environment("sliced", [node.node, *ends]).set_lineno(node.lineno)
    return node


def _check_time() -> None:
    if time.monotonic() > _budget.get().until:
        raise _LimitError(f"it takes longer than {SECONDS:g} seconds")


def _checked(value: Any) -> Any:
    """A value that is not too large, alone and with all others of this rendering."""
    _check_time()
    if isinstance(value, str | bytes):
        size = len(value)
        too_large = size > LONGEST
    elif isinstance(value, list | tuple | dict):
        size = PLACE * len(value)
        too_large = len(value) > 2 * MAX_NUMBER
    else:
        return value
    budget = _budget.get()
    budget.allocated -= size
    if too_large or budget.allocated < 0:
        raise _LimitError(TOO_LARGE)
    return value


def _counted(value: Any) -> Any:
    """A value whose items are checked while a function reads them, if it is a generator."""
    return map(_checked, value) if isinstance(value, Iterator) else value


def _written(value: Any) -> Any:
    """A value that the template writes."""
    budget = _budget.get()
    if isinstance(value, str):
        budget.characters -= len(value)
    if budget.characters < 0:
        raise _LimitError(TOO_LARGE)
    return _shown(value)


def _shown(value: Any) -> Any:
    """A value that is not too large when all values inside of it are written."""
    places, characters, values = MAX_NUMBER, 2 * LONGEST, [_checked(value)]
    while values:
        value_inside = _checked(values.pop())
        if isinstance(value_inside, str):
            characters -= len(value_inside)
        elif isinstance(value_inside, list | tuple | dict):
            places -= len(value_inside)
            if places >= 0:
                values += value_inside.values() if isinstance(value_inside, dict) else value_inside
        if places < 0 or characters < 0:
            raise _LimitError(TOO_LARGE)
    return value


def _flat(value: Any) -> Any:
    """A value that is neither deep nor, written out, large: nothing stops a comparison of it, or its use as a key."""
    layer, places = [value], MAX_NUMBER
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for outer in layer:
            places -= len(outer)
            if places < 0:
                raise _LimitError(TOO_LARGE)
            values = outer.values() if isinstance(outer, dict) else outer
            inner += [item for item in values if isinstance(item, list | tuple | dict)]
        if not inner:
            return value
        layer = inner
    raise _LimitError("it makes too deep a value")


def _check_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Arguments that cannot make a value of any size: no large numbers, and no large text for each place of a text."""
    _check_time()
    rest = [*args[1:], *kwargs.values()]
    if any(isinstance(value, int | float) and abs(value) > MAX_NUMBER for value in rest):
        raise _LimitError(TOO_LARGE)
    if name in ("batch", "slice") and any(isinstance(value, list | tuple | dict) for value in rest):
        raise _LimitError(TOO_LARGE)  # what fills the last place would be a value inside of a value
    if name == "sum" and any(not isinstance(value, int | float | str) for value in rest):
        raise _LimitError(TOO_LARGE)  # a sum of lists copies all of them again for each
    if name == "join":
        _shown(list(args))
    if name in ("join", "replace", "format", "indent", "translate") and rest:
        length = len(args[0]) if isinstance(args[0], str | list | tuple | range) else MAX_NUMBER
        longest = max((len(value) for value in rest if isinstance(value, str | list | tuple)), default=0)
        longest = max([longest, *(abs(int(value)) for value in rest if isinstance(value, int | float))])
        if length * longest > 10 * LONGEST:
            raise _LimitError(TOO_LARGE)


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter within the limits."""
    passes_context = hasattr(function, "jinja_pass_arg")

    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        # a number as the value itself is harmless: only texts and lists grow
        _check_arguments(name, args[1:] if passes_context else args, kwargs)
        if name == "format":
            raise _LimitError(TOO_LARGE)
        if name in _WRITERS:
            _shown(list(args[1:] if passes_context else args))
        return _checked(function(*map(_counted, args), **kwargs))

    return limited


def _raise_exception(message: Any) -> None:
    raise MessagesRejectedError(" ".join(str(message).split())[:200])


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return encoder.encode(value)
    if (len(indent) if isinstance(indent, str) else indent) > WIDEST:
        raise _LimitError(TOO_LARGE)
    parts, characters = [], 0
    for part in encoder.iterencode(value):  # deep values have more indentation than text
        parts.append(part)
        characters += len(part)
        if characters > LONGEST:
            raise _LimitError(TOO_LARGE)
    return "".join(parts)


ENVIRONMENT = _Environment()
