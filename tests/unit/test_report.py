"""Reports: everything that a verdict is based on; no answer of a player can break the page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from academy.arena.endpoint import JudgeTally
from academy.arena.examination import Cost, Examination, examine
from academy.arena.report import ReportContext, compare, render
from academy.arena.signflip import asking_position
from academy.arena.suites.base import Generation, Question, Reply
from academy.arena.suites.user import UserSuite
from tests.unit.test_style_and_leak import LeakSuite, lesson

GENERATION = Generation(max_new_tokens=32)
EVIL = '<script>alert("1")</script> | a & b\n| --- |\n[x](javascript:alert(1)) ![y](http://evil/p) `c` \\| *d* </td>'
NAMES = ("v1", "http://h:1/v1#m|<b>")


class ScriptedPlayer:
    """A player with fixed answers."""

    def __init__(self, identity: str, answers: dict[str, str]) -> None:
        self.identity = identity * 64
        self.answers = answers

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        return [Reply(text=self.answers.get(request, ""), tokens=3, first=0.125) for request in requests]


def suite_of(path: Path, name: str, role: str, count: int = 40, tag: str = "odd") -> UserSuite:
    rows = [f'{{"suite": "{name}", "role": "{role}"}}'] + [
        f'{{"id": "{name}-{n:02}", "request": "{name} <request> number {n}?", "reference": "{name} answer {n}", '
        f'"tags": ["{tag if n % 2 else "even"}"]}}'
        for n in range(count)
    ]
    path.write_text("\n".join(rows))
    return UserSuite.read(path)


Examined = tuple[Examination, dict[str, Sequence[Question]], ReportContext]


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Examined:
    """A real examination: three suites and a leak suite. The challenger is better at one and worse at parts of it."""
    place = tmp_path_factory.mktemp("report")
    target = suite_of(place / "a.jsonl", "target", "target")
    guard = suite_of(place / "b.jsonl", "guard", "guard")
    words = suite_of(place / "c.jsonl", "words", "informational", 5)
    leak = LeakSuite([lesson(1, "What is the token?", "It is ghp_" + "aB3dE5fG7h" * 3 + "aB3dE5.")])
    known = {q.request: q.reference for suite in (target, guard, words) for q in suite.questions()}
    first = [q.request for q in sorted(target.questions(), key=lambda q: (asking_position(q.group), q.group))]
    champion = {request: known[request] for request in [*first[:3], *(q.request for q in guard.questions())]}
    challenger = {**known, first[0]: EVIL, first[1]: "", words.questions()[4].request: "other"}
    suites = [(suite, GENERATION) for suite in (target, guard, words, leak)]
    found, costs = examine(
        ScriptedPlayer("a", champion),
        ScriptedPlayer("b", challenger),
        suites,
        spent_before=3,
        answers=place / "answers",
    )
    context = ReportContext(
        names=NAMES, base="seed <base>", costs=costs, memory=123_456_789, budget_left=22,
        skipped={"coding|x": "no <sandbox> | here"},
        judge_tally=JudgeTally(judge="m|<i> at http://h/v1", wins=3, losses=2, ties=4, by_place=1, gold_asked=8,
                        gold_agreed=6),
        contradicted=({"request": "R | <u>", "answer": "A", "batch": "july|", "taught": "T <script>"},),
        sandbox="docker: namespaces, image sha256:<abc>",
    )  # fmt: skip
    return found, {suite.name: suite.questions() for suite, _ in suites}, context


def page_of(examined: Examined, form: str, **changes: Any) -> str:
    found, questions, context = examined
    texts = changes.pop("texts", True)
    return render(found, questions, context.model_copy(update=changes), form=form, texts=texts)


def cells(line: str) -> list[str]:
    """The cells of a markdown row, as a renderer splits it: at pipes that are not escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line.strip())[1:-1]]


FORMS = ("md", "html")


@pytest.mark.parametrize("form", FORMS)
def test_report_shows_the_verdict_and_the_budget(examined: Examined, form: str) -> None:
    page = html.unescape(page_of(examined, form))
    verdict = examined[0].verdict
    assert verdict.outcome == "PROMOTE"
    assert f"it is better: {verdict.target.champion:.1%} -> {verdict.target.challenger:.1%}" in page
    assert verdict.because.split(" (p =")[0] in page
    assert "counted against the error budget; 22 examinations that can promote are left." in page
    assert "Informational: this is not an official examination" not in page
    assert examined[0].record in page
    assert f"{100 * verdict.smallest_gain:+.1f} points" in page
    assert (f"after {100 * verdict.share_asked:.0f} % of the questions" in page) == (verdict.analysis < 5)


@pytest.mark.parametrize("form", FORMS)
def test_report_of_an_informational_examination_says_so(examined: Examined, form: str) -> None:
    page = page_of(examined, form, informational=True)
    assert "Informational: this is not an official examination" in page
    assert "counted against the error budget" not in page


@pytest.mark.parametrize("form", FORMS)
def test_report_has_a_row_for_each_suite_with_interval_and_counts(examined: Examined, form: str) -> None:
    page = html.unescape(page_of(examined, form))
    for finding in examined[0].verdict.findings:
        assert finding.suite in page
        if finding.whole:
            one = finding.whole
            assert f"{one.difference:+.1%} ({one.low:+.1%} to {one.high:+.1%})" in page
            assert f"{one.wins} / {one.ties} / {one.losses}" in page
            assert -1 <= one.low <= one.difference <= one.high <= 1
    assert [one.suite for one in examined[0].verdict.findings] == ["target", "guard", "words", "leak"]
    assert re.search(r"words\W.*informational", page)
    assert re.search(r"target: \d+ and 1 empty answers\.", page)


@pytest.mark.parametrize("form", FORMS)
def test_report_shows_skipped_suites_with_the_reason(examined: Examined, form: str) -> None:
    page = page_of(examined, form)
    assert "no <sandbox>" not in page
    assert re.search(r"coding\\?\|x.*skipped: no &lt;sandbox", page)


@pytest.mark.parametrize("form", FORMS)
def test_report_shows_the_costs(examined: Examined, form: str) -> None:
    cost = Cost(player="b", asked=5, kept=7, tokens=30, seconds=2.0, first_token=0.125)
    page = page_of(examined, form, costs=(cost, Cost(player="a")))
    row = next(line for line in page.splitlines() if "15" in line and "0.125" in line)
    assert re.findall(r"(?<![\d.:])\d+(?:\.\d+)?(?![\d.:])", re.sub("<[^>]*>", " ", row).replace("v1", ""))[-6:] == [
        "5", "7", "30", "2.0", "15", "0.125",
    ]  # fmt: skip
    assert "Peak memory of the examination: 123 MB." in page
    assert "Peak memory" not in page_of(examined, form, memory=None)


@pytest.mark.parametrize("form", FORMS)
def test_report_shows_the_judge_as_informational(examined: Examined, form: str) -> None:
    page = page_of(examined, form)
    assert "Opinion of the judge (informational)" in page
    assert "3 wins, 4 ties, 2 losses" in page
    assert "In 1 pairs it preferred a position" in page
    assert "It agrees with 75.0% of 8 gold stars." in page
    assert "no gold stars to check it with" in page_of(examined, form, judge_tally=JudgeTally(judge="m"))
    assert "judge" not in page_of(examined, form, judge_tally=None)


@pytest.mark.parametrize("form", FORMS)
def test_report_shows_changed_answers_side_by_side(examined: Examined, form: str) -> None:
    page = html.unescape(page_of(examined, form))
    worse = page[page.index("Got worse") : page.index("Got better")]
    assert re.search(r"target <request> number \d+\?", worse)
    assert re.search(r"target answer \d+", worse)
    assert "alert" in worse
    assert "(empty)" in worse
    assert worse.count("target <request>") == 2
    better = page[page.index("Got better") :]
    assert re.search(r"target <request> number \d+\?", better)
    assert "words <request> number 4?" not in page, "neither player answered it correctly"


@pytest.mark.parametrize("form", FORMS)
def test_report_shows_tags_with_enough_groups(examined: Examined, form: str) -> None:
    page = page_of(examined, form)
    part = page[page.index("By tag") : page.index("Got worse")]
    assert "odd" in part
    assert "even" in part
    assert "words" not in part, "a tag of two groups is not shown"


@pytest.mark.parametrize("form", FORMS)
def test_report_without_texts_quotes_no_request_and_no_answer(examined: Examined, form: str) -> None:
    page = html.unescape(page_of(examined, form, texts=False))
    assert "request>" not in page
    assert "answer 0" not in page
    assert "alert" not in page
    assert "T <script>" not in page
    assert "july" in page
    for finding in examined[0].verdict.findings:
        assert finding.suite in page


@pytest.mark.parametrize("form", ["html", "md"])
def test_report_names_the_sandbox(examined: Examined, form: str) -> None:
    assert "docker: namespaces, image sha256:" in page_of(examined, form)


def test_html_report_escapes_answers(examined: Examined) -> None:
    page = page_of(examined, "html")
    assert not re.search(r"<(?:script|request|base|b|i|u|img|sandbox)\b", page)
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; | a &amp; b\n| --- |" in page
    for tag in ("table", "tr", "td", "div", "p", "h2"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag
    assert not re.search(r"\b(?:src|href)=", page), "a report loads nothing"


def test_html_report_draws_the_largest_changes_inside_the_picture(tmp_path: Path) -> None:
    suites = [
        suite_of(tmp_path / f"{name}.jsonl", name, role) for name, role in (("up", "target"), ("down", "informational"))
    ]
    up, down = ({q.request: q.reference for q in suite.questions()} for suite in suites)
    found, _ = examine(
        ScriptedPlayer("a", down), ScriptedPlayer("b", up), [(suite, GENERATION) for suite in suites], spent_before=0,
        answers=tmp_path / "answers",
    )  # fmt: skip
    page = render(found, {}, ReportContext(names=("a", "b"), base="seed"), form="html")
    assert {float(middle) for middle in re.findall(r'cx="([^"]*)"', page)} == {5.0, 155.0}
    assert 'viewBox="0 0 160 16"' in page


def test_markdown_report_keeps_answers_inside_their_cell(examined: Examined) -> None:
    page = page_of(examined, "md")
    assert not re.search(r"<(?:script|request|b|i|u|sandbox|/td)\b", page)
    assert not re.search(r"(?<!\\)\]\(", page), "no link and no picture"
    tables = [block.splitlines() for block in re.split(r"\n\s*\n", page) if block.lstrip().startswith("|")]
    assert len(tables) >= 5
    for table in tables:
        assert set(table[1]) <= set("|-"), table[1]
        assert {len(cells(line)) for line in table} == {len(cells(table[0]))}, table
    row = next(line for line in page.splitlines() if "alert" in line)
    answer = html.unescape(re.sub(r"\\(.)", r"\1", cells(row)[4]))
    assert answer == " ".join(EVIL.split())


def test_long_texts_are_truncated_in_markdown_only(examined: Examined) -> None:
    found, questions, context = examined
    long = "word " * 1000
    changed = {
        name: tuple(q.model_copy(update={"reference": long}) for q in asked) for name, asked in questions.items()
    }
    assert long.strip() in render(found, changed, context, form="html")
    assert max(map(len, render(found, changed, context, form="md").splitlines())) < 2000


@pytest.mark.parametrize("form", FORMS)
def test_report_of_the_same_examination_has_the_same_bytes(examined: Examined, form: str) -> None:
    found, questions, context = examined
    again = Examination.model_validate_json(found.model_dump_json())
    assert render(again, dict(reversed(questions.items())), context, form=form) == page_of(examined, form)


@pytest.mark.parametrize("form", FORMS)
def test_report_of_an_undecided_examination_shows_the_reason(tmp_path: Path, form: str) -> None:
    target = suite_of(tmp_path / "a.jsonl", "few", "target", 3)
    found, costs = examine(
        ScriptedPlayer("a", {}),
        ScriptedPlayer("b", {}),
        [(target, GENERATION)],
        spent_before=0,
        answers=tmp_path / "answers",
    )
    page = render(
        found, {"few": target.questions()}, ReportContext(names=("base", "v1"), base="seed", costs=costs), form=form
    )
    assert found.verdict.outcome == "CANNOT DECIDE"
    assert "CANNOT DECIDE" in page
    assert "Self-check failed for suite few: a simulated better model got HOLD instead of PROMOTE" in page
    assert "This examination was not counted against the error budget." in page
    assert {"html": "target; 0 questions asked", "md": "| few | target | 0 | 3 |"}[form] in page


# The figures of the second system


def scores(tmp_path: Path, champion: list[str], challenger: list[str]) -> Examination:
    """Five fields each; how many of them a player has right is its score."""
    fields = dict.fromkeys("abcde", 1)
    rows = [
        '{"suite": "x", "role": "told"}',
        *(
            f'{{"id": "{n}", "request": "{n}", "grader": "json", "fields": {str(fields).replace(chr(39), chr(34))}}}'
            for n in range(len(champion))
        ),
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(rows))
    suite = UserSuite.read(tmp_path / "x.jsonl")

    def player(identity: str, right: list[str]) -> ScriptedPlayer:
        said = {f"{n}": str(dict.fromkeys(names, 1)).replace("'", '"') for n, names in enumerate(right)}
        return ScriptedPlayer(identity, said)

    target = suite_of(tmp_path / "t.jsonl", "t", "target")
    both = {q.request: q.reference for q in target.questions()}
    sides = (player("a", champion), player("b", challenger))
    for side in sides:
        side.answers |= both
    return examine(
        *sides, [(target, GENERATION), (suite, GENERATION)], spent_before=0, answers=tmp_path / "answers"
    )[0]  # fmt: skip


def test_comparison_has_win_rate_gold_stars_ratings_and_consistency(tmp_path: Path) -> None:
    """Scores 1, 0.4, 0, 0.6 against 1, 0.8, 1, 0.2: ratings 5, 2.6, 1, 3.4 against 5, 4.2, 5, 1.8."""
    examination = scores(tmp_path, ["abcde", "ab", "", "abc"], ["abcde", "abcd", "abcde", "a"])
    comparison = compare(examination.results[1])
    assert comparison.win_rate == pytest.approx(2 / 3)  # two wins, one loss, one tie
    assert comparison.gold_star_rate == (0.25, 0.5)
    assert comparison.avg_rating == (pytest.approx(3.0), pytest.approx(4.0))
    # (2^2 + 0.4^2 + 2^2 + 0.4^2) / 4 = 2.08 and (1 + 0.2^2 + 1 + 2.2^2) / 4 = 1.72
    assert comparison.consistency_score == (pytest.approx(2.08**0.5), pytest.approx(1.72**0.5))
    page = render(examination, {}, ReportContext(names=("a", "b"), base="seed"), form="md")
    assert "| x | 66.7% | 25.0% -> 50.0% | 3.00 -> 4.00 | 1.44 -> 1.31 |" in page


def test_comparison_of_equal_players_has_a_win_rate_of_one_half(tmp_path: Path) -> None:
    examination = scores(tmp_path, ["abcde", "ab"], ["abcde", "cd"])
    comparison = compare(examination.results[1])
    assert (comparison.win_rate, comparison.gold_star_rate, comparison.suite) == (0.5, (0.5, 0.5), "x")


def test_comparison_of_a_suite_without_answers_is_zero(tmp_path: Path) -> None:
    target = suite_of(tmp_path / "a.jsonl", "few", "target", 3)
    examination, _ = examine(
        ScriptedPlayer("a", {}),
        ScriptedPlayer("b", {}),
        [(target, GENERATION)],
        spent_before=0,
        answers=tmp_path / "answers",
    )
    comparison = compare(examination.results[0])
    assert (comparison.win_rate, comparison.gold_star_rate, comparison.avg_rating) == (0.5, (0.0, 0.0), (0.0, 0.0))
