"""All patterns of the project, and the worst texts for each: pumps for every repetition of its parse tree.

A pattern is slow on a text that reaches a repetition, repeats the repeated piece many times, and fails at the end; or
on a text in which it may begin at many places and runs far from each. `pumps` makes both kinds from the tree itself.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import random
import re
import time
import types
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CALLS = frozenset({"compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn"})
ROOMS = ("academy", "flows", "tasks")
OPTIONAL = frozenset({"gguf", "xllamacpp", "lm_eval", "ray", "prefect_ray", "unsloth", "bitsandbytes", "psycopg"})
"""Packages that need not be installed."""
ENDS = ("", "\x00", "!", "\n", " x", "=", '"')
"""Ends of pumped texts; most patterns fail at one of them."""
SIGNS = "aB1 _-.:=<>/\n\t\"'@#(){}[]|,;%&+*~!?$^\\`"
FEW = 12
"""Repetitions with a smaller maximum are not pumps: they cost the same on every text."""


class Named(NamedTuple):
    """A pattern with the place of its definition. `searched`: somewhere it is searched in a text, not only matched."""

    name: str
    pattern: re.Pattern[Any]
    searched: bool


def all_patterns() -> list[Named]:
    """Every pattern of the project once: those of modules and classes, and those written into calls."""
    patterns: dict[tuple[Any, int], Named] = {}
    for room in ROOMS:
        package = importlib.import_module(room)
        for entry in pkgutil.walk_packages(package.__path__, f"{room}."):
            if ".migrations" in entry.name or not _has_patterns(entry.name):
                continue  # alembic runs migrations
            try:
                module = importlib.import_module(entry.name)
            except ModuleNotFoundError as problem:
                if (problem.name or "").partition(".")[0] not in OPTIONAL:
                    raise
                continue
            for named in _of_module(module):
                key = (named.pattern.pattern, named.pattern.flags)
                if key not in patterns or named.searched:
                    patterns[key] = named
    for path in sources():
        for named in inline_patterns(path):
            patterns.setdefault((named.pattern.pattern, named.pattern.flags), named)
    return sorted(patterns.values(), key=lambda named: named.name)


def _has_patterns(module: str) -> bool:
    """Whether a module compiles patterns; the others need not be imported."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return "re.compile(" in path.read_text()


def sources() -> list[Path]:
    """All files of the project's programs."""
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def calls_of_re(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that take a pattern as their first argument."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("re", "regex")
            and node.func.attr in CALLS
        ):
            yield node


def inline_patterns(path: Path) -> Iterator[Named]:
    """The patterns that are written into calls, such as `re.sub("[ -]", ...)`."""
    for call in calls_of_re(ast.parse(path.read_text())):
        value = call.args[0]
        if isinstance(value, ast.Constant) and isinstance(call.func, ast.Attribute):
            options = [*call.args[1:], *(word.value for word in call.keywords)]
            names = {node.attr for part in options for node in ast.walk(part) if isinstance(node, ast.Attribute)}
            flags = re.RegexFlag(0)
            for name in names & set(re.RegexFlag.__members__):
                flags |= re.RegexFlag[name]
            pattern = re.compile(value.value, flags)
            searched = call.func.attr not in ("match", "fullmatch")
            yield Named(f"{path.relative_to(ROOT)}:{call.lineno}", pattern, searched)


@cache
def _text_of_sources() -> str:
    return "\n".join(path.read_text() for path in sources())


def _of_module(module: types.ModuleType) -> Iterator[Named]:
    for name, value in vars(module).items():
        if isinstance(value, type) and value.__module__ == module.__name__:
            for attribute, content in vars(value).items():
                yield from _within(f"{module.__name__}.{name}.{attribute}", content, 0)
        elif not isinstance(value, types.ModuleType):
            yield from _within(f"{module.__name__}.{name}", value, 0)


def _within(name: str, value: object, depth: int) -> Iterator[Named]:
    """The patterns in a value, also within tuples, dictionaries and bound methods."""
    if isinstance(value, re.Pattern):
        plain = name.rpartition(".")[2]
        own = ROOT / (
            name.rpartition(".")[0].replace(".", "/") + ".py"
        )  # others do not import names that begin with "_"
        text = own.read_text() if plain.startswith("_") and own.exists() else _text_of_sources()
        uses = set(re.findall(rf"(?<![A-Za-z_]){re.escape(plain)}\.(\w+)\b", text))
        yield Named(name, value, not uses or bool(uses - {"match", "fullmatch"}))
    elif isinstance(value, types.BuiltinMethodType) and isinstance(value.__self__, re.Pattern):
        yield Named(name, value.__self__, value.__name__ not in ("match", "fullmatch"))
    elif isinstance(value, (tuple, list, set, frozenset)) and depth < 4:
        for n, part in enumerate(value):
            yield from _within(f"{name}[{n}]", part, depth + 1)
    elif isinstance(value, dict) and depth < 4:
        for key, part in value.items():
            yield from _within(f"{name}[{key!r}]", part, depth + 1)


class _Tree:
    """Texts that match pieces of a pattern, at random but with a fixed seed."""

    def __init__(self, pattern: re.Pattern[Any], seed: int) -> None:
        text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
        self.tree = sre_parser.parse(
            text, pattern.flags & ~re.UNICODE & ~re.DEBUG if isinstance(pattern.pattern, str) else pattern.flags
        )
        self.random = random.Random(seed)
        self.groups: dict[int, str] = {}

    def sample(self, items: Any) -> str:
        """A text that these items match, look-arounds aside."""
        return "".join(self._one(*item) for item in items)

    def _one(self, op: Any, value: Any) -> str:
        if op is sre.LITERAL:
            return chr(value)
        if op is sre.NOT_LITERAL:
            return self._other([(sre.LITERAL, value)])
        if op is sre.ANY:
            return self.random.choice("a a1-")
        if op is sre.IN:
            return self._of_set(value)
        if op is sre.BRANCH:
            return self.sample(self.random.choice(value[1]))
        if op is sre.SUBPATTERN:
            text = self.sample(value[3])
            if value[0] is not None:
                self.groups[value[0]] = text
            return text
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            least, most, inner = value
            return "".join(
                self.sample(inner) for _ in range(min(int(most), max(least, self.random.choice((0, 1, 1, 2)))))
            )
        if op is sre.ATOMIC_GROUP:
            return self.sample(value)
        if op is sre.GROUPREF:
            return self.groups.get(value, "")
        if op is sre.ASSERT:
            return ""
        return ""

    def _of_set(self, items: Any) -> str:
        if items[0][0] is sre.NEGATE:
            return self._other(items[1:])
        op, value = self.random.choice(items)
        if op is sre.LITERAL:
            return chr(value)
        if op is sre.RANGE:
            return chr(self.random.choice((value[0], value[1], self.random.randint(*value))))
        return self._of_category(value)

    def _of_category(self, category: Any) -> str:
        name = str(category)
        if "NOT" in name:
            return self.random.choice("!-." if "WORD" in name else "a1-" if "SPACE" in name else "a -")
        if "DIGIT" in name:
            return self.random.choice("0159")
        if "SPACE" in name:
            return self.random.choice("  \n\t")
        return self.random.choice("aA1_z")

    def _other(self, items: Any) -> str:
        """A sign that is not in a set."""
        for sign in self.random.sample(SIGNS, len(SIGNS)):
            if not any(_contains(item, sign) for item in items):
                return sign
        return "\u00e9"


def _contains(item: Any, sign: str) -> bool:
    op, value = item
    if op is sre.LITERAL:
        return ord(sign) == value
    if op is sre.RANGE:
        return value[0] <= ord(sign) <= value[1]
    name = str(value)
    inside = sign.isdigit() if "DIGIT" in name else sign.isspace() if "SPACE" in name else sign.isalnum() or sign == "_"
    return inside != ("NOT" in name)


def _paths(items: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each repetition without a small maximum, with the items before it."""
    for n, (op, value) in enumerate(items):
        prefix = (*before, *items[:n])
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            if value[1] is sre.MAXREPEAT or value[1] >= FEW:
                yield prefix, value[2]
            yield from _paths(value[2], prefix)
        elif op is sre.BRANCH:
            for branch in value[1]:
                yield from _paths(branch, prefix)
        elif op is sre.SUBPATTERN:
            yield from _paths(value[3], prefix)
        elif op in (sre.ASSERT, sre.ASSERT_NOT):
            yield from _paths(value[1], prefix)
        elif op is sre.ATOMIC_GROUP:
            yield from _paths(value, prefix)


class Pump(NamedTuple):
    """A text of any length: a beginning, a piece that is repeated, an end."""

    begin: str
    piece: str
    end: str

    def text(self, length: int) -> str:
        """The text, about as long as asked."""
        return self.begin + self.piece * max(1, length // len(self.piece)) + self.end


def pumps(pattern: re.Pattern[Any], rounds: int, first: int = 0) -> list[Pump]:
    """The texts for a pattern: the more rounds, the more choices within its sets and branches."""
    result: dict[Pump, None] = {}
    for seed in range(first, first + rounds):
        tree = _Tree(pattern, seed)
        whole = tree.sample(tree.tree)
        end = tree.random.choice(ENDS)
        for piece in (whole, whole[:-1], whole[: len(whole) // 2]):
            result[Pump("", piece, end)] = None
        for prefix, inner in _paths(tree.tree):
            before, piece = tree.sample(prefix), tree.sample(inner)
            if len(inner) == 1 and tree.random.random() < 0.5:  # one sign again and again
                piece = tree.sample(inner)[:1]
            end = tree.random.choice(ENDS)
            result[Pump(before, piece, end)] = None
            result[Pump("", piece, end)] = None
            result[Pump("", before + piece, end)] = None
            result[Pump("", before[-8:] + piece * 3, end)] = None
    return [pump for pump in result if pump.piece]


def seconds(call: Callable[..., object], *values: object) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    call(*values)
    return time.process_time() - began


def cost(call: Callable[[str], object], pump: Pump, lengths: tuple[int, ...], budget: float) -> float:
    """Milliseconds for a kilobyte of the longest text, or of the first one that is over the budget."""
    milliseconds = 0.0
    for length in lengths:
        text = pump.text(length)
        milliseconds = seconds(call, text) * 1e6 / len(text)
        for _ in range(3):  # once more: another program may have disturbed it
            if milliseconds > budget:
                milliseconds = min(milliseconds, seconds(call, text) * 1e6 / len(text))
        if milliseconds > budget:
            break
    return milliseconds


def uses_of(named: Named) -> list[Callable[[str], object]]:
    """What the project may do with a pattern."""
    pattern = named.pattern

    def content(text: str) -> Any:
        return text.encode("utf-8", "replace") if isinstance(pattern.pattern, bytes) else text

    if named.searched:
        return [lambda text: [None for _ in pattern.finditer(content(text))]]
    return [lambda text: pattern.match(content(text)), lambda text: pattern.fullmatch(content(text))]
