"""How commands speak: words and tables on the terminal, or one JSON object; progress goes to stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table


def console() -> Console:
    """The terminal's console."""
    return Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for people; brackets in it are brackets."""
    console().print(text, markup=False)


def emit(value: Any) -> None:
    """The one JSON object of `--json`."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; cells are text, never markup."""
    from rich.text import Text

    drawn = Table(*columns, title=title, title_justify="left", header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    console().print(drawn)


def listen() -> None:
    """Show the stages' own words on stderr while they work."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("  %(message)s"))
    logger = logging.getLogger("academy")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
