"""Reports: everything that a verdict rests on, for people; what players say cannot break the page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from academy.arena.endpoint import Opinion
from academy.arena.examination import Cost, Examination, examine
from academy.arena.report import Context, compare, render
from academy.arena.signflip import place as place_of
from academy.arena.suites.base import Generation, Question, Reply
from academy.arena.suites.user import UserSuite
from tests.unit.test_style_and_leak import LeakSuite, lesson

GENERATION = Generation(max_new_tokens=32)
EVIL = '<script>alert("1")</script> | a & b\n| --- |\n[x](javascript:alert(1)) ![y](http://evil/p) `c` \\| *d* </td>'
NAMES = ("v1", "http://h:1/v1#m|<b>")


class Known:
    """A player that says what it is told to say."""

    def __init__(self, identity: str, said: dict[str, str]) -> None:
        self.identity = identity * 64
        self.said = said

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        return [Reply(text=self.said.get(request, ""), tokens=3, first=0.125) for request in requests]


def suite_of(path: Path, name: str, role: str, count: int = 40, tag: str = "odd") -> UserSuite:
    rows = [f'{{"suite": "{name}", "role": "{role}"}}'] + [
        f'{{"id": "{name}-{n:02}", "request": "{name} <request> number {n}?", "reference": "{name} answer {n}", '
        f'"tags": ["{tag if n % 2 else "even"}"]}}'
        for n in range(count)
    ]
    path.write_text("\n".join(rows))
    return UserSuite.read(path)


Held = tuple[Examination, dict[str, Sequence[Question]], Context]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    """A real examination: three suites and a leak; the challenger is better at one and worse at some of it."""
    place = tmp_path_factory.mktemp("report")
    target = suite_of(place / "a.jsonl", "target", "target")
    guard = suite_of(place / "b.jsonl", "guard", "guard")
    told = suite_of(place / "c.jsonl", "told", "told", 5)
    leak = LeakSuite([lesson(1, "What is the token?", "It is ghp_" + "aB3dE5fG7h" * 3 + "aB3dE5.")])
    known = {q.request: q.reference for suite in (target, guard, told) for q in suite.questions()}
    first = [q.request for q in sorted(target.questions(), key=lambda q: (place_of(q.group), q.group))]
    champion = {request: known[request] for request in [*first[:3], *(q.request for q in guard.questions())]}
    challenger = {**known, first[0]: EVIL, first[1]: "", told.questions()[4].request: "other"}
    suites = [(suite, GENERATION) for suite in (target, guard, told, leak)]
    found, costs = examine(
        Known("a", champion), Known("b", challenger), suites, looks_before=3, answers=place / "answers"
    )
    context = Context(
        names=NAMES, base="seed <base>", costs=costs, memory=123_456_789, budget_left=22,
        left_out={"coding|x": "no <sandbox> | here"},
        opinion=Opinion(judge="m|<i> at http://h/v1", wins=3, losses=2, ties=4, by_place=1, gold_asked=8,
                        gold_agreed=6),
        contradicted=({"request": "R | <u>", "answer": "A", "batch": "july|", "taught": "T <script>"},),
        sandbox="docker: namespaces, image sha256:<abc>",
    )  # fmt: skip
    return found, {suite.name: suite.questions() for suite, _ in suites}, context


def shown(held: Held, form: str, **changes: Any) -> str:
    found, questions, context = held
    texts = changes.pop("texts", True)
    return render(found, questions, context.model_copy(update=changes), form=form, texts=texts)


def cells(line: str) -> list[str]:
    """The cells of a markdown row, as a renderer splits it: at pipes that are not escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line.strip())[1:-1]]


FORMS = ("md", "html")


@pytest.mark.parametrize("form", FORMS)
def test_a_report_says_the_verdict_and_what_it_spent(held: Held, form: str) -> None:
    page = html.unescape(shown(held, form))
    verdict = held[0].verdict
    assert verdict.outcome == "PROMOTE"
    assert f"it is better: {verdict.target.champion:.1%} -> {verdict.target.challenger:.1%}" in page
    assert verdict.because.split(" (p =")[0] in page
    assert "It spent one of the examinations that can promote; 22 are left." in page
    assert "Told only" not in page
    assert held[0].record in page
    assert f"{100 * verdict.smallest_gain:+.1f} points" in page
    assert (f"after {100 * verdict.asked:.0f} % of the questions" in page) == (verdict.look < 5)


@pytest.mark.parametrize("form", FORMS)
def test_a_report_that_is_only_told_says_so(held: Held, form: str) -> None:
    page = shown(held, form, told_only=True)
    assert "Told only: it was not held against the champion with all its suites" in page
    assert "It spent one" not in page


@pytest.mark.parametrize("form", FORMS)
def test_each_suite_has_its_row_with_interval_and_counts(held: Held, form: str) -> None:
    page = html.unescape(shown(held, form))
    for finding in held[0].verdict.findings:
        assert finding.suite in page
        if finding.whole:
            one = finding.whole
            assert f"{one.difference:+.1%} ({one.low:+.1%} to {one.high:+.1%})" in page
            assert f"{one.wins} / {one.ties} / {one.losses}" in page
            assert -1 <= one.low <= one.difference <= one.high <= 1
    assert [one.suite for one in held[0].verdict.findings] == ["target", "guard", "told", "leak"]
    assert "only told" in page
    assert "target: answered nothing" in page


@pytest.mark.parametrize("form", FORMS)
def test_what_was_left_out_is_told_with_its_reason(held: Held, form: str) -> None:
    page = shown(held, form)
    assert "no <sandbox>" not in page
    assert re.search(r"coding\\?\|x.*left out: no &lt;sandbox", page)


@pytest.mark.parametrize("form", FORMS)
def test_costs_are_told(held: Held, form: str) -> None:
    cost = Cost(player="b", asked=5, kept=7, tokens=30, seconds=2.0, first_token=0.125)
    page = shown(held, form, costs=(cost, Cost(player="a")))
    row = next(line for line in page.splitlines() if "15" in line and "0.125" in line)
    assert re.findall(r"(?<![\d.:])\d+(?:\.\d+)?(?![\d.:])", re.sub("<[^>]*>", " ", row).replace("v1", ""))[-6:] == [
        "5", "7", "30", "2.0", "15", "0.125",
    ]  # fmt: skip
    assert "Peak memory of the examination: 123 MB." in page
    assert "Peak memory" not in shown(held, form, memory=None)


@pytest.mark.parametrize("form", FORMS)
def test_the_judge_is_told_and_that_it_decides_nothing(held: Held, form: str) -> None:
    page = shown(held, form)
    assert "it decides nothing" in page
    assert "3 wins, 4 ties, 2 losses" in page
    assert "In 1 pairs it preferred a place" in page
    assert "It agrees with 75.0% of 8 gold stars." in page
    assert "no gold stars to check it by" in shown(held, form, opinion=Opinion(judge="m"))
    assert "judge" not in shown(held, form, opinion=None)


@pytest.mark.parametrize("form", FORMS)
def test_what_got_worse_stands_side_by_side(held: Held, form: str) -> None:
    page = html.unescape(shown(held, form))
    worse = page[page.index("Got worse") : page.index("Got better")]
    assert re.search(r"target <request> number \d+\?", worse)
    assert re.search(r"target answer \d+", worse)
    assert "alert" in worse
    assert "(nothing)" in worse
    assert worse.count("target <request>") == 2
    better = page[page.index("Got better") :]
    assert re.search(r"target <request> number \d+\?", better)
    assert "told <request> number 4?" not in page, "neither player had it right"


@pytest.mark.parametrize("form", FORMS)
def test_tags_that_enough_questions_have_are_told(held: Held, form: str) -> None:
    page = shown(held, form)
    part = page[page.index("By tag") : page.index("Got worse")]
    assert "odd" in part
    assert "even" in part
    assert "told" not in part.replace("only told", ""), "two or three questions say nothing of a tag"


@pytest.mark.parametrize("form", FORMS)
def test_a_report_without_texts_quotes_no_request_and_no_answer(held: Held, form: str) -> None:
    page = html.unescape(shown(held, form, texts=False))
    assert "request>" not in page
    assert "answer 0" not in page
    assert "alert" not in page
    assert "T <script>" not in page
    assert "july" in page
    for finding in held[0].verdict.findings:
        assert finding.suite in page


@pytest.mark.parametrize("form", ["html", "md"])
def test_what_contained_the_programs_is_told(held: Held, form: str) -> None:
    assert "docker: namespaces, image sha256:" in shown(held, form)


def test_html_escapes_whatever_is_said(held: Held) -> None:
    page = shown(held, "html")
    assert not re.search(r"<(?:script|request|base|b|i|u|img|sandbox)\b", page)
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; | a &amp; b\n| --- |" in page
    for tag in ("table", "tr", "td", "div", "p", "h2"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag
    assert not re.search(r"\b(?:src|href)=", page), "a report loads nothing"


def test_marks_of_whole_gains_and_falls_are_inside_their_picture(tmp_path: Path) -> None:
    suites = [suite_of(tmp_path / f"{name}.jsonl", name, role) for name, role in (("up", "target"), ("down", "told"))]
    up, down = ({q.request: q.reference for q in suite.questions()} for suite in suites)
    found, _ = examine(
        Known("a", down), Known("b", up), [(suite, GENERATION) for suite in suites], looks_before=0,
        answers=tmp_path / "answers",
    )  # fmt: skip
    page = render(found, {}, Context(names=("a", "b"), base="seed"), form="html")
    assert {float(middle) for middle in re.findall(r'cx="([^"]*)"', page)} == {5.0, 155.0}
    assert 'viewBox="0 0 160 16"' in page


def test_markdown_keeps_what_is_said_inside_its_cell(held: Held) -> None:
    page = shown(held, "md")
    assert not re.search(r"<(?:script|request|b|i|u|sandbox|/td)\b", page)
    assert not re.search(r"(?<!\\)\]\(", page), "no link and no picture"
    tables = [block.splitlines() for block in re.split(r"\n\s*\n", page) if block.lstrip().startswith("|")]
    assert len(tables) >= 5
    for table in tables:
        assert set(table[1]) <= set("|-"), table[1]
        assert {len(cells(line)) for line in table} == {len(cells(table[0]))}, table
    row = next(line for line in page.splitlines() if "alert" in line)
    said = html.unescape(re.sub(r"\\(.)", r"\1", cells(row)[4]))
    assert said == " ".join(EVIL.split())


def test_long_texts_are_cut_off_in_markdown_only(held: Held) -> None:
    found, questions, context = held
    long = "word " * 1000
    changed = {
        name: tuple(q.model_copy(update={"reference": long}) for q in asked) for name, asked in questions.items()
    }
    assert long.strip() in render(found, changed, context, form="html")
    assert max(map(len, render(found, changed, context, form="md").splitlines())) < 2000


@pytest.mark.parametrize("form", FORMS)
def test_the_same_examination_gives_the_same_bytes(held: Held, form: str) -> None:
    found, questions, context = held
    again = Examination.model_validate_json(found.model_dump_json())
    assert render(again, dict(reversed(questions.items())), context, form=form) == shown(held, form)


@pytest.mark.parametrize("form", FORMS)
def test_an_examination_that_decided_nothing_has_a_report(tmp_path: Path, form: str) -> None:
    target = suite_of(tmp_path / "a.jsonl", "few", "target", 3)
    found, costs = examine(
        Known("a", {}), Known("b", {}), [(target, GENERATION)], looks_before=0, answers=tmp_path / "answers"
    )
    page = render(
        found, {"few": target.questions()}, Context(names=("base", "v1"), base="seed", costs=costs), form=form
    )
    assert found.verdict.outcome == "CANNOT DECIDE"
    assert "CANNOT DECIDE" in page
    assert "few is not alive" in page
    assert "It spent nothing." in page
    assert "0 questions asked" in html.unescape(page) or "| few | target | 0 | 3 |" in page


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

    def player(identity: str, right: list[str]) -> Known:
        said = {f"{n}": str(dict.fromkeys(names, 1)).replace("'", '"') for n, names in enumerate(right)}
        return Known(identity, said)

    target = suite_of(tmp_path / "t.jsonl", "t", "target")
    both = {q.request: q.reference for q in target.questions()}
    sides = (player("a", champion), player("b", challenger))
    for side in sides:
        side.said |= both
    return examine(
        *sides, [(target, GENERATION), (suite, GENERATION)], looks_before=0, answers=tmp_path / "answers"
    )[0]  # fmt: skip


def test_win_rate_gold_stars_ratings_and_consistency(tmp_path: Path) -> None:
    """Scores 1, 0.4, 0, 0.6 against 1, 0.8, 1, 0.2: ratings 5, 2.6, 1, 3.4 against 5, 4.2, 5, 1.8."""
    held = scores(tmp_path, ["abcde", "ab", "", "abc"], ["abcde", "abcd", "abcde", "a"])
    found = compare(held.results[1])
    assert found.win_rate == pytest.approx(2 / 3)  # two wins, one loss, one tie
    assert found.gold_star_rate == (0.25, 0.5)
    assert found.avg_rating == (pytest.approx(3.0), pytest.approx(4.0))
    # (2^2 + 0.4^2 + 2^2 + 0.4^2) / 4 = 2.08 and (1 + 0.2^2 + 1 + 2.2^2) / 4 = 1.72
    assert found.consistency_score == (pytest.approx(2.08**0.5), pytest.approx(1.72**0.5))
    page = render(held, {}, Context(names=("a", "b"), base="seed"), form="md")
    assert "| x | 66.7% | 25.0% -> 50.0% | 3.00 -> 4.00 | 1.44 -> 1.31 |" in page


def test_equal_players_win_half(tmp_path: Path) -> None:
    held = scores(tmp_path, ["abcde", "ab"], ["abcde", "cd"])
    found = compare(held.results[1])
    assert (found.win_rate, found.gold_star_rate, found.suite) == (0.5, (0.5, 0.5), "x")


def test_a_suite_that_was_not_asked_compares_to_nothing(tmp_path: Path) -> None:
    target = suite_of(tmp_path / "a.jsonl", "few", "target", 3)
    held, _ = examine(
        Known("a", {}), Known("b", {}), [(target, GENERATION)], looks_before=0, answers=tmp_path / "answers"
    )
    found = compare(held.results[0])
    assert (found.win_rate, found.gold_star_rate, found.avg_rating) == (0.5, (0.0, 0.0), (0.0, 0.0))
