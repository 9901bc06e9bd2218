"""Renewing the hold-out: what was examined retires, what no dataset has seen takes its place, or nothing changes."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from academy.arena.examination import Examination, Result
from academy.arena.suites.base import Answer, Generation
from academy.arena.suites.recall import RecallSuite
from academy.arena.verdict import FEWEST_GROUPS, HORIZON, Item, compute_verdict
from academy.curriculum.dataset import Dataset
from academy.curriculum.holdout import request_key
from academy.errors import InputError
from academy.experience.standings import set_aside
from academy.home.identity import claim_home
from academy.loop.choose_suites import choose_suites
from academy.loop.curate import curate
from academy.loop.home import Home
from academy.loop.renew_holdout import renew_holdout
from academy.records import digest_of
from academy.settings import load_settings
from academy.store.database import Database, assignments
from academy.store.database import ledger as ledger_table
from academy.store.database import lessons as lessons_table
from academy.store.ledger_rows import RenewalEntry, VerdictEntry
from tests.ledger_entries import promotion, verdict
from tests.plugins import install_plugin
from tests.unit.test_cli import Academy, academy, refusal_of
from tests.unit.test_sources import WIKI

__all__ = ["academy"]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_database: Callable[[], Database]) -> Iterator[Home]:
    """A home of its own, without repositories."""
    claim_home(tmp_path / "home")
    shutil.copy(new_database().url.removeprefix("sqlite:///"), tmp_path / "home" / "academy.db")
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    made = Home(load_settings())
    yield made
    made.database.engine.dispose()


def words(rng: random.Random, count: int = 8) -> str:
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(count))


def teach(home: Home, answers: int, wordings: int = 3, seed: int = 0) -> list[str]:
    """Lessons whose requests are near to no other; their requests."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(answers):
        answer = words(rng)
        pairs += [(words(rng), answer) for _ in range(wordings)]
    learn(home, pairs)
    return [asked for asked, _ in pairs]


def learn(home: Home, pairs: Iterable[tuple[str, str]]) -> None:
    """Lessons, imported as one batch."""
    path = home.settings.folder("batches") / f"{sum(1 for _ in home.store.every())}.jsonl"
    rows = ({"situation": request, "action": answer, "outcome": "success"} for request, answer in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert home.store.import_file(path, home.quarantine).unreadable == ()


def curate_lessons(home: Home) -> Dataset:
    return curate(home, [])


def spend(home: Home, dataset: Dataset, *, spends: bool = True) -> None:
    """A verdict on a dataset, as an examination writes it."""
    number = sum(1 for _ in home.ledger.rows(VerdictEntry))
    entry = verdict("HOLD", spends=spends, cursor=dataset.cursor, dataset=dataset.digest, order=str(number))
    home.ledger.append(f"verdict:{number}", entry)


def sides(home: Home) -> dict[str, str]:
    """Every request's side by its key."""
    with home.database.read() as connection:
        return {row.request: row.side for row in connection.execute(sa.select(assignments))}


def everything(home: Home) -> list[Any]:
    """Register and ledger, row by row."""
    with home.database.read() as connection:
        return [
            tuple(row)
            for table in (assignments, ledger_table)
            for row in connection.execute(sa.select(table).order_by(table.c.seq))
        ]


def examined_once(home: Home, answers: int = 24) -> Dataset:
    teach(home, answers)
    dataset = curate_lessons(home)
    spend(home, dataset)
    return dataset


def refusal(home: Home) -> str:
    """A renewal that is refused, and changes nothing."""
    before = everything(home)
    with pytest.raises(InputError) as problem:
        renew_holdout(home)
    assert problem.value.remedy
    assert everything(home) == before
    return problem.value.message


def texts(dataset: Dataset) -> tuple[set[str], set[str]]:
    """Requests that are trained on, and those held out."""
    trained = {json.loads(line)["messages"][0]["content"] for line in dataset.train_file.read_text().splitlines()}
    return trained, {example.request for example in dataset.held_out()}


# What it does


def test_examined_questions_retire_and_fresh_ones_replace_them(home: Home) -> None:
    first = examined_once(home)
    trained, asked = texts(first)
    new = set(teach(home, 24, seed=1))
    found = renew_holdout(home)
    assert found.retired == len(asked)
    assert found.fresh >= found.retired
    assert found.groups >= FEWEST_GROUPS
    second = curate_lessons(home)
    trained_now, asked_now = texts(second)
    assert not asked & (trained_now | asked_now), "a retired question is neither trained on nor examined"
    assert asked_now <= new, "what is asked now no dataset had seen"
    assert len(asked_now) == found.fresh
    assert trained <= trained_now
    assert second.funnel["dropped: retired from the hold-out"] == len(asked)


def test_every_fresh_answer_is_still_taught_by_another_wording(home: Home) -> None:
    examined_once(home, answers=40)  # more than the new answers have questions: one of their two wordings each
    teach(home, 24, wordings=2, seed=1)
    renew_holdout(home)
    second = curate_lessons(home)
    answers = {json.loads(line)["messages"][1]["content"] for line in second.train_file.read_text().splitlines()}
    assert {example.answer for example in second.held_out()} <= answers


def test_a_retired_question_is_not_examined_on_the_old_dataset(home: Home) -> None:
    first = examined_once(home)
    numbers = {lesson.id: lesson.seq for lesson in home.store.read()}
    before = home.holdout.examined(first.held_out(numbers))
    assert len(before) == first.holdout
    teach(home, 24, seed=1)
    renew_holdout(home)
    assert home.holdout.examined(first.held_out(numbers)) == []


def test_a_new_lesson_near_a_retired_question_is_not_trained_on(home: Home) -> None:
    first = examined_once(home)
    asked = min(texts(first)[1])
    teach(home, 24, seed=1)
    renew_holdout(home)
    home.store.add_lesson(asked + "s", "Another answer to it.", "success")
    trained, held = texts(curate_lessons(home))
    assert asked + "s" not in trained | held


def test_a_renewal_resets_the_budget_and_writes_a_ledger_row(home: Home) -> None:
    dataset = examined_once(home)
    for _ in range(HORIZON):
        spend(home, dataset)
    assert (home.ledger.verdicts_spent(), home.ledger.budget_left(HORIZON)) == (HORIZON + 1, 0)
    teach(home, 24, seed=1)
    found = renew_holdout(home)
    assert (home.ledger.verdicts_spent(), home.ledger.budget_left(HORIZON)) == (0, HORIZON)
    (row,) = home.ledger.rows(RenewalEntry)
    assert row.body.as_json() == {**found.model_dump(), "after": HORIZON + 1}
    spend(home, curate_lessons(home))
    assert home.ledger.budget_left(HORIZON) == HORIZON - 1


def test_a_renewal_of_the_same_home_is_the_same(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = Home(load_settings(tmp_path / "other"))
    found = []
    for one in (home, other):
        examined_once(one)
        teach(one, 24, seed=1)
        renew_holdout(one)
        found.append((sides(one), curate_lessons(one).digest))
    other.database.engine.dispose()
    assert found[0] == found[1]


def test_few_retired_questions_still_make_an_examination_of_enough_answers(home: Home) -> None:
    teach(home, 5)
    spend(home, curate_lessons(home))
    teach(home, 24, seed=1)
    found = renew_holdout(home)
    assert found.retired == 5
    assert found.groups >= FEWEST_GROUPS


# What it refuses


def test_too_few_unseen_lessons_are_refused_and_nothing_changes(home: Home) -> None:
    examined_once(home)
    assert refusal(home).startswith("Only 0 answers of lessons that are in no dataset can be examined")
    teach(home, FEWEST_GROUPS - 1, seed=1)
    assert refusal(home).startswith(f"Only {FEWEST_GROUPS - 1} answers")
    teach(home, 2, seed=2)
    assert renew_holdout(home).groups >= FEWEST_GROUPS


def test_a_renewal_without_new_lessons_is_refused(home: Home) -> None:
    examined_once(home)
    teach(home, 24, seed=1)
    renew_holdout(home)
    assert refusal(home).startswith("No examination was spent on these questions yet")
    spend(home, curate_lessons(home))
    assert refusal(home).startswith("Only 0 answers")


def test_unexamined_questions_are_not_renewed(home: Home) -> None:
    teach(home, 24)
    assert refusal(home).startswith("No examination was spent on these questions yet")
    spend(home, curate_lessons(home), spends=False)  # CANNOT DECIDE
    teach(home, 24, seed=1)
    assert refusal(home).startswith("No examination was spent on these questions yet")


def test_lessons_of_an_unexamined_dataset_are_not_fresh(home: Home) -> None:
    examined_once(home)
    teach(home, 24, seed=1)
    curate_lessons(home)
    assert refusal(home).startswith("Only 0 answers")


def test_a_released_lesson_is_not_fresh(home: Home) -> None:
    """It has a new number then; but a dataset held it."""
    first = examined_once(home)
    with home.database.write() as connection:
        assert set_aside(0, first.cursor, connection) == 72
        assert home.store.release(None, connection) == 72
    assert min(lesson.seq for lesson in home.store.read()) > first.cursor
    assert refusal(home).startswith("Only 0 answers")


def test_a_request_near_a_trained_one_is_not_fresh(home: Home) -> None:
    """It shares the origin of what was trained on, and that would be held out with it."""
    examined_once(home, answers=80)
    middle = teach(home, 20, seed=1)
    curate_lessons(home)  # trained, perhaps, and never examined
    learn(home, ((request + end, f"Another answer {n}.") for n, request in enumerate(middle) for end in "sz"))
    before = sides(home)
    teach(home, 24, seed=2)
    renew_holdout(home)
    after = sides(home)
    moved = {key for key, side in before.items() if side != after[key]}
    assert all((before[key], after[key]) == ("holdout", "retired") for key in moved)
    assert not any(
        before[request_key("recall", request)] != after[request_key("recall", request)] for request in middle
    )


def test_the_answer_that_superseded_another_one_is_not_fresh(home: Home) -> None:
    """Its request was trained on with the wrong answer."""
    first = examined_once(home, answers=50)
    of = {example.answer for example in sorted(first.held_out(), key=lambda one: one.id)[:25]}
    rows = map(json.loads, first.train_file.read_text().splitlines())
    trained = [row["messages"][0]["content"] for row in rows if row["messages"][1]["content"] in of]
    with home.database.write() as connection:
        for n, request in enumerate(trained):
            assert home.store.supersede(request, f"Right answer {n // 2}.", connection) >= 0
    learn(home, ((request, f"Right answer {n // 2}.") for n, request in enumerate(trained)))
    assert refusal(home).startswith("Only 0 answers")


def test_later_turns_of_conversations_make_no_questions(home: Home) -> None:
    examined_once(home)
    rng = random.Random(1)
    for _ in range(30):
        answer = words(rng)
        for _ in range(4):
            turns = [{"role": "user", "content": words(rng)}, {"role": "assistant", "content": words(rng)}]
            home.store.add_lesson(words(rng), answer, "success", metadata={"context": turns, "thread": words(rng)})
    assert refusal(home).startswith("Only 0 answers")


def test_secrets_of_unseen_lessons_are_not_stored_in_the_holdout(home: Home) -> None:
    examined_once(home)
    asked = teach(home, 24, seed=1)
    secret = "ghp_" + "aB3dE5fG7h" * 3 + "aB3dE5"
    with home.database.write() as connection:
        rows = connection.execute(sa.select(lessons_table.c.seq).where(lessons_table.c.situation == asked[0])).all()
        connection.execute(
            sa.update(lessons_table)
            .where(lessons_table.c.seq == rows[0].seq)
            .values(situation=f"{asked[0]} with the token {secret}")
        )
    renew_holdout(home)
    with home.database.read() as connection:
        kept = [row.text for row in connection.execute(sa.select(assignments))]
    assert any("with the token" in text for text in kept)
    assert not any(secret.lower() in text.lower() for text in kept)


def test_a_redacted_question_retires_like_the_others(home: Home) -> None:
    """The register knows it by what was left of it."""
    rng = random.Random(0)
    pairs = []
    for _ in range(30):
        answer = words(rng)
        for _ in range(4):
            token = "ghp_" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789", k=36))
            pairs.append((f"{words(rng)} with the token {token} in it", answer))
    learn(home, pairs)
    first = curate_lessons(home)
    assert first.holdout > FEWEST_GROUPS
    spend(home, first)
    teach(home, 24, seed=1)
    assert renew_holdout(home).retired == first.holdout
    assert "holdout" not in {sides(home)[request_key("recall", example.request)] for example in first.held_out()}


# The regression suite


def test_the_regression_suite_asks_what_earlier_champions_answered(home: Home) -> None:
    first = examined_once(home)
    suite = RecallSuite(first.held_out({lesson.id: lesson.seq for lesson in home.store.read()}), 0)
    known = suite.questions()
    answers = tuple(Answer(question=q.id, text=q.reference, score=1.0) for q in known)
    items = tuple(Item(question=q.id, group=q.group, slice=q.slice, champion=0, challenger=1) for q in known)
    result = Result(
        suite="recall", digest=suite.digest, role="target", generation=Generation(max_new_tokens=32),
        groups=len({q.group for q in known}), items=items, champion=answers, challenger=answers,
    )  # fmt: skip
    outcome = compute_verdict([result.paired], 0)
    held = Examination(champion="a" * 64, challenger="b" * 64, results=(result,), verdict=outcome)
    record = held.save(home.settings.folder("examinations"))
    entry = verdict(
        **held.verdict.model_dump(mode="json"), challenger="b" * 64, cursor=first.cursor, record=record.name,
        dataset=first.digest, order="x",
    )  # fmt: skip
    assert entry.outcome == "PROMOTE"
    home.ledger.append("verdict:won", entry)
    home.ledger.set_champion(home.ledger.champion(), promotion("1", "b" * 64, cursor=first.cursor))

    def asked() -> tuple[set[str], set[str]]:
        suites, _ = choose_suites(home, first, home.ledger.champion(), ("recall", "regression"))
        recall, regression = ({q.id for q in suite.questions()} for suite, _ in suites)
        return recall, regression & {lesson.id for lesson in home.store.read()}

    ids = {q.id for q in known}
    assert asked() == (ids, set())
    teach(home, 24, seed=1)
    renew_holdout(home)
    assert asked() == (set(), ids)
    mail = "ana.kowalska@orlen-fracht.pl"
    for lesson in list(home.store.read()):
        if lesson.id == known[0].id:  # as if it had come with an address, which curation took out
            with home.database.write() as connection:
                text = {"situation": f"{lesson.request} {mail}", "action": f"{lesson.answer} {mail}"}
                connection.execute(sa.update(lessons_table).where(lessons_table.c.seq == lesson.seq).values(**text))
    suites, _ = choose_suites(home, first, home.ledger.champion(), ("regression",))
    (again,) = (q for q in suites[0][0].questions() if q.id == known[0].id)
    assert again.request.startswith(known[0].request)
    assert "[personal: e-mail]" in again.request
    assert mail not in again.model_dump_json(), "what was taken out is neither asked for nor wanted back"


# The command line


def shown(academy: Academy, *arguments: object) -> Any:
    told = academy(*arguments, "--json")
    assert (told.code, told.err) == (0, ""), told
    return json.loads(told.out)


def test_the_budget_command_shows_a_renewal(academy: Academy, home: Home) -> None:
    assert shown(academy, "budget") == {"spent": 0, "left": HORIZON, "horizon": HORIZON, "renewals": 0}
    dataset = examined_once(home)
    for _ in range(HORIZON - 5):
        spend(home, dataset)
    told = academy("budget")
    assert told.out.startswith(f"4 of {HORIZON} examinations that can promote are left.")
    assert "academy holdout renew" in told.out
    teach(home, 24, seed=1)
    found = shown(academy, "holdout", "renew")
    assert (found["left"], found["groups"] >= FEWEST_GROUPS) == (HORIZON, True)
    assert shown(academy, "budget")["renewals"] == 1
    assert "The hold-out was renewed 1 times, most recently on 20" in academy("budget").out


def test_a_refused_renewal_is_one_line(academy: Academy, home: Home) -> None:
    assert "No examination was spent" in refusal_of(academy("holdout", "renew"))
    examined_once(home)
    assert "Only 0 answers of lessons that are in no dataset can be examined" in refusal_of(academy("holdout", "renew"))


def test_the_suites_command_lists_built_in_and_user_suites(
    academy: Academy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"suite": "on call", "role": "target"}\n{"id": "1", "request": "a", "reference": "b"}\n')
    monkeypatch.setenv("ACADEMY_SUITES", f"recall, leak, {mine}")
    found = shown(academy, "suites")
    by_name = {one["suite"]: one for one in found["suites"]}
    assert list(by_name) == [
        "recall", "style", "regression", "leak", "coding", "coding#first-ten", "commits", "on call",
    ]  # fmt: skip
    assert [name for name, one in by_name.items() if one["asked"]] == ["recall", "leak", "on call"]
    assert by_name["on call"]["what"] == "1 questions of your own; target"
    assert found["coding_questions"] > 0
    assert (found["sandbox"] is None) == bool(by_name["coding"]["left_out"])
    assert "on call" in academy("suites").out


@pytest.mark.parametrize(
    ("suites", "sentence"),
    [
        ("recall,none.jsonl", "The suite none.jsonl cannot be read"),
        ("recall,empty.jsonl", "empty.jsonl has no questions"),
        ("recal", "Unknown suite recal. Choose recall, style"),
    ],
)
def test_unusable_suites_are_refused(
    academy: Academy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suites: str, sentence: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    monkeypatch.setenv("ACADEMY_SUITES", suites)
    assert sentence in refusal_of(academy("suites"))


def test_the_comparisons_command_shows_and_exports(academy: Academy, home: Home, tmp_path: Path) -> None:
    assert shown(academy, "comparisons") == {"comparisons": [], "file": None}
    items = tuple(Item(question=f"{n}", group=f"{n}", slice="new", champion=n % 2, challenger=1) for n in range(30))
    sides = [
        tuple(Answer(question=f"{n}", text="x", score=s) for n, s in enumerate(both))
        for both in zip(*((i.champion, i.challenger) for i in items), strict=True)
    ]
    result = Result(
        suite="recall", digest=digest_of("x"), role="target", generation=Generation(max_new_tokens=32), groups=30,
        items=items, champion=sides[0], challenger=sides[1],
    )  # fmt: skip
    outcome = compute_verdict([result.paired], 0)
    held = Examination(champion="a" * 64, challenger="b" * 64, results=(result,), verdict=outcome)
    record = held.save(home.settings.folder("examinations"))
    export = tmp_path / "deep" / "all.jsonl"
    found = shown(academy, "comparisons", "--export", export)
    (one,) = found["comparisons"]
    assert (one["record"], one["outcome"], one["champion"], one["challenger"]) == (
        record.name, "PROMOTE", "a" * 64, "b" * 64,
    )  # fmt: skip
    assert one["suites"] == [
        {"suite": "recall", "win_rate": 1.0, "gold_star_rate": [0.5, 1.0], "avg_rating": [3.0, 5.0],
         "consistency_score": [2.0, 0.0]}
    ]  # fmt: skip
    assert [json.loads(line) for line in export.read_text().splitlines()] == [one]
    assert found["file"] == str(export)
    told = academy("comparisons", "--export", export)
    assert "100%" in told.out
    assert f"Written to {export}." in told.out.replace("\n", "")
    assert "is a folder" in refusal_of(academy("comparisons", "--export", tmp_path))
    record.write_bytes(b"{")
    assert "cannot be read. Run the examination again." in refusal_of(academy("comparisons"))


def test_questions_of_an_installed_source_retire(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    teach(home, 24)
    install_plugin(tmp_path, monkeypatch, "academy.sources", "wiki", WIKI, "open_wiki", package="wiki_source")
    home.settings = home.settings.model_copy(update={"sources": ("lesson", "wiki")})
    first = curate_lessons(home)
    asked = {e.request for e in first.held_out() if "lesson" not in e.provenance}
    assert asked
    spend(home, first)
    teach(home, 24, seed=1)
    renew_holdout(home)
    assert {sides(home)[request_key("recall", request)] for request in asked} == {"retired"}
    again = curate_lessons(home)
    assert asked.isdisjoint({example.request for example in home.holdout.examined(again.held_out())})
    assert asked.isdisjoint(texts(again)[0])
