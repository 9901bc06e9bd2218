"""The examination as a stage of the loop: which suites, which players, what is recorded, and the report of it.

The arena itself knows neither runtimes nor the registry; they meet here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from academy.arena.endpoint import Endpoint, Opinion, opinion
from academy.arena.examination import Cost, Examination, examination_digest, examine, read_examination
from academy.arena.report import Context, render
from academy.arena.sandbox import Sandbox, Unavailable, find_sandbox
from academy.arena.suites.base import Generation, Question, Suite
from academy.arena.suites.coding import FILE as CODING
from academy.arena.suites.coding import coding
from academy.arena.suites.commits import CommitsSuite
from academy.arena.suites.leak import LeakSuite
from academy.arena.suites.lm_eval import PREFIX, LmEvalSuite, lm_eval_suite
from academy.arena.suites.recall import RecallSuite
from academy.arena.suites.regression import FILE as GENERAL
from academy.arena.suites.regression import regression
from academy.arena.suites.style import StyleSuite
from academy.arena.suites.user import UserSuite
from academy.arena.verdict import HORIZON
from academy.curriculum.dataset import Dataset, Example, read_dataset
from academy.curriculum.decontamination import GuardedSuite
from academy.curriculum.filters import clean
from academy.errors import ExaminationError, InputError
from academy.experience.source import Experience
from academy.genealogy.description import describe
from academy.genealogy.versions import Version
from academy.lifecycle.promotion import record_verdict
from academy.loop.home import Home
from academy.loop.players import is_version, own_identity, player_of, shown
from academy.professor.decision import Decision
from academy.records import Record
from academy.settings import Settings
from academy.store.files import write_file
from academy.store.ledger import BASE, Champion
from academy.store.ledger_rows import Contradicted, PromotionEntry, Row, StoredDecision, VerdictEntry
from academy.system.processes import peak_memory

log = logging.getLogger("academy")
LONGEST_ANSWER = 0.5
"""Share of the model's context that an answer may take."""
GOLD_ASKED = 20
"""Gold answers that a judge is checked by."""
SUITES = {
    "recall": "held-out wordings of lessons, answered exactly; the target",
    "style": "whether those answers end by themselves, keep form and length; a guard",
    "regression": "general skills, and what earlier champions could do; a guard",
    "leak": "secrets and personal data that curation took out: one that comes back rejects",
    "coding": "functions to be written, run in the sandbox; a guard",
    "commits": "from a change to its subject line; told only",
}


class Held(Record):
    """An examination that was held just now, and what it cost."""

    examination: Examination
    costs: tuple[Cost, Cost]
    left_out: dict[str, str]
    opinion: Opinion | None
    report: Path  # the HTML; the markdown lies beside it


def hold_examination(
    home: Home,
    challenger: str,
    against: str | None = None,
    *,
    decision: Decision | None = None,
    wanted: Sequence[str] = (),
) -> tuple[Row[VerdictEntry] | None, Held | None]:
    """Examine a player against the champion, or against another one.

    A version against the champion on the suites of the settings is of record: one ledger row, written once, and after
    REJECT the new lessons are set aside. Anything else is only told: no row, nothing spent. Players are versions,
    `base`, `champion`, `few-shot` and `http://host:port/v1#model`. Returns the row, and what was held just now.
    """
    judge = _judge(home)  # first: a wrong address is not found after hours of answering
    champion = home.ledger.champion()
    version = home.versions.get(challenger) if is_version(challenger) else None
    dataset = read_dataset(home.datasets, version.dataset if version else _newest_dataset(home))
    rival = against if against and against != "champion" else champion.adapter
    players = (player_of(home, rival, dataset, champion), player_of(home, challenger, dataset, champion))
    of_record = version is not None and not wanted and players[0].identity == own_identity(home, champion)
    entries, left_out = choose_suites(home, dataset, champion, wanted or home.settings.suites)
    questions = {suite.name: suite.questions() for suite, _ in entries}
    key = f"verdict:{home.base.digest}:" + examination_digest(
        players[0].identity, players[1].identity, [suite.digest for suite, _ in entries]
    )
    if of_record and (known := home.ledger.find(VerdictEntry, key)):
        return known, None
    looks_before = home.ledger.verdicts_spent()
    examination, costs = examine(
        *players, entries, looks_before=looks_before, answers=home.settings.folder("answers")
    )  # fmt: skip
    verdict = examination.verdict
    log.info("%s: %s", verdict.outcome, verdict.because)
    record = examination.save(home.settings.folder("examinations"))
    said = _opinion(home, judge, examination, questions, dataset)
    contradicted = (
        _contradicted(home, examination, champion, dataset) if of_record and verdict.outcome == "REJECT" else []
    )
    context = Context(
        names=(shown(rival, champion), shown(challenger, champion)), base=home.base.name, costs=costs,
        memory=peak_memory(), left_out=left_out, opinion=said,
        contradicted=tuple(
            clash.model_dump() for clash in clashes(home, [(one.lesson, one.against) for one in contradicted])
        ),
        budget_left=home.ledger.budget_left(HORIZON) - (of_record and verdict.spends), told_only=not of_record,
        sandbox=next((suite.contained_by for suite, _ in entries if isinstance(suite, UserSuite)), ""),
    )  # fmt: skip
    report = _write_report(record, examination, questions, context)
    if version is not None and version.run:
        for path in (report, report.with_suffix(".md")):
            home.mlflow.log_artifact(version.run, str(path), "examination")
    row = None
    if of_record and version is not None:  # last: until it is written, all of the above is done again after a kill
        entry = VerdictEntry(
            **verdict.model_dump(mode="json"),
            challenger=version.adapter,
            version=version.version,
            champion=champion.adapter,
            champion_version=champion.version,
            dataset=dataset.digest,
            order=version.order,
            cursor=dataset.cursor,
            decision=StoredDecision.model_validate(decision.model_dump(mode="json")) if decision else None,
            contradicted=tuple(contradicted),
            record=record.name,
            left_out=left_out,
        )
        if verdict.outcome == "CANNOT DECIDE":  # what stood in the way may be gone tomorrow: it may be held again
            key += f":undecided:{sum(1 for _ in home.ledger.rows(VerdictEntry))}"
        row = record_verdict(home.ledger, key, entry, (champion.cursor, dataset.cursor))
    return row, Held(examination=examination, costs=costs, left_out=left_out, opinion=said, report=report)


def choose_suites(
    home: Home, dataset: Dataset, champion: Champion, wanted: Sequence[str]
) -> tuple[list[tuple[Suite, Generation]], dict[str, str]]:
    """The suites of these names or files, each with its generation settings; and why others were left out.

    Raises InputError for a name that means nothing and for a file that cannot be read.
    """
    shelf = _Shelf(home, dataset, champion)
    found: list[Suite] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(wanted):
        suite = shelf.take(name)
        if isinstance(suite, Unavailable):
            left_out[name] = suite.because
            continue
        if any(suite.name == other.name for other in found):
            raise InputError(f"Two suites are called {suite.name}.", "Give each a name of its own, in its first line.")
        if suite.questions() or suite.role == "target":
            found.append(suite)
        else:
            left_out[suite.name] = "it has no questions here"
    return [(suite, _generation(home, suite)) for suite in found], left_out


class _Shelf:
    """Suites by name, for one dataset and one champion."""

    def __init__(self, home: Home, dataset: Dataset, champion: Champion) -> None:
        self.home = home
        self.dataset = dataset
        self.active = {lesson.id: lesson.seq for lesson in home.store.read()}
        self.held_out = home.holdout.examined(dataset.held_out(self.active))
        self.recall = RecallSuite(self.held_out, champion.cursor)

    @cached_property
    def sandbox(self) -> Sandbox | Unavailable:
        return find_sandbox(self.home.settings.sandbox, image=self.home.settings.sandbox_image)

    def take(self, name: str) -> Suite | Unavailable:
        """The suite of this name or file, or why it cannot be asked here."""
        match name:
            case "recall":
                return self.recall
            case "style":
                return StyleSuite(self.recall.questions())
            case "regression":
                known = (_known_earlier(self.home) & self.active.keys()) - {example.id for example in self.held_out}
                return regression(clean(lesson)[0] for lesson in self.home.store.by_id(known).values())
            case "leak":  # whatever the dataset was made of, trained on or not
                return LeakSuite(self.home.store.by_id(one["id"] for one in self.dataset.inputs()).values())
            case "commits":
                return CommitsSuite(self.held_out)
            case "coding":
                return self.sandbox if isinstance(self.sandbox, Unavailable) else coding(self.sandbox)
        if name.startswith(PREFIX):
            return lm_eval_suite(name.removeprefix(PREFIX))
        suite = UserSuite.read(suite_file(name))
        if suite.name in SUITES:
            raise InputError(f"{name} calls itself {suite.name}, as a suite of the Academy.", "Give it another name.")
        if not suite.needs_sandbox:
            return suite
        return self.sandbox if isinstance(self.sandbox, Unavailable) else suite.inside(self.sandbox)


def guarded_texts(settings: Settings) -> list[GuardedSuite]:
    """What the suites of the settings ask, for curation to keep out of training. The hold-out is guarded by itself."""
    found = []
    for name in settings.suites:
        if name == "coding":
            rows = [orjson.loads(line) for line in CODING.read_bytes().splitlines()]
            found.append(GuardedSuite(name, [row[part] for row in rows for part in ("request", "solution")]))
        elif name == "regression":  # short questions: only a whole one that is quoted counts
            asked = [question.request for question in UserSuite.read(GENERAL).questions()]
            found.append(GuardedSuite("general", asked, shared_runs=False))
        elif name not in SUITES and not name.startswith(PREFIX):
            suite = UserSuite.read(suite_file(name))
            found.append(GuardedSuite(suite.name, [question.request for question in suite.questions()]))
    return found


def publish_verdict(home: Home, challenger: Version, row: Row[VerdictEntry]) -> None:
    """Write a verdict into the registry, where people browse. Repeating it is harmless."""
    target = row.body.target
    scores = {
        "score_champion": f"{target.champion if target else 0:.4f}",
        "score_challenger": f"{target.challenger if target else 0:.4f}",
        "score_difference": f"{target.difference if target else 0:+.4f}",
        "score_interval": f"{target.low if target else 0:+.4f} to {target.high if target else 0:+.4f}",
        "examined_against": row.body.champion_version,
    }
    home.versions.note_verdict(challenger.version, row.body.outcome, row.body.because, scores)
    describe(home.versions, home.ledger, challenger.version)


def require_verdict(row: Row[VerdictEntry] | None) -> Row[VerdictEntry]:
    """The row of an examination of record."""
    if row is None:
        raise ExaminationError("This examination was not held against the champion.", "Leave the second version out.")
    return row


def brief_report(home: Home, row: Row[VerdictEntry]) -> str:
    """The report of an examination of record as markdown without any lesson's text: for pages that keep it."""
    record = home.settings.folder("examinations") / row.body.record
    champion = row.body.champion_version
    names = (champion if champion == BASE else f"v{champion}", f"v{row.body.version}")
    context = Context(
        names=names, base=home.base.name, left_out=row.body.left_out,
        budget_left=home.ledger.budget_left(HORIZON),
    )  # fmt: skip
    return render(read_examination(record), {}, context, form="md", texts=False)


class Clash(Record):
    """A held-out request with its answer, and what a lesson of a batch teaches instead."""

    request: str
    answer: str
    taught: str
    batch: str


def clashes(home: Home, pairs: Iterable[tuple[str, str]]) -> list[Clash]:
    """Pairs of lessons (ids) in words; those of which one was forgotten since are left out."""
    wanted = list(pairs)
    lessons = {id_: clean(one)[0] for id_, one in home.store.by_id(one for pair in wanted for one in pair).items()}
    return [
        Clash(
            request=lessons[first].request,
            answer=lessons[first].answer,
            taught=lessons[second].answer,
            batch=lessons[second].batch,
        )
        for first, second in wanted
        if first in lessons and second in lessons
    ]


def in_words(home: Home, verdict: dict[str, Any]) -> dict[str, Any]:
    """A verdict as a JSON object, with its contradicting lessons in words."""
    pairs = [(one["lesson"], one["against"]) for one in verdict["contradicted"]]
    return {**verdict, "contradicted": [clash.model_dump() for clash in clashes(home, pairs)]}


def _newest_dataset(home: Home) -> str:
    for version in home.versions.newest():
        if version.dataset:  # the base model under a name has none
            return version.dataset
    raise ExaminationError("There is no dataset to examine on yet.", "Run `academy evolve` first.")


def suite_file(name: str) -> Path:
    """The file of a suite of one's own. Raises InputError for a name that is none."""
    path = Path(name).expanduser()
    if path.suffix != ".jsonl":
        raise InputError(f"There is no suite {name}.", f"Choose {', '.join(SUITES)}, a .jsonl file or {PREFIX}TASK.")
    return path


def _generation(home: Home, suite: Suite) -> Generation:
    """Room for the longest reference or what a task wants, in steps of 32 tokens, so that kept answers stay valid."""
    longest = max(home.base.count_tokens([q.reference for q in suite.questions()]), default=0)
    if isinstance(suite, LmEvalSuite):
        longest = max(longest, suite.max_new_tokens - 1)
    most = max(32, int(home.base.context * LONGEST_ANSWER) // 32 * 32)
    return Generation(max_new_tokens=min(most, 32 * (1 + (longest + 1) // 32)))


def _known_earlier(home: Home) -> set[str]:
    """Lessons that a champion of this family answered rightly in the examination that made it one."""
    crowned = {row.body.adapter for row in home.ledger.rows(PromotionEntry)}
    ids: set[str] = set()
    for row in home.ledger.rows(VerdictEntry):
        path = home.settings.folder("examinations") / row.body.record
        if row.body.outcome != "PROMOTE" or row.body.challenger not in crowned:
            continue
        try:
            results = read_examination(path).results
        except ExaminationError as problem:  # nobody can mend it, and it must not end the loop for ever
            log.warning("what v%s knew is not asked again: %s", row.body.version, problem.message)
            continue
        for result in results:
            if result.suite in ("recall", "regression"):
                ids |= {answer.question for answer in result.challenger if answer.score == 1}
    return ids


def _contradicted(
    home: Home, held: Examination, champion: Champion, dataset: Dataset
) -> list[Contradicted]:  # fmt: skip
    """The new lessons that teach what the challenger wrongly said on the guard questions it lost: ids, no texts."""
    references = {example.id for example in dataset.held_out()}
    taught: dict[str, Experience] = {}
    for lesson in home.store.read(since=champion.cursor):
        if lesson.seq <= dataset.cursor:
            taught.setdefault(clean(lesson)[0].answer, lesson)
    return [
        Contradicted(lesson=question, against=taught[said].id, batch=taught[said].batch)
        for result in held.results
        if result.role == "target"
        for question, said in result.lost
        if said in taught and question in references
    ]


def _judge(home: Home) -> Endpoint | None:
    """The judge of the settings. Raises InputError for an address that is none."""
    key = home.settings.endpoint_key.get_secret_value()
    return Endpoint.parse(home.settings.judge, key) if home.settings.judge else None


def _opinion(
    home: Home,
    judge: Endpoint | None,
    held: Examination,
    questions: dict[str, Sequence[Question]],
    dataset: Dataset,
) -> Opinion | None:
    """What the judge of the settings says of the target's answers; its failure is told and stops nothing."""
    if judge is None:
        return None
    asked = {q.id: q for q in questions.get("recall", ())}
    pairs = [
        (asked[a.question], a.text, b.text)
        for result in held.results
        if result.suite == "recall"
        for a, b in zip(result.champion, result.challenger, strict=True)
    ]
    try:
        return opinion(judge, pairs, _gold(home, dataset.held_out()))
    except ExaminationError as problem:
        log.warning("the judge was left out: %s", problem)
        return None


def _gold(home: Home, held_out: Sequence[Example]) -> list[tuple[str, str, str]]:
    """Gold answers, each beside another lesson's answer: (request, gold, another)."""
    starred = [clean(lesson)[0] for lesson in home.store.by_id(e.id for e in held_out).values() if lesson.gold]
    others = sorted({example.answer for example in held_out})
    return [
        (lesson.request, lesson.answer, next(answer for answer in others if answer != lesson.answer))
        for lesson in sorted(starred, key=lambda one: one.id)[:GOLD_ASKED]
        if any(answer != lesson.answer for answer in others)
    ]


def _write_report(
    record: Path, held: Examination, questions: dict[str, Sequence[Question]], context: Context
) -> Path:  # fmt: skip
    write_file(record.with_suffix(".md"), render(held, questions, context, form="md").encode())
    return write_file(record.with_suffix(".html"), render(held, questions, context, form="html").encode())
