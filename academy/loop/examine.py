"""Examines a player against the champion or another player: suites, players, ledger row and report meet here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from academy.arena.endpoint import JudgeTally
from academy.arena.examination import Cost, Examination, examination_digest
from academy.arena.examination import examine as run_examination
from academy.arena.report import ReportContext, render
from academy.arena.suites.base import Question
from academy.arena.suites.user import UserSuite
from academy.arena.verdict import HORIZON
from academy.curriculum.dataset import read_dataset
from academy.errors import ExaminationError
from academy.genealogy.versions import Version
from academy.lifecycle.promotion import record_verdict
from academy.loop.ask_judge import ask_judge, configured_judge
from academy.loop.choose_suites import choose_suites
from academy.loop.explain_contradictions import contradicting_lessons, explain_contradictions, suspects_behind
from academy.loop.home import Home
from academy.loop.job_datasets import refuse_uncurated
from academy.loop.players import is_version, own_identity, player_of, shown
from academy.loop.publish_verdict import publish_verdict
from academy.professor.decision import Decision
from academy.records import Record
from academy.store.files import write_file
from academy.store.ledger_rows import Row, StoredDecision, VerdictEntry
from academy.system.processes import peak_memory

log = logging.getLogger(__name__)


class ExaminationReport(Record):
    """An examination that just ran, and what it cost. `report` is the HTML file; the markdown lies beside it."""

    examination: Examination
    costs: tuple[Cost, Cost]
    skipped: dict[str, str]  # suites and why
    opinion: JudgeTally | None
    report: Path


def examine(
    home: Home,
    challenger: str,
    against: str | None = None,
    *,
    decision: Decision | None = None,
    suites: Sequence[str] = (),
) -> tuple[Row[VerdictEntry] | None, ExaminationReport | None]:
    """Examine a player against the champion, or against another player.

    A version against the champion on the suites of the settings is official: it writes one ledger row, once, and
    after REJECT the new lessons are set aside. Any other examination is informational: it writes no row and spends
    nothing. Players are versions, `base`, `champion`, `few-shot` and `http://host:port/v1#model`.

    Returns the row of an official examination, and the report unless the examination had run before.
    """
    home.settings.require_enabled()
    judge = configured_judge(home)  # first: a wrong address should not appear after hours of answering
    champion = home.ledger.champion()
    version = home.versions.get(challenger) if is_version(challenger) else None
    if version is not None:
        refuse_uncurated(home.settings, version.dataset, version.name)
    dataset = read_dataset(home.datasets, version.dataset if version else _newest_dataset(home))
    rival = against if against and against != "champion" else champion.adapter
    players = (player_of(home, rival, dataset, champion), player_of(home, challenger, dataset, champion))
    official = version is not None and not suites and players[0].identity == own_identity(home, champion)
    entries, skip_reasons = choose_suites(home, dataset, champion, suites or home.settings.suites)
    questions = {suite.name: suite.questions() for suite, _ in entries}
    key = f"verdict:{home.base.digest}:" + examination_digest(
        players[0].identity, players[1].identity, [suite.digest for suite, _ in entries]
    )
    if official and (row := home.ledger.find(VerdictEntry, key)):
        return row, None
    spent_before = home.ledger.verdicts_spent()
    examination, costs = run_examination(
        *players, entries, spent_before=spent_before, answers=home.settings.folder("answers")
    )  # fmt: skip
    verdict = examination.verdict
    log.info("%s: %s", verdict.outcome, verdict.because)
    record = examination.save(home.settings.folder("examinations"))
    judgement = ask_judge(home, judge, examination, questions.get("recall", ()), dataset)
    contradictions = (
        contradicting_lessons(home, examination, champion, dataset) if official and verdict.outcome == "REJECT" else []
    )
    texts = explain_contradictions(home, [(pair.lesson, pair.against) for pair in contradictions])
    context = ReportContext(
        names=(shown(rival, champion), shown(challenger, champion)), base=home.base.name, costs=costs,
        memory=peak_memory(), skipped=skip_reasons, judge_tally=judgement,
        contradicted=tuple(text.model_dump() for text in texts),
        budget_left=home.ledger.budget_left(HORIZON) - (official and verdict.spends), informational=not official,
        sandbox=next((suite.contained_by for suite, _ in entries if isinstance(suite, UserSuite)), ""),
    )  # fmt: skip
    report = _write_report(record, examination, questions, context)
    if version is not None and version.run:
        for path in (report, report.with_suffix(".md")):
            home.mlflow.log_artifact(version.run, str(path), "examination")
    row = None
    if official and version is not None:  # last: until this row is written, all of the above is repeated after a kill
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
            contradicted=tuple(contradictions),
            record=record.name,
            skipped=skip_reasons,
        )
        if verdict.outcome == "CANNOT DECIDE":  # the cause may be gone tomorrow: the examination may run again
            key += f":undecided:{sum(1 for _ in home.ledger.rows(VerdictEntry))}"
        blamed = suspects_behind(home, examination, champion, dataset) if verdict.outcome == "REJECT" else []
        row = record_verdict(home.ledger, key, entry, (champion.cursor, dataset.cursor), blamed)
    return row, ExaminationReport(
        examination=examination, costs=costs, skipped=skip_reasons, opinion=judgement, report=report
    )  # fmt: skip


def examine_challenger(home: Home, challenger: Version, decision: Decision | None = None) -> Row[VerdictEntry]:
    """The official examination of a version against the champion; its verdict is published in MLflow."""
    row, _ = examine(home, challenger.version, decision=decision)
    if row is None:
        raise ExaminationError(
            f"The examination of {challenger.name} did not run against the champion.", "Omit the second player."
        )
    publish_verdict(home, challenger, row)
    return row


def _newest_dataset(home: Home) -> str:
    for version in home.versions.newest():
        if version.dataset:  # the base model under a name has none
            return version.dataset
    raise ExaminationError(
        "No version of this base model has a dataset to examine with.",
        "Run `academy evolve` first.",
    )


def _write_report(
    record: Path, examination: Examination, questions: dict[str, Sequence[Question]], context: ReportContext
) -> Path:
    write_file(record.with_suffix(".md"), render(examination, questions, context, form="md").encode())
    return write_file(record.with_suffix(".html"), render(examination, questions, context, form="html").encode())
