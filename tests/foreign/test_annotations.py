"""Ratings, thumbs, corrections and weights stay with their message, and what cannot be read is set aside by name.

tests/foreign/imports.py describes the keys.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.cases import Case, each_case
from tests.foreign.imports import check, import_case


@each_case("annotations")
def test_feedback_stays_with_its_message(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, import_case(case, tmp_path, monkeypatch))
