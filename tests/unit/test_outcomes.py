"""The outcome of an added lesson: a success unless its result clearly says that it failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from academy.errors import InputError
from academy.experience.lessons import LessonsStore
from academy.experience.outcomes import is_failure
from academy.loop.not_counted import in_words
from academy.store.database import Database

SUCCESSES = """
it worked
fixed the bug
Task completed without errors
Zadziałało poprawnie
success
✅ done
failed at first, then worked
failed at first then worked
It failed, so I retried and it worked
no errors
0 errors, 0 warnings
98 passed, 0 failed
3 errors fixed
Fixed the failing tests
the error is gone
bug fixed
The build didn't fail
never failed again
it no longer crashes
exit code 0
error handling added
error-free
reduced error rate by 40%
Works now. Before it crashed
Not only did it work, it was fast
Deployed
perhaps
User was happy
Naprawiono błąd
Bez błędów
nie ma już błędów
Ohne Fehler
Fehler behoben
👍
"""
FAILURES = """
did not work
didn't work
does not work
the fix did not help
it failed
failure
error
Error: connection refused
Traceback (most recent call last):
2 failed, 98 passed
98 passed, 2 failed
3 errors
exit code 1
exited with status 127
worked at first, then failed
It ran, but the tests failed
unsuccessful
not successful
wrong answer
could not be resolved
not solved yet
still broken
made it worse
without success
timed out
cancelled
rejected by the reviewer
never worked
false
no
❌ nope
Nie działa
Nie zadziałało
Nie udało się
nie powiodło się
porażka
bez skutku
funktioniert nicht
fehlgeschlagen
"""


@pytest.fixture
def store(tmp_path: Path) -> LessonsStore:
    database = Database(f"sqlite:///{tmp_path}/academy.db")
    database.migrate()
    return LessonsStore(database)


@pytest.mark.parametrize("result", ["", *SUCCESSES.strip().splitlines()])
def test_a_result_without_a_clear_failure_is_a_success(result: str) -> None:
    assert not is_failure(result)


@pytest.mark.parametrize("result", FAILURES.strip().splitlines())
def test_a_clear_failure_is_a_failure(result: str) -> None:
    assert is_failure(result)


@pytest.mark.parametrize(
    ("metadata", "outcome"),
    [
        ({"outcome": "failure"}, "failure"),
        ({"outcome": False}, "failure"),
        ({"outcome": "unknown"}, "unknown"),
        ({"rating": 1}, "failure"),
        ({"rating": 3}, "success"),
        ({"rating": 1, "outcome": "success"}, "success"),
        ({}, "success"),
    ],
)
def test_the_caller_decides_the_outcome_of_a_lesson(
    store: LessonsStore, metadata: dict[str, Any], outcome: str
) -> None:
    store.add_lesson("a request", "an answer", "it worked", metadata=metadata)
    assert [lesson.outcome for lesson in store.get_all_lessons()] == [outcome]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"situation": " "}, "needs a situation"),
        ({"action": ""}, "needs an action"),
        ({"action": b"bytes"}, "action must be text, not bytes"),
        ({"result": None}, "result must be text"),
        ({"tags": [1]}, "tags must be texts"),
        ({"metadata": ["author"]}, "metadata must be a dictionary"),
        ({"metadata": {"outcome": "meh"}}, "outcome 'meh' is not valid"),
        ({"situation": "\ud800"}, "not valid text"),
    ],
)
def test_an_invalid_lesson_is_refused_with_a_sentence(
    store: LessonsStore, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        store.add_lesson(**{"situation": "a request", "action": "an answer", "result": "ok", **changes})
    assert store.newest() == 0


def test_a_text_in_place_of_a_list_of_tags_is_one_tag(store: LessonsStore) -> None:
    store.add_lesson("a request", "an answer", "ok", tags="deploy")
    store.add_lesson("another request", "an answer", "ok", tags=None)
    assert [lesson.tags for lesson in store.get_all_lessons()] == [(), ("deploy",)]


def test_lessons_that_do_not_count_are_counted_by_their_reason(store: LessonsStore) -> None:
    for number, outcome in enumerate(["success", "unknown", "unknown", "failure"]):
        store.add_lesson(f"request {number}", "an answer", metadata={"outcome": outcome, "batch": f"b{number}"})
    with store.database.write() as connection:
        store.undo("b2", connection)
    assert store.not_counted() == {"outcome failure": 1, "outcome unknown": 1, "undone": 1}
    assert in_words(store.not_counted()) == (
        "1 failed, 1 without a known outcome (give each an outcome or a rating), "
        "1 undone (`academy lessons undo --restore`)"
    )
    assert in_words({}) == ""
