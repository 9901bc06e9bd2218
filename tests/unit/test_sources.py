"""Sources of experience: ours keep the promises of the protocol, and an installed package can add one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from academy.curriculum.curator import DatasetCurator
from academy.curriculum.dataset import find_dataset
from academy.experience.experience import Experience
from academy.experience.lessons import LessonsStore
from academy.experience.sources.base import ExperienceSource, Reference, Skipped, SourceContext
from academy.experience.sources.table import SOURCES, open_sources, refer, references_of, reopen_sources
from academy.records import digest_of
from academy.store.database import Database
from tests.plugins import install_plugin
from tests.unit.histories import history
from tests.unit.test_cli import Academy, academy, refusal_of

__all__ = ["academy"]

WIKI = """
from academy.experience.experience import Experience
from academy.experience.sources.base import Skipped
from academy.records import digest_of

QUESTIONS = ("closes the northern lock", "orders new tarpaulins", "paints the buoys", "winds the church clock",
             "answers letters from Bremen", "feeds the harbour cats", "files permits for cranes", "tests the sirens")


class WikiSource:
    name = "wiki"
    location = ""
    limited = False

    def read(self):
        yield Skipped(what="page 9", because="a draft")
        for number, question in enumerate(QUESTIONS):
            yield Experience(
                id=digest_of(["wiki", question]), kind="lesson", request=f"Who {question}?",
                answer=f"Team {number // 2}.", outcome="success", batch="wiki", provenance={"page": str(number)},
            )

    def read_again(self, references):
        ids = {reference.id for reference in references}
        return (page for page in self.read() if isinstance(page, Experience) and page.id in ids)


def open_wiki(context):
    return [WikiSource()]
"""


@pytest.fixture
def store(database: Database) -> LessonsStore:
    store = LessonsStore(database)
    for number in range(6):
        store.add_lesson(f"question {number}", f"answer {number}", "success", tags=["even"] if number % 2 == 0 else [])
    return store


@pytest.fixture
def context(store: LessonsStore, tmp_path: Path) -> SourceContext:
    (tmp_path / "tasks.jsonl").write_text(
        "".join(
            json.dumps({"request": f"task {n}", "response": f"done {n}", "status": "completed"}) + "\n" for n in "ab"
        )
    )
    store.import_file(tmp_path / "tasks.jsonl", tmp_path / "quarantine", "task")
    return SourceContext(store=store, repositories=[history(tmp_path / "repository", 30)], cache=tmp_path / "cache")


@pytest.mark.parametrize("name", SOURCES)
def test_own_sources_keep_the_promises_of_the_protocol(name: str, context: SourceContext) -> None:
    (source,) = open_sources([name], context)
    assert source.name == name
    items = list(source.read())
    assert items == list(source.read())
    experiences = [item for item in items if isinstance(item, Experience)]
    assert len({experience.id for experience in experiences}) == len(experiences) > 1
    references = [refer(source, e.id, e.seq, e.provenance.get("commit", "")) for e in experiences]
    assert list(source.read_again(references)) == experiences
    assert list(source.read_again(references[:1])) == experiences[:1]
    absent = references[0].model_copy(update={"id": "0" * 64})
    assert name == "commit" or list(source.read_again([absent])) == []


def test_references_lead_back_to_the_sources_they_come_from(context: SourceContext) -> None:
    curator = DatasetCurator(context.store, lambda talks: [1 for _ in talks])
    for source in open_sources(list(SOURCES), context):
        curator.collect(source)
    references = [
        refer(source, item.id, item.seq, item.provenance.get("commit", ""))
        for source in open_sources(list(SOURCES), context)
        for item in source.read()
        if isinstance(item, Experience)
    ]
    reopened = list(reopen_sources(references, context.store))
    assert [source.name for source in reopened] == ["lesson", "task", "commit"]
    assert [len(references_of(source, references)) for source in reopened] == [8, 8, len(references) - 8]
    again = DatasetCurator(context.store, lambda talks: [1 for _ in talks])
    assert again.collect_again(references) == 0
    assert (again.funnel["collected: lesson"], again.funnel["collected: task"]) == (6, 2)
    assert again.funnel["collected: commit"] == curator.funnel["collected: commit"] > 0


class Counting:
    """A limited source of numbered questions."""

    name = "counting"
    location = ""
    limited = True

    def __init__(self, count: int) -> None:
        self.count = count

    def read(self) -> Iterator[Experience | Skipped]:
        yield Skipped(what="zero", because="not a number")
        for number in range(self.count):
            yield Experience(
                id=digest_of(["counting", number]), kind="lesson", request=f"What follows {number}?",
                answer=str(number + 1), outcome="success", provenance={"number": str(number)},
            )  # fmt: skip

    def read_again(self, references: Sequence[Reference]) -> Iterator[Experience | Skipped]:
        ids = {reference.id for reference in references}
        return (item for item in self.read() if isinstance(item, Experience) and item.id in ids)


def test_a_limited_source_gives_its_newest_and_replays_older_ones(store: LessonsStore) -> None:
    source: ExperienceSource = Counting(40)
    curator = DatasetCurator(store, lambda talks: [1 for _ in talks], replay=0.2)
    assert curator.collect(source, 10) == 10
    assert curator.funnel == {
        "collected: counting": 10, "dropped: counting: not a number": 1, "dropped: over the limit of lessons": 30,
        "replayed": 2,
    }  # fmt: skip
    unlimited = DatasetCurator(store, lambda talks: [1 for _ in talks])
    assert unlimited.collect(source, 40) == 40


def test_an_installed_source_reaches_the_dataset(
    academy: Academy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.sources", "wiki", WIKI, "open_wiki", package="wiki_source")
    assert json.loads(academy("curate", "--json").out)["examples"] == 0
    monkeypatch.setenv("ACADEMY_SOURCES", "lesson, wiki")
    curated = json.loads(academy("curate", "--json").out)
    assert (curated["funnel"]["collected: wiki"], curated["funnel"]["dropped: wiki: a draft"]) == (8, 1)
    assert (curated["examples"], curated["holdout"]) == (4, 4)
    assert (
        "feeds the harbour cats"
        in (Path(curated["path"]) / "train.jsonl").read_text() + (Path(curated["path"]) / "holdout.jsonl").read_text()
    )


def test_an_installed_source_is_examined_and_rebuilt(
    academy: Academy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.sources", "wiki", WIKI, "open_wiki", package="wiki_source")
    monkeypatch.setenv("ACADEMY_SOURCES", "wiki")
    curated = json.loads(academy("curate", "--json").out)
    dataset = find_dataset(tmp_path / "home" / "datasets", curated["digest"])
    assert dataset.held_out({}) == dataset.held_out() != [], "a lesson that is not from the store cannot be set aside"
    assert json.loads(academy("dataset", "rebuild", curated["digest"], "--json").out)["same"] is True


def test_a_source_that_is_not_installed_is_refused(academy: Academy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_SOURCES", "lesson,nope")
    assert "There is no source 'nope'. Choose one of lesson, task, commit" in refusal_of(academy("curate", "--json"))


def test_settings_without_a_source_are_refused(academy: Academy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_SOURCES", ",,")
    assert "ACADEMY_SOURCES names no source. Choose from lesson, task, commit" in refusal_of(academy("curate"))


# A source of an installed package counts, is forgotten and renewed, and cannot break a command


def installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, attribute: str = "open_wiki", sources: str = "wiki"
) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.sources", "wiki", code, attribute, package="wiki_source")
    monkeypatch.setenv("ACADEMY_SOURCES", sources)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('raise KeyError("page 7")', "The source wiki failed (KeyError: 'page 7')"),
        ("yield 7", "The source wiki failed (TypeError: it gave int in place of Experience or Skipped)"),
        ("1 / 0", "The source wiki failed (ZeroDivisionError: division by zero)"),
    ],
)
@pytest.mark.parametrize("command", [("curate",), ("evolve", "--dry-run"), ("decide",)])
def test_an_installed_source_that_raises_is_refused_with_its_name(
    academy: Academy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, problem: str, command: tuple[str, ...]
) -> None:
    code = WIKI.replace('        yield Skipped(what="page 9", because="a draft")', f"        {line}")
    installed(tmp_path, monkeypatch, code)
    output = academy(*command)
    assert (output.code, output.out) == (2, "")
    assert problem in output.err
    assert "Traceback" not in output.err


def test_an_installed_source_that_cannot_be_opened_is_refused(
    academy: Academy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, WIKI.replace("return [WikiSource()]", "return None"))
    assert "The source wiki failed (TypeError: 'NoneType' object is not iterable)" in refusal_of(academy("curate"))


def test_an_installed_source_with_broken_code_is_refused(
    academy: Academy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, WIKI.replace("class WikiSource:", "class WikiSource"))
    assert "The source 'wiki' cannot be loaded from wiki_source:open_wiki: SyntaxError" in refusal_of(academy("curate"))


def test_experience_of_an_installed_source_counts_as_lessons_and_as_new(
    academy: Academy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, WIKI, sources="lesson,wiki")
    academy("lessons", "add", "a request", "an answer")
    reasons = {reason["name"]: reason for reason in json.loads(academy("decide", "--json").out)["decision"]["reasons"]}
    assert reasons["lessons"]["sentence"].startswith("9 lessons")
    assert reasons["new lessons"]["sentence"].startswith("9 new lessons")


def test_experience_of_an_installed_source_can_be_forgotten(
    academy: Academy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, WIKI)
    first = json.loads(academy("curate", "--json").out)
    trained = [json.loads(line) for line in (Path(first["path"]) / "provenance.jsonl").read_text().splitlines()]
    held_out = [json.loads(line) for line in (Path(first["path"]) / "holdout.jsonl").read_text().splitlines()]
    for id_ in (trained[0]["id"], held_out[0]["id"]):
        result = json.loads(academy("lessons", "forget", id_[:16], "--because", "asked", "--json").out)
        assert (result["lesson"], result["datasets"]) == (id_, [first["digest"]])
        assert "No lesson id starts" in refusal_of(academy("lessons", "forget", id_))
    texts = "".join(path.read_text() for path in Path(first["path"]).glob("*.jsonl"))
    assert held_out[0]["request"] not in texts
    again = json.loads(academy("curate", "--json").out)
    assert again["funnel"]["dropped: forgotten"] == 2
    assert again["examples"] + again["holdout"] == first["examples"] + first["holdout"] - 2
    store = LessonsStore(Database(f"sqlite:///{tmp_path}/home/academy.db"))
    with store.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT text FROM register").scalars().all()
    assert rows.count("") == 2
