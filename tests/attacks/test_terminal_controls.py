"""Texts of strangers must not control the terminal, the log or the JSON in which a person reads them."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from academy.arena.report import _cell
from academy.border.plain_text import CONTROLS, PlainRecord, PlainStream, json_escaped, plain, plain_line
from academy.cli import output
from academy.genealogy.description import escape

ATTACKS = {
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "clipboard by C1": "\x9d52;c;cm0gLXJmIH4=\x9c",
    "link": "\x1b]8;;http://evil.example\x1b\\here\x1b]8;;\x1b\\",
    "cursor": "\x1b[2J\x1b[H",
    "hidden": "\x1b[8mhidden",
    "background": "\x1b[30;40mhidden",
    "question": "\x1b[6n\x1b[c",
    "overwritten": "refused\radmitted",
    "backspace": "no\b\byes",
    "bell": "\a",
    "direction": "\u202eevil\u202c",
    "isolate": "\u2067evil\u2069",
    "delete": "a\x7fb",
}
HOSTILE = pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS.keys())
ALLOWED = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@HOSTILE
def test_printed_text_has_no_controls(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    printers: list[Callable[[], None]] = [
        lambda: output.say(f"A lesson: {text}"),
        lambda: output.say_error(f"An error: {text}"),
        lambda: output.table(text, ("name", "value"), [(text, 1), ("plain", text)]),
        lambda: output.emit({"text": text}),
        lambda: output.emit_line({"text": text}),
    ]
    for printer in printers:
        printer()
        printed = capsys.readouterr()
        assert not CONTROLS.search(printed.out + printed.err)


@HOSTILE
def test_json_means_the_same(text: str) -> None:
    raw = json.dumps({"text": text}, ensure_ascii=False)
    assert json.loads(json_escaped(raw)) == {"text": text}
    assert not CONTROLS.search(json_escaped(raw))


@HOSTILE
def test_stream_passes_no_controls_of_other_libraries(text: str) -> None:
    for stream in (Terminal(), io.StringIO()):
        PlainStream(stream).write(f"Some library prints {text}\n")
        shown = ALLOWED.sub("", stream.getvalue()) if stream.isatty() else stream.getvalue()
        assert not CONTROLS.search(shown)
        assert "\x1b[8m" not in stream.getvalue()
        assert "40m" not in stream.getvalue() or "\\x1b[30;40m" in stream.getvalue()


def test_stream_keeps_text_colours_and_progress() -> None:
    terminal = Terminal()
    stream = PlainStream(terminal)
    stream.write("\x1b[1;32mgreen\x1b[0m na\u00efve \u4f60\u597d \U0001f600\u200d\n")
    stream.write("\r 40%")
    assert terminal.getvalue() == "\x1b[1;32mgreen\x1b[0m na\u00efve \u4f60\u597d \U0001f600\u200d\n\r 40%"


@HOSTILE
def test_log_lines_have_no_controls_and_are_one_line(text: str) -> None:
    record = PlainRecord("academy.access", logging.INFO, "", 0, "%s", (f"{text}\nforged line",), None)
    assert not CONTROLS.search(record.getMessage())
    assert "\n" not in record.getMessage()


@HOSTILE
def test_reports_and_artifacts_have_no_controls(text: str) -> None:
    assert not CONTROLS.search(plain(_cell(text)))
    assert not CONTROLS.search(escape(text))
    assert "\n" not in plain_line(f"{text}\n")


def test_escapes_are_visible() -> None:
    assert plain("a\x1b]0;x\x07\u202eb\r\nc\td\re") == "a\\x1b]0;x\\x07\\u202eb\nc\td\\re"


def _on_terminal(folder: Path, *arguments: str) -> bytes:
    """What a command writes to a real terminal."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACADEMY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "academy.cli.main", *arguments], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        cwd=folder, env={**environment, "ACADEMY_HOME": str(folder / "home"), "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:  # the command has ended
        pass
    process.wait(60)
    os.close(ours)
    return b"".join(parts)


@pytest.mark.campaign
def test_commands_show_hostile_names_as_escapes(tmp_path: Path) -> None:
    """The name of a file, and a usage error that click itself prints."""
    name = f"lessons{ATTACKS['clipboard']}{ATTACKS['direction']}.jsonl"
    for arguments in (("habitat", "metrics", name), ("status", f"--{ATTACKS['title']}")):
        shown = _on_terminal(tmp_path, *arguments)
        assert b"\\x1b]" in shown
        assert b"\x1b]" not in shown
        assert b"\x07" not in shown
        assert "\u202e".encode() not in shown
