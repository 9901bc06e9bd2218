"""The lessons store admits each lesson once, quarantines unreadable lines by file and line, and loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from academy.errors import InputError
from academy.experience.conversations import MOST_RATED
from academy.experience.importing import ImportResult
from academy.experience.lessons import LONGEST_LINE, LessonsStore
from academy.experience.quarantine import REASONS
from academy.experience.reading import normalised, read_outcome
from academy.experience.standings import set_aside
from academy.store.database import Database

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(database: Database) -> LessonsStore:
    return LessonsStore(database)


def make_line(n: int, **changes: Any) -> dict[str, Any]:
    return {"situation": f"request {n}", "action": f"answer {n}", "outcome": "success", **changes}


def write_lines(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else orjson.dumps(line)) + b"\n" for line in lines))
    return path


def set_aside_in(result: ImportResult) -> list[dict[str, Any]]:
    """What an import set aside: reasons, and the bytes as they came (`raw`)."""
    content = Path(result.quarantine).read_bytes()
    reasons = Path(result.quarantine.removesuffix(".jsonl") + REASONS).read_bytes()
    lines = [orjson.loads(line) for line in reasons.splitlines()]
    return [{**line, "raw": content[line["start"] : line["start"] + line["bytes"]]} for line in lines]


def test_a_lesson_added_by_hand_is_stored(store: LessonsStore) -> None:
    id_ = store.add_lesson(
        "how?", "so", "success", "good", ["b", "a", "a"], {"author": "Ana", "batch": "July", "ticket": 7}
    )
    (lesson,) = store.read()
    assert (lesson.id, lesson.kind, lesson.request, lesson.answer) == (id_, "lesson", "how?", "so")
    assert (lesson.outcome, lesson.author, lesson.batch, lesson.tags) == ("success", "Ana", "July", ("a", "b"))
    assert lesson.provenance == {"lesson": id_, "batch": "July"}


def test_adding_the_same_lesson_again_changes_nothing(store: LessonsStore) -> None:
    first = store.add_lesson("how?", "so", "success")
    assert store.add_lesson("how?", "so", "success", feedback="again", tags=["new"]) == first
    assert store.add_lesson("how?", "otherwise", "success") != first
    assert store.get_statistics()["total_lessons"] == 2


def test_importing_a_file_again_changes_nothing(store: LessonsStore, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "july.jsonl", make_line(1), make_line(2), make_line(1))
    first = store.import_file(path, tmp_path / "quarantine")
    second = store.import_file(path, tmp_path / "quarantine")
    assert (first.batch, first.admitted, first.known, first.unreadable, first.quarantine) == ("july", 2, 1, (), "")
    assert (second.admitted, second.known) == (0, 3)
    assert [lesson.request for lesson in store.read()] == ["request 1", "request 2"]
    assert not (tmp_path / "quarantine").exists()


def test_a_lesson_known_from_another_file_keeps_its_first_batch(store: LessonsStore, tmp_path: Path) -> None:
    store.import_file(write_lines(tmp_path / "july.jsonl", make_line(1)), tmp_path)
    store.import_file(write_lines(tmp_path / "august.jsonl", make_line(1), make_line(2)), tmp_path)
    assert [(lesson.batch, lesson.seq) for lesson in store.read()] == [("july", 1), ("august", 2)]


def test_tags_that_are_no_texts_are_set_aside(store: LessonsStore, tmp_path: Path) -> None:
    lines = (make_line(1, tags=["a", None]), make_line(2, tags=[{"b": 1}]), make_line(3, tags=["c", 7]))
    result = store.import_file(write_lines(tmp_path / "tags.jsonl", *lines), tmp_path)
    assert [line.split(": ")[1] for line in result.unreadable] == ["tags must be a list of texts"] * 2
    assert [lesson.tags for lesson in store.read()] == [("7", "c")]


def test_malformed_lines_are_quarantined_with_file_and_line(store: LessonsStore, tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "mixed.jsonl",
        make_line(1),
        b'{"situation": "not closed',
        b'["a list"]',
        {"action": "answer without request", "outcome": "success"},
        {"situation": "request without answer", "outcome": "success"},
        b'{"situation": "bad \xff byte", "action": "x"}',
        b"",
        {"situation": "   ", "action": "blank request"},
        make_line(2, metadata=["no object"]),
        make_line(3, tags="no list"),
        {"situation": "x" * 2_000_000, "action": "long"},
        b'{"situation": "nan", "action": NaN}',
        make_line(4),
    )
    with path.open("ab") as stream:
        stream.write(b'{"situation": "truncated", "act')
    result = store.import_file(path, tmp_path / "quarantine")
    assert (result.admitted, result.known) == (2, 0)
    assert [lesson.request for lesson in store.read()] == ["request 1", "request 4"]
    numbers = [2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 14]
    assert [line.split(": ")[0] for line in result.unreadable] == [f"{path}:{number}" for number in numbers]
    lines = set_aside_in(result)
    assert [(line["file"], line["line"]) for line in lines] == [("mixed.jsonl", number) for number in numbers]
    reasons = [line["because"] for line in lines]
    assert [reasons[n].split(" (")[0] for n in (0, 1, 2, 3)] == [
        "not JSON",
        "not a JSON object",
        "no request",
        "no answer",
    ]
    assert reasons[4] == "not UTF-8 (byte 0xff at 20)"
    assert reasons[8] == f"longer than {LONGEST_LINE:,} bytes"
    assert len(lines[8]["raw"]) <= LONGEST_LINE + 1
    assert lines[4]["raw"] == b'{"situation": "bad \xff byte", "action": "x"}\n'
    assert lines[10]["raw"] == b'{"situation": "truncated", "act'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_corrected_quarantine_is_imported(store: LessonsStore, tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "mixed.jsonl"
    text = '{"situation": "Wo ist die Fähre?", "outcome": "success"}\nkein JSON, nur Wörter\n'
    path.write_bytes(text.encode(encoding))
    result = store.import_file(path, tmp_path / "quarantine")
    assert (result.lines, len(result.unreadable), result.is_refused) == (2, 2, True)
    for line in set_aside_in(result):
        assert line["raw"] in path.read_bytes()
    corrected = Path(result.quarantine).read_bytes()
    name = encoding if encoding == "utf-8" else f"{encoding}-le"
    corrected = corrected.replace('"outcome"'.encode(name), '"action": "Am Kai.", "outcome"'.encode(name))
    Path(result.quarantine).write_bytes(corrected)
    second = store.import_file(Path(result.quarantine), tmp_path / "quarantine")
    assert (second.admitted, len(second.unreadable)) == (1, 1)


def test_long_conversation_is_read_in_time_and_memory(store: LessonsStore, tmp_path: Path) -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": "a"} for n in range(25_000)]
    path = write_lines(tmp_path / "long.jsonl", {"messages": turns})
    assert store.import_file(path, tmp_path, "file").admitted == 1
    rated = [{**turn, "feedback": {"thumb": "up"}} if turn["role"] == "assistant" else turn for turn in turns[:1_000]]
    path = write_lines(tmp_path / "rated.jsonl", {"messages": rated})
    result = store.import_file(path, tmp_path / "quarantine", "conversation")
    assert result.unreadable == (f"{path}:1: more than {MOST_RATED} rated answers",)


def test_a_file_with_windows_line_ends_is_imported(store: LessonsStore, tmp_path: Path) -> None:
    unix, windows = tmp_path / "unix.jsonl", tmp_path / "windows.jsonl"
    write_lines(unix, make_line(1), make_line(2))
    windows.write_bytes(unix.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert store.import_file(unix, tmp_path).admitted == 2
    result = store.import_file(windows, tmp_path)
    assert (result.admitted, result.known, result.unreadable) == (0, 2, ())


def test_a_byte_order_mark_does_not_lose_the_first_lesson(store: LessonsStore, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "marked.jsonl", b"\xef\xbb\xbf" + orjson.dumps(make_line(1)), make_line(2))
    assert store.import_file(path, tmp_path / "quarantine").admitted == 2


def test_a_long_first_line_behind_a_byte_order_mark_is_one_line(store: LessonsStore, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "marked.jsonl", b"\xef\xbb\xbf" + b"x" * 2_000_000, make_line(1))
    result = store.import_file(path, tmp_path / "quarantine")
    assert result.unreadable == (f"{path}:1: longer than {LONGEST_LINE:,} bytes",)
    assert result.admitted == 1


def test_a_complete_last_line_without_a_line_end_is_imported(store: LessonsStore, tmp_path: Path) -> None:
    path = tmp_path / "july.jsonl"
    path.write_bytes(orjson.dumps(make_line(1)))
    assert store.import_file(path, tmp_path).admitted == 1


def test_a_line_after_a_very_long_one_keeps_its_number(store: LessonsStore, tmp_path: Path) -> None:
    long = b"x" * (2 * (LONGEST_LINE + 1))
    path = write_lines(tmp_path / "long.jsonl", long, b"bad", long[:-1], long + b"x", b"bad", make_line(1))
    result = store.import_file(path, tmp_path / "quarantine")
    assert [line.split(": ")[0].rpartition(":")[2] for line in result.unreadable] == ["1", "2", "3", "4", "5"]
    assert result.admitted == 1


def test_unreadable_lines_of_two_files_with_one_name_are_both_kept(store: LessonsStore, tmp_path: Path) -> None:
    texts = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        path = write_lines(tmp_path / folder / "july.jsonl", f"bad line of the {folder} file".encode())
        result = store.import_file(path, tmp_path / "quarantine")
        texts += [result.quarantine]
    assert [Path(text).read_bytes() for text in texts] == [
        b"bad line of the first file\n", b"bad line of the second file\n",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["none.jsonl", "."])
def test_a_missing_file_is_rejected(store: LessonsStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="does not exist"):
        store.import_file(tmp_path / name, tmp_path)


@settings(deadline=None)  # each example opens a database
@given(st.lists(st.binary(max_size=60).filter(lambda line: b"\n" not in line), max_size=6))
def test_an_import_survives_arbitrary_bytes(
    new_database: Any, tmp_path_factory: pytest.TempPathFactory, lines: Any
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    path = write_lines(folder / "any.jsonl", *lines)
    store = LessonsStore(_shared(new_database))
    try:
        result = store.import_file(path, folder / "quarantine")
    except InputError:
        assume(False)  # refused as a whole: compressed, or not in the encoding that its mark names
    non_empty = [line.removeprefix(b"\xef\xbb\xbf") if not n else line for n, line in enumerate(lines)]
    non_empty = [line for line in non_empty if line.strip()]
    assert result.admitted + result.known + len(result.unreadable) == len(non_empty)


def _shared(new_database: Any, made: list[Database] = []) -> Database:  # noqa: B006  one database for all examples
    if not made:
        made.append(new_database())
    return made[0]


@pytest.mark.parametrize(
    ("texts", "outcome"),
    [
        (("success",), "success"),
        (("Success!",), "success"),
        (("sukces",), "success"),
        (("✅ done",), "success"),
        (("merged ✓",), "success"),
        (("✔️",), "success"),
        ((True,), "success"),
        (("completed",), "success"),
        (("failed",), "failure"),
        (("Porażka.",), "failure"),
        (("❌",), "failure"),
        ((False,), "failure"),
        (("success, then an error",), "failure"),
        (("failed", "success"), "failure"),
        ((None, "success"), "success"),
        (("", "failed"), "failure"),
        (("perhaps",), "unknown"),
        ((), "unknown"),
        (("unsuccessful",), "unknown"),
        ((None, "successfully built nothing"), "unknown"),
    ],
)
def test_legacy_marks_are_read_as_outcomes(texts: tuple[object, ...], outcome: str) -> None:
    assert read_outcome(*texts) == outcome


@pytest.mark.parametrize("text", ["not successful", "no success", "not ok"])
def test_a_negated_success_is_not_a_success(text: str) -> None:
    assert read_outcome(text) != "success"
    assert read_outcome(text, "success") != "success"


def test_the_outcome_comes_from_the_legacy_result_if_it_is_missing(store: LessonsStore, tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "old.jsonl",
        *(
            {"situation": f"request {n}", "action": "answer", "result": mark}
            for n, mark in enumerate(["success", "sukces", "✅", "failed", "who knows"])
        ),
    )
    store.import_file(path, tmp_path)
    assert [lesson.outcome for lesson in store.read()] == ["success", "success", "success", "failure", "unknown"]
    assert store.trainable() == 3


def test_a_failure_may_have_no_answer(store: LessonsStore, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "failed.jsonl", {"situation": "request", "result": "failed"})
    assert store.import_file(path, tmp_path).admitted == 1
    assert store.trainable() == 0


def test_tasks_count_when_completed_and_successful(store: LessonsStore, tmp_path: Path) -> None:
    tasks = [
        {"status": "completed", "success": True},
        {"status": "completed"},
        {"status": "completed", "success": False},
        {"status": "failed", "success": True},
        {"status": "running"},
        {},
    ]
    path = write_lines(
        tmp_path / "tasks.jsonl",
        *({"task_id": f"T-{n}", "request": f"request {n}", "response": "answer", **t} for n, t in enumerate(tasks)),
    )
    assert store.import_file(path, tmp_path, "task").admitted == 6
    stored_tasks = list(store.read())
    assert {task.kind for task in stored_tasks} == {"task"}
    assert [task.outcome for task in stored_tasks] == ["success", "success", "failure", "failure", "unknown", "failure"]


def test_the_example_tasks_are_all_imported(store: LessonsStore, tmp_path: Path) -> None:
    path = ROOT / "examples" / "tasks.jsonl"
    result = store.import_file(path, tmp_path, "task")
    assert result.unreadable == ()
    assert result.admitted == len(path.read_text(encoding="utf-8").splitlines())
    assert 0 < store.trainable() < result.admitted


@pytest.mark.slow
def test_a_new_home_opened_by_four_processes_at_once_loses_no_lesson(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from academy.store.database import Database\n"
        "from academy.experience.lessons import LessonsStore\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "database = Database(sys.argv[1])\n"
        "database.migrate()\n"
        "for n in range(25):\n"
        "    LessonsStore(database).add_lesson(f'{sys.argv[2]} {n}', 'answer', 'success')\n"
        "    LessonsStore(database).add_lesson(f'shared {n}', 'answer', 'success')\n"
    )
    url = f"sqlite:///{tmp_path / 'academy.db'}"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, url, str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(4)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0, 0], errors
    database = Database(url)
    result = [lesson.request for lesson in LessonsStore(database).read()]
    database.engine.dispose()
    assert sorted(result) == sorted([f"{w} {n}" for w in (0, 1, 2, 3, "shared") for n in range(25)])


def test_released_lessons_have_new_numbers(store: LessonsStore) -> None:
    for n in range(4):
        store.add_lesson(f"request {n}", "answer", "success", metadata={"batch": "july" if n < 2 else "august"})
    with store.database.write() as connection:
        assert set_aside(1, 3, connection) == 2
    assert [lesson.seq for lesson in store.read()] == [1, 4]
    assert (store.trainable(), store.get_statistics()["standings"]) == (2, {"active": 2, "set aside": 2})
    with store.database.write() as connection:
        assert store.release("august", connection) == 1
        assert store.release("september", connection) == 0
    assert [(lesson.request, lesson.seq) for lesson in store.read(since=4)] == [("request 2", 5)]
    with store.database.write() as connection:
        assert store.release(None, connection) == 1
    assert [(lesson.request, lesson.seq) for lesson in store.read(since=4)] == [("request 2", 5), ("request 1", 6)]
    assert store.newest() == 6


def test_lessons_set_aside_stay_so_when_imported_again(store: LessonsStore, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "july.jsonl", make_line(1))
    store.import_file(path, tmp_path)
    with store.database.write() as connection:
        set_aside(0, 1, connection)
    assert store.import_file(path, tmp_path).known == 1
    assert list(store.read()) == []


def test_supersede_retires_other_answers_and_keeps_the_right_one(store: LessonsStore) -> None:
    store.add_lesson("Where do we deploy?", "to the old cluster", "success")
    store.add_lesson("where do we deploy", "to the new cluster", "success")
    store.add_lesson("Who signs?", "Bram signs", "success")
    with store.database.write() as connection:
        assert store.supersede("where do we  deploy ?", "to the new cluster", connection) == 1
    assert [lesson.answer for lesson in store.read()] == ["to the new cluster", "Bram signs"]
    assert store.get_statistics()["standings"] == {"superseded": 1, "active": 2}
    with store.database.write() as connection:
        assert store.supersede("where do we deploy", "to the new cluster", connection) == 0


def test_supersede_retires_other_wordings_with_the_wrong_answer(store: LessonsStore) -> None:
    for request in ("Where do we deploy?", "Deploying goes where?", "What is our cluster?"):
        store.add_lesson(request, "to the old cluster", "success")
    with store.database.write() as connection:
        assert store.supersede("where do we deploy", "to the new cluster", connection) == 3


def test_supersede_leaves_other_questions_with_the_same_short_answer(store: LessonsStore) -> None:
    for request in ("May a yacht overtake a ferry?", "May a tug sound its horn at night?"):
        store.add_lesson(request, "No.", "success")
    with store.database.write() as connection:
        assert store.supersede("may a yacht, overtake a ferry", "Yes.", connection) == 1
    assert [lesson.request for lesson in store.read()] == ["May a tug sound its horn at night?"]


def test_lessons_by_tag_come_newest_first(store: LessonsStore) -> None:
    for n, tags in enumerate((["a"], ["b"], ["a", "c"])):
        store.add_lesson(f"request {n}", "answer", "failed" if n else "success", tags=tags)
    assert [lesson.request for lesson in store.get_all_lessons(2)] == ["request 2", "request 1"]
    assert [lesson.request for lesson in store.get_lessons_by_tags(["a", "x"])] == ["request 2", "request 0"]
    statistics = store.get_statistics()
    assert (statistics["total_lessons"], statistics["newest"]) == (3, 3)
    assert statistics["outcomes"] == {"success": 1, "failure": 2}
    assert statistics["tag_distribution"] == {"a": 2, "b": 1, "c": 1}


def test_trainable_counts_between_two_numbers(store: LessonsStore) -> None:
    for n in range(5):
        store.add_lesson(f"request {n}", "answer", "success" if n != 2 else "failed")
    assert (store.trainable(), store.trainable(since=1), store.trainable(since=1, until=4)) == (4, 3, 2)


@given(st.text())
def test_normalised_is_idempotent(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
    assert normalised(f"  {text}\n!") == normalised(text)


# --- ratings, conversations, export --------------------------------------------------------------------------------


def test_ratings_stars_and_earlier_turns_are_stored(store: LessonsStore) -> None:
    before = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good morning"}]
    store.add_lesson("how?", "so", "success", metadata={"rating": 4, "gold": True, "thread": "t1", "context": before})
    (lesson,) = store.read()
    assert (lesson.rating, lesson.gold, lesson.thread, lesson.model_made) == (4, True, "t1", False)
    assert [(turn.role, turn.content) for turn in lesson.context] == [("user", "hello"), ("assistant", "good morning")]


def test_equal_texts_with_different_context_are_different_lessons(store: LessonsStore) -> None:
    first = store.add_lesson("how?", "so", "success")
    second = store.add_lesson("how?", "so", "success", metadata={"context": [{"role": "user", "content": "hello"}]})
    assert first != second


@pytest.mark.parametrize(
    "extra", [{"rating": 6}, {"rating": "many"}, {"context": "hello"}, {"context": [{"role": "x"}]}]
)
def test_an_invalid_rating_or_context_is_rejected(store: LessonsStore, extra: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="metadata is invalid"):
        store.add_lesson("how?", "so", "success", metadata=extra)
    assert store.get_statistics()["total_lessons"] == 0


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda text: text.strip())


@settings(deadline=None)  # each example opens a database
@given(
    st.lists(
        st.fixed_dictionaries(
            {"situation": TEXT, "action": TEXT, "result": st.sampled_from(["success", "failed", "who knows"])},
            optional={
                "feedback": TEXT,
                "tags": st.lists(TEXT, max_size=3),
                "metadata": st.fixed_dictionaries({"rating": st.integers(0, 5), "gold": st.booleans(), "own": TEXT}),
            },
        ),
        max_size=5,
    )
)
def test_exported_lessons_are_imported_with_the_same_ids(
    new_database: Any, tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("export")
    first, second = LessonsStore(_shared(new_database, EXPORTED)), LessonsStore(_shared(new_database, BACK))
    for row in rows:
        first.add_lesson(**row)
    count = first.export(folder / "all.jsonl")
    result = second.import_file(folder / "all.jsonl", folder)
    assert (result.unreadable, result.forgotten) == ((), 0)
    assert result.admitted + result.known == count
    exported, imported = (
        {lesson.id: lesson.model_copy(update={"seq": 0}) for lesson in s.get_all_lessons()} for s in (first, second)
    )
    assert exported == imported


EXPORTED: list[Database] = []
BACK: list[Database] = []


# --- batches that are undone, lessons that are forgotten -----------------------------------------------------------


def test_a_batch_is_undone_and_restored_as_a_whole(store: LessonsStore) -> None:
    for n in range(4):
        store.add_lesson(f"request {n}", "so", "success", metadata={"batch": "bad" if n % 2 else "good"})
    with store.database.write() as connection:
        assert store.undo("bad", connection) == 2
    assert [lesson.request for lesson in store.read()] == ["request 0", "request 2"]
    with store.database.write() as connection:
        assert store.undo("bad", connection, restore=True) == 2
    assert [lesson.request for lesson in store.read()] == ["request 0", "request 2", "request 1", "request 3"]


def test_a_forgotten_lesson_is_in_no_file_and_cannot_be_imported(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'own.db'}")
    database.migrate()
    store = LessonsStore(database)
    text = "the very private sentence"
    path = write_lines(
        tmp_path / "batch.jsonl", make_line(1), make_line(2, action=text), {"situation": text, "rating": 9}
    )
    store.import_file(path, tmp_path / "quarantine")
    lesson = next(lesson for lesson in store.read() if lesson.answer == text)
    with database.write() as connection:
        store.forget(lesson.id, "asked for", connection)
    store.scrub(lesson, tmp_path / "quarantine")
    for file in [*tmp_path.glob("own.db*"), *(tmp_path / "quarantine").iterdir()]:
        assert text.encode() not in file.read_bytes(), file
    second = store.import_file(path, tmp_path / "quarantine")
    assert (second.admitted, second.known, second.forgotten) == (0, 1, 1)
    with pytest.raises(InputError, match="was forgotten"):
        store.add_lesson("request 2", text, "")


@pytest.mark.parametrize(("mark", "name"), [(b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "zip")])
def test_a_compressed_file_is_rejected_unread(store: LessonsStore, tmp_path: Path, mark: bytes, name: str) -> None:
    (tmp_path / "bomb.jsonl").write_bytes(mark + bytes(1000))
    with pytest.raises(InputError, match=rf"is compressed \({name}\)"):
        store.import_file(tmp_path / "bomb.jsonl", tmp_path)


def test_a_home_of_an_earlier_version_is_migrated(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    from academy.store.database import MIGRATIONS

    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            "INSERT INTO lessons (id, kind, situation, action, result, feedback, tags, outcome, author, batch, at, "
            "standing, extra) VALUES ('x', 'lesson', 'how?', 'so', '', '', '[]', 'success', '', 'b', '2026', 'active', "
            "'{}')"
        )
    database.migrate()
    (lesson,) = LessonsStore(database).read()
    assert (lesson.request, lesson.rating, lesson.gold, lesson.context) == ("how?", 0, False, ())


# --- bad circumstances ---------------------------------------------------------------------------------------------


def test_a_lesson_of_ten_megabytes_is_rejected_by_hand_and_quarantined_in_a_file(
    store: LessonsStore, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"too long: 10,000,0.. characters"):
        store.add_lesson("how?", "a" * 10_000_000, "success")
    result = store.import_file(
        write_lines(tmp_path / "big.jsonl", make_line(1), make_line(2, action="a" * 10_000_000)), tmp_path
    )
    assert (result.admitted, len(result.unreadable)) == (1, 1)
    assert "longer than" in result.unreadable[0]


def test_a_cut_off_last_line_after_windows_line_ends_is_quarantined(store: LessonsStore, tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\r\n".join(orjson.dumps(make_line(n)) for n in range(3)) + b'\r\n{"situation": "cut o')
    result = store.import_file(path, tmp_path / "quarantine")
    assert (result.admitted, len(result.unreadable)) == (3, 1)
    assert ":4: not JSON" in result.unreadable[0]


@pytest.mark.slow
def test_a_line_of_a_gigabyte_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as stream:
        stream.write(orjson.dumps(make_line(1)) + b"\n")
        stream.seek(1_000_000_000, os.SEEK_CUR)  # a hole: no disk is used
        stream.write(b"\n" + orjson.dumps(make_line(2)) + b"\n")
    script = (
        "import sys; from pathlib import Path\n"
        "from academy.store.database import Database; from academy.experience.lessons import LessonsStore\n"
        "database = Database('sqlite:///' + sys.argv[2]); database.migrate()\n"
        "found = LessonsStore(database).import_file(Path(sys.argv[1]), Path(sys.argv[2]).parent / 'q')\n"
        "peak = next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]\n"
        "print(found.admitted, len(found.unreadable), int(peak) // 1024)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, str(path), str(tmp_path / "own.db")], capture_output=True, text=True, check=True
    )
    admitted, unreadable, megabytes = map(int, process.stdout.split())
    assert (admitted, unreadable) == (2, 1)
    assert megabytes < 200


def test_a_locked_database_gives_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    from academy.errors import HomeError

    database = Database(f"sqlite:///{tmp_path / 'own.db'}")
    database.migrate()
    database.engine.dispose()
    impatient = Database(f"sqlite:///{tmp_path / 'own.db'}", timeout=0.2)
    other = sqlite3.connect(tmp_path / "own.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HomeError, match="cannot be used: database is locked"):
        LessonsStore(impatient).add_lesson("how?", "so", "success")
    other.execute("ROLLBACK")
    other.close()
    assert LessonsStore(impatient).add_lesson("how?", "so", "success")


def test_a_read_only_database_gives_one_sentence(tmp_path: Path) -> None:
    from academy.errors import HomeError

    path = tmp_path / "own.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    LessonsStore(database).add_lesson("how?", "so", "success")
    database.engine.dispose()
    read_only = Database(f"sqlite:///file:{path}?mode=ro&uri=true")
    with pytest.raises(HomeError, match="readonly"):
        LessonsStore(read_only).add_lesson("how?", "otherwise", "success")
    assert len(list(LessonsStore(read_only).read())) == 1


def test_export_keeps_retired_lessons_retired(tmp_path: Path) -> None:
    stores = []
    for name in ("one", "two"):
        database = Database(f"sqlite:///{tmp_path}/{name}.db")
        database.migrate()
        stores.append(LessonsStore(database))
    first, second = stores
    for answer in ("turn the blue wheel to the left", "turn the red wheel to the right"):
        first.add_lesson("how do I open the gate", answer)
    with first.database.write() as connection:
        assert first.supersede("how do I open the gate", "turn the red wheel to the right", connection) == 1
    file = tmp_path / "export.jsonl"
    assert first.export(file) == 2
    assert second.import_file(file, tmp_path / "quarantine").admitted == 2
    assert second.get_statistics()["standings"] == first.get_statistics()["standings"]
    assert second.trainable() == 1
