"""How commands print: text and tables on the terminal, or one JSON object; progress goes to stderr.

Texts may be of strangers: control characters become visible escapes here, and what other libraries print passes
`PlainStream`, which `main` puts before both streams.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from academy.border.plain_text import json_escaped, plain

if TYPE_CHECKING:
    from rich.console import Console

CELL = 160  # characters of a long text in a cell


def console() -> Console:
    """The terminal's console."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line; brackets in it are printed as they are."""
    console().print(plain(text), markup=False)


def say_error(text: str) -> None:
    """Print one line on stderr."""
    sys.stderr.write(plain(text) + "\n")


def emit(value: Any) -> None:
    """Print the JSON object of `--json`; control characters in its strings are escapes."""
    import orjson

    sys.stdout.write(json_escaped(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()) + "\n")


def emit_line(value: Any) -> None:
    """Print one JSON object in one line, now: the reader may follow."""
    from academy.records import canonical

    sys.stdout.write(json_escaped(canonical(value).decode()) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; cells are plain text."""
    from rich.table import Column, Table
    from rich.text import Text

    # folded, because a command that ends in an ellipsis cannot be copied
    grid = Table(
        *(Column(name, overflow="fold") for name in columns),
        title=plain(title),
        title_justify="left",
        header_style="bold",
    )
    for row in rows:
        grid.add_row(*(Text(plain(str(cell))) for cell in row))
    console().print(grid)


def shortened(text: str) -> str:
    """The first words of a text for a cell, in one line; `--json` has the whole text."""
    words = " ".join(text[: 2 * CELL].split())
    return words if len(words) <= CELL and len(text) <= 2 * CELL else words[:CELL].rstrip() + " ..."


def listen() -> None:
    """Print the log lines of the loop on stderr while it works."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("  %(message)s"))
    logger = logging.getLogger("academy")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def write(file: Path, text: str) -> None:
    """Write a file that the user names, whole or not at all."""
    from academy.store.files import write_file

    write_file(file.expanduser(), text.encode())


def version_name(version: str) -> str:
    """A version's number as users see it: `v7` or `base`."""
    from academy.genealogy.history import version_name as name_of

    return name_of(version)


def gib(size: int) -> str:
    """Bytes in GiB, with two decimals."""
    return f"{size / 2**30:.2f}"
