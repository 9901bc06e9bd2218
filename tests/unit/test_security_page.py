"""docs/security.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_security_page_names_tests_that_exist() -> None:
    names = set(re.findall(r"`(test_\w+)`", PAGE))
    tests = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(names) > 50
    assert names <= tests


def test_every_border_of_the_security_page_has_a_test() -> None:
    rows = [line for line in PAGE.partition("## Pages")[2].splitlines() if line.startswith("| ")]
    borders = [row for row in rows if not row.startswith("| Border")]
    assert borders
    assert [row for row in borders if "`test_" not in row] == []
