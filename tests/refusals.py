"""Refusals: errors with a sentence and a remedy, and commands that end with such a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from academy.errors import AcademyError
from tests.homes import Ended


@contextmanager
def raises_refusal(kind: type[AcademyError], words: str | None = None) -> Iterator[pytest.ExceptionInfo[AcademyError]]:
    """Expect this error with a message of one line that contains the words (a pattern), and with a remedy."""
    with pytest.raises(kind, match=words) as caught:
        yield caught
    assert caught.value.remedy
    assert "\n" not in caught.value.message


def refusal_of(ended: Ended) -> str:
    """The last line of a refused command: exit code 2, one sentence, no traceback."""
    assert ended.code == 2, (ended.out, ended.err)
    assert "Traceback" not in ended.err + ended.out
    sentence = ended.err.strip().splitlines()[-1].strip()
    assert sentence.endswith("."), sentence
    return sentence
