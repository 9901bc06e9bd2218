"""The commands in README.md and docs/, found by their mark-up.

* A block fenced as `bash` or `sh` has one command a line. In a block fenced as `console` only lines that begin with
  `$ ` are commands; the other lines are output. A line that ends with a backslash continues on the next one.
* A command in running text stands between backticks: `academy habitat status v7`.
* An HTML comment directly before a block (`<!-- own lessons: ... -->`) names it, so that a test can run its commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_READ = ("docs/log.md", "docs/design/")
"""Records of the past, which keep the commands of their time."""
BLOCK = re.compile(r"(?:^<!-- *([a-z ]+):[^\n]*-->\s*)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SEPARATORS = ("|", "||", "&&", ";", "&")
ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")


@dataclass(frozen=True)
class Block:
    """A fenced block: its name, its language, and its text."""

    page: str
    name: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """The command lines, without prompts and continuations."""
        if self.language not in ("bash", "sh", "console"):
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


@dataclass(frozen=True)
class Command:
    """One command of a page: its words without assignments and redirections. `shown` is how the page has it."""

    page: str
    shown: str
    words: tuple[str, ...]


def pages() -> list[Path]:
    """README.md and the pages of docs/ that describe the present."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in paths if not str(path.relative_to(ROOT)).startswith(NOT_READ)]


def blocks(*paths: Path) -> list[Block]:
    """The fenced blocks of these pages, or of all."""
    return [
        Block(str(path.relative_to(ROOT)), (match[1] or "").strip(), match[2], match[3])
        for path in paths or pages()
        for match in BLOCK.finditer(path.read_text(encoding="utf-8"))
    ]


def block_named(name: str) -> Block:
    """The block that a comment gives this name."""
    (block,) = [block for block in blocks() if block.name == name]
    return block


def split_line(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a shell line: pipes and lists divided, assignments, redirections and comments dropped."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    target_follows = False
    for token in [*lexer, ";"]:
        if token in SEPARATORS:
            if words:
                yield tuple(words)
            words = []
        elif token in (">", ">>", "<"):
            target_follows = True
        elif target_follows:
            target_follows = False
        elif words or not ASSIGNMENT.match(token):
            words.append(token)


def block_commands() -> list[Command]:
    """The commands of all blocks."""
    return [
        Command(block.page, line, words) for block in blocks() for line in block.lines for words in split_line(line)
    ]


def inline_commands() -> list[Command]:
    """The commands between backticks in running text that begin with `academy` or `make`."""
    commands = []
    for path in pages():
        prose = BLOCK.sub("", path.read_text(encoding="utf-8"))
        for span in re.findall(r"(?<!`)`((?:academy|make) [^`]+)`", prose):
            text = " ".join(span.split())
            commands += [Command(str(path.relative_to(ROOT)), text, words) for words in split_line(text)]
    return commands
