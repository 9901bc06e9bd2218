"""Examined texts are found in training examples, however they are quoted."""

from __future__ import annotations

import pickle
import random
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from academy.curriculum.decontamination import RUN, GuardedSuite, Overlap, OverlapIndex, count_overlaps

TEXT = """def total(prices, tax):
    net = sum(prices)
    if tax is None:
        return net
    return round(net * (1 + tax), 2)"""
SENTENCE = "Which port does the billing service listen on in the staging environment of Gdynia?"
WORDS = ("deploy", "staging", "ticket", "invoice", "rotate", "key", "port", "żuraw", "Straße", "harbour", "x_1", "42")


def found(guarded: OverlapIndex, request: str, answer: str = "") -> list[Overlap]:
    """What is found, one by one and in a batch: always the same."""
    one = guarded.overlaps(request, answer)
    assert guarded.scan([("nothing", "at all"), (request, answer)]) == ({1: one} if one else {})
    return list(one)


def code(*texts: str, **options: bool) -> OverlapIndex:
    return OverlapIndex([GuardedSuite("coding", texts, **options)])


@pytest.mark.parametrize(
    ("example", "how"),
    [
        (f"Explain this:\n\n{TEXT}\n\nThanks", "exact"),
        (TEXT, "exact"),
        ("Explain:\n" + textwrap.indent(TEXT, "\t\t  "), "re-indented"),
        ("Explain:\n" + textwrap.indent(TEXT, "+"), "quoted in a diff"),
        ("Explain:\n" + textwrap.indent(TEXT, "> > "), "quoted in a diff"),
        ("Explain: " + " ".join(TEXT.split()).upper(), "normalised"),
        ("Explain:\n" + textwrap.fill(TEXT, 20), "normalised"),
        ('{"prompt": "' + TEXT.replace("\n", "\\n") + '"}', "normalised"),
        ("Explain:\n" + "\n".join(TEXT.splitlines()[:3]), "n-gram"),
    ],
)
def test_an_overlap_has_its_kind_of_match(example: str, how: str) -> None:
    (overlap,) = found(code("something else " * 6, TEXT), example)
    assert (overlap.suite, overlap.number, overlap.how) == ("coding", 1, how)


def test_the_additions_of_a_diff_are_read_without_what_they_replace() -> None:
    lines = [f"+{line}\n-    old_line_{n} = previous(value)" for n, line in enumerate(TEXT.splitlines())]
    diff = "diff --git a/total.py b/total.py\n@@ -1,5 +1,5 @@\n" + "\n".join(lines)
    (overlap,) = found(code(TEXT), "Write the subject line", diff)
    assert overlap.how == "quoted in a diff"


def test_the_file_after_a_change_is_read_with_the_lines_that_stayed() -> None:
    lines = [f" {line}" if n % 2 else f"-    gone = {n}\n+{line}" for n, line in enumerate(TEXT.splitlines())]
    assert found(code(TEXT), "\n".join(["@@ -1,5 +1,5 @@", *lines]))[0].how == "quoted in a diff"


def test_a_quote_is_read_without_the_replies_between() -> None:
    mail = "\n".join(f"> {line}\nI do not follow line {n}." for n, line in enumerate(TEXT.splitlines()))
    assert found(code(TEXT), mail)[0].number == 0


def test_invisible_characters_hide_nothing() -> None:
    assert found(code(SENTENCE), SENTENCE.replace("i", "i\u200b").replace("port", "ｐｏｒｔ"))


def test_a_shared_run_is_shown_as_long_as_it_is() -> None:
    (overlap,) = found(code(SENTENCE), "I ask: which port does the billing service listen on in the end?")
    assert overlap.how == "n-gram"
    assert overlap.matched == "which port does the billing service listen on in the"


def test_seven_shared_words_are_not_an_overlap() -> None:
    assert not found(code(SENTENCE), "Which port does the billing service listen to?")


def test_a_suite_can_guard_only_whole_texts() -> None:
    guarded = code(SENTENCE, shared_runs=False)
    assert not found(guarded, "I ask: which port does the billing service listen on in the end?")
    assert found(guarded, "I ask: " + SENTENCE.lower())


def test_a_short_text_counts_only_where_it_fills_lines() -> None:
    guarded = code("Rotate the staging key", "yes")
    assert found(guarded, "rotate the staging KEY!")[0].how == "normalised"
    assert found(guarded, "Hello,\n> Rotate the\n> staging key\nThanks")
    assert not found(guarded, "How do we rotate the staging key on Fridays?")
    assert found(guarded, "Yes.")
    assert not found(guarded, "Is it up?\nyes")


def test_the_holdout_is_compared_with_requests_and_other_suites_with_examples() -> None:
    guarded = OverlapIndex([GuardedSuite("recall", [SENTENCE], requests_only=True), GuardedSuite("coding", [TEXT])])
    assert [o.suite for o in found(guarded, SENTENCE, "8080")] == ["recall"]
    assert not found(guarded, "What do people ask?", SENTENCE)
    assert [o.suite for o in found(guarded, "Add up", TEXT)] == ["coding"]
    assert [o.suite for o in found(guarded, TEXT, SENTENCE)] == ["coding"]
    begin, end = TEXT[:60], TEXT[60:]
    assert [o.suite for o in found(guarded, begin, end)] == ["coding"]


def test_a_common_phrase_of_a_suite_is_not_an_overlap() -> None:
    frame = "Please write one short subject line for the following change: "
    guarded = code(*(f"{frame}module{n}.py uses cache number {n}" for n in range(20)))
    assert not found(guarded, frame + "something that no suite guards")
    assert found(guarded, frame + "module7.py uses cache number 7")[0].number == 7


def test_boilerplate_is_removed_before_comparing() -> None:
    frame = "Please write one short subject line for the following change: "
    guarded = OverlapIndex([GuardedSuite("commits", [frame + "alpha beta"])], boilerplate=[frame])
    assert not found(guarded, frame + "gamma")
    assert found(guarded, frame + "alpha beta")


def test_a_user_can_allow_one_shared_run() -> None:
    example = "I ask: which port does the billing service listen on in the end?"
    (overlap,) = code(SENTENCE).overlaps(example)
    guarded = OverlapIndex([GuardedSuite("coding", [SENTENCE])], allowed=[overlap.key])
    assert not found(guarded, example)
    assert not found(guarded, "Again: " + example), "the same phrase of the same text"
    assert found(guarded, SENTENCE)
    (whole,) = guarded.overlaps(f"Translate: {SENTENCE}")
    again = OverlapIndex([GuardedSuite("coding", [SENTENCE])], allowed=[overlap.key, whole.key])
    assert not found(again, f"Translate: {SENTENCE}")
    assert found(again, f"Repeat: {SENTENCE}"), "a whole text is allowed in one example only"


texts = st.lists(st.sampled_from(WORDS), min_size=RUN, max_size=30)
other = st.lists(st.sampled_from(("alpha", "beta", "gamma", "delta")), max_size=12).map(" ".join)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(st.lists(texts, min_size=1, max_size=12), st.randoms(use_true_random=False), other, other)
def test_every_example_with_a_guarded_text_is_found(
    many: list[list[str]], chance: random.Random, before: str, after: str
) -> None:
    guarded = code(*(textwrap.fill(" ".join(words), chance.randrange(20, 60)) for words in many))
    number = chance.randrange(len(many))
    mark = chance.choice(("", "    ", "\t", "+", "-", "> ", "+    ", ">> ", "| ", "# ", "// ", " * "))
    body = textwrap.fill(" ".join(many[number]), chance.randrange(12, 100))
    example = "\n".join((before, textwrap.indent(body, mark), after))
    if chance.random() < 0.3:
        example = example.upper().replace("\n", "\r\n")
    assert number in {overlap.number for overlap in found(guarded, example)}


@settings(deadline=None, max_examples=60)
@given(st.lists(texts, min_size=1, max_size=6), texts, st.integers(0, 20))
def test_an_example_without_a_shared_run_is_not_found(many: list[list[str]], asked: list[str], cut: int) -> None:
    """Against a plain scan that compares every run with every other."""
    folded = [[word.casefold() for word in words] for words in many]
    mine = [word.casefold() for word in asked]

    def runs(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}

    expected = {n for n, words in enumerate(folded) if runs(words) & runs(mine)}
    assert {overlap.number for overlap in found(code(*map(" ".join, many)), " ".join(asked))} == expected


def test_another_process_finds_the_same_overlaps() -> None:
    guarded = OverlapIndex([GuardedSuite("coding", [TEXT])], allowed=["a"], boilerplate=["b"])
    again = pickle.loads(pickle.dumps(guarded))  # noqa: S301
    assert again.overlaps(TEXT) == guarded.overlaps(TEXT)
    assert (again.allowed, again.boilerplate, len(again)) == (guarded.allowed, guarded.boilerplate, 1)


def test_an_empty_index_finds_nothing() -> None:
    assert not found(OverlapIndex([]), TEXT)
    assert not found(code(), "")
    assert not found(code("", "?!"), "")


def test_count_overlaps_counts_by_suite_and_kind() -> None:
    guarded = code(TEXT)
    assert count_overlaps([guarded.overlaps(TEXT), guarded.overlaps(TEXT), ()]) == {"overlaps with coding (exact)": 2}
