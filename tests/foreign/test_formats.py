"""Files as people have them are read rightly, or refused with a reason. tests/foreign/imports.py describes the keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.cases import Case, each_case
from tests.foreign.imports import check, import_case


@each_case("formats")
def test_file_is_read_rightly_or_refused(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, import_case(case, tmp_path, monkeypatch))
