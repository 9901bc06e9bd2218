"""An origin is on one side only, and the first assignment is permanent."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from academy.curriculum.carrying import opposed
from academy.curriculum.holdout import Assignment, GroupedRequest, Holdout, request_key
from academy.curriculum.similarity import NEAR, jaccard, near_between, near_pairs, shingles
from academy.store.database import Database, assignments

NewDatabase = Callable[[], Database]

LEFT, RIGHT = "acegibdfhj", "jhfdbigeca"
"""Put before or behind 40 letters, they make two texts that are not near; half of each makes one near to both."""
WORDS = ("deploy", "staging", "ticket", "invoice", "rotate", "password")
wordings = st.builds(
    lambda words, ending, upper: (" ".join(words).upper() if upper else " ".join(words)) + ending,
    st.lists(st.sampled_from(WORDS), min_size=2, max_size=6),
    st.sampled_from(["", "?", " now", " please", "  !"]),
    st.booleans(),
)


def requests_for(texts: list[str]) -> list[GroupedRequest]:
    """Each text with an answer of its own choosing, always the same one."""
    return [GroupedRequest(text=text, suite="recall", group=f"answer {len(text) % 3}") for text in texts]


def key(text: str) -> str:
    return request_key("recall", text)


def one_each(texts: list[str]) -> list[str]:
    return list({key(text): text for text in texts}.values())


def near(first: str, second: str) -> bool:
    return jaccard(shingles(first), shingles(second)) >= NEAR


def one_question(first: GroupedRequest, second: GroupedRequest) -> bool:
    """Whether two requests may not be on both sides."""
    shares_salt = any(a == b for a, b in zip(first.salts, second.salts, strict=True))
    return near(first.text, second.text) and shares_salt and not opposed(first.text, second.text)


def dissimilar(count: int, seed: int = 0) -> list[str]:
    """Requests that are near to no other."""
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=40)) for _ in range(count)]


def assign(holdout: Holdout, *texts: str) -> dict[str, Assignment]:
    return holdout.assign(requests_for(list(texts)))


def assign_wordings(holdout: Holdout, answer: str, *texts: str) -> dict[str, Assignment]:
    return holdout.assign(GroupedRequest(text=text, suite="recall", group=answer) for text in texts)


def held_and_trained(holdout: Holdout) -> tuple[str, str]:
    """A held-out request and a trained one that are not near to each other."""
    texts = dissimilar(20)
    places = holdout.assign(GroupedRequest(text=text, suite="recall", group="one answer") for text in texts)
    held = next(text for text in texts if places[key(text)].side == "holdout")
    return held, next(text for text in texts if places[key(text)].side == "train")


def test_similarity_compares_normalised_texts() -> None:
    assert shingles("  How DO we deploy?? ") == shingles("how do we deploy")
    assert jaccard(shingles("abc"), shingles("abc")) == 1
    assert jaccard(shingles("abc"), shingles("abd")) == 0
    assert jaccard(shingles("abcde"), shingles("abcdf")) == pytest.approx(1 / 3)


@given(st.lists(wordings, max_size=12))
def test_all_similar_pairs_are_found_and_no_others(texts: list[str]) -> None:
    """MinHash alone may miss a pair at the edge once in thousands; near duplicates it must find."""
    found = {(i, j): similarity for i, j, similarity in near_pairs(texts)}
    for i, j in itertools.combinations(range(len(texts)), 2):
        similarity = jaccard(shingles(texts[i]), shingles(texts[j]))
        if similarity >= 0.85:
            assert found[i, j] == similarity
        if similarity < NEAR:
            assert (i, j) not in found


def test_only_pairs_with_a_new_text_are_given() -> None:
    texts = ["deploy to staging", "deploy to staging!", "deploy to staging?"]
    assert [(i, j) for i, j, _ in near_pairs(texts, new_from=2)] == [(0, 2), (1, 2)]


@given(st.lists(wordings, max_size=8), st.lists(wordings, max_size=8))
def test_pairs_between_two_lists_equal_those_of_the_joined_list(first: list[str], second: list[str]) -> None:
    whole = [(i, j - len(first), n) for i, j, n in near_pairs([*first, *second], len(first)) if i < len(first)]
    assert list(near_between(first, second)) == whole


def test_a_request_key_covers_normalised_text_and_suite() -> None:
    assert key("How do we deploy?") == key("how  do we deploy")
    assert request_key("recall", "x y") != request_key("commits", "x y")


@settings(deadline=None, max_examples=25)
@given(st.lists(wordings, min_size=1, max_size=24), st.lists(st.integers(0, 24), max_size=3))
def test_an_origin_is_on_one_side_however_the_batches_come(
    new_database: NewDatabase, texts: list[str], cuts: list[int]
) -> None:
    holdout = Holdout(new_database())
    sides: dict[str, str] = {}
    edges = [0, *sorted(cuts), len(texts)]
    for begin, end in itertools.pairwise(edges):
        places = assign(holdout, *texts[begin:end])
        sides |= {text: places[key(text)].side for text in texts[begin:end]}
    for first, second in itertools.combinations(requests_for(texts), 2):
        if one_question(first, second):
            assert {sides[first.text], sides[second.text]} != {"train", "holdout"}, (first, second)
    holdout.database.engine.dispose()


@settings(deadline=None, max_examples=25)
@given(st.lists(wordings, min_size=1, max_size=16), st.lists(wordings, min_size=1, max_size=16))
def test_the_first_assignment_stands_when_more_comes(
    new_database: NewDatabase, before: list[str], after: list[str]
) -> None:
    holdout = Holdout(new_database())
    first = assign(holdout, *before)
    assign(holdout, *after)
    assert assign(holdout, *before) == first
    again = assign(holdout, *before, *after)
    assert {name: again[name] for name in first} == first
    holdout.database.engine.dispose()


@settings(deadline=None, max_examples=25)
@given(st.lists(wordings, min_size=1, max_size=24).map(one_each), st.randoms(use_true_random=False))
def test_assignments_do_not_depend_on_the_order_of_requests(
    new_database: NewDatabase, texts: list[str], chance: random.Random
) -> None:
    found = []
    for _ in range(2):
        holdout = Holdout(new_database())
        found.append(assign(holdout, *texts))
        holdout.database.engine.dispose()
        chance.shuffle(texts)
    assert found[0] == found[1]


def test_a_request_with_two_answers_is_assigned_independently_of_their_order(new_database: NewDatabase) -> None:
    for seed in range(10):
        asked = [GroupedRequest(text=text, suite="recall", group="one") for text in dissimilar(4, seed)]
        asked += [GroupedRequest(text=text, suite="recall", group="other") for text in dissimilar(4, seed + 100)]
        asked.append(asked[0].model_copy(update={"group": "other"}))
        assert Holdout(new_database()).assign(asked) == Holdout(new_database()).assign(asked[::-1])


def test_about_a_fifth_of_each_answers_wordings_is_held_out_and_never_all(database: Database) -> None:
    texts = iter(dissimilar(2000))
    asked = [
        GroupedRequest(text=next(texts), suite="recall", group=f"answer {size} {n}")
        for size in range(2, 13)
        for n in range(20)
        for _ in range(size)
    ]
    places = Holdout(database).assign(asked)
    held: dict[str, list[bool]] = defaultdict(list)
    for request in asked:
        held[request.group].append(places[key(request.text)].side == "holdout")
    assert all(any(group) and not all(group) for group in held.values())
    nine = [group for name, group in held.items() if name.startswith("answer 9 ")]
    assert all(sum(group) == 2 for group in nine)
    share = sum(map(sum, held.values())) / len(asked)
    assert 0.18 < share < 0.28


def test_about_a_fifth_of_answers_with_one_wording_is_held_out(database: Database) -> None:
    texts = dissimilar(1000, seed=3)
    places = Holdout(database).assign(GroupedRequest(text=t, suite="recall", group=t) for t in texts)
    assert 170 < sum(place.side == "holdout" for place in places.values()) < 270


def test_the_held_out_wordings_do_not_depend_on_the_order(database: Database) -> None:
    texts = dissimilar(200)
    places = Holdout(database).assign(GroupedRequest(text=text, suite="recall", group="one") for text in texts)
    held = [n for n, text in enumerate(texts) if places[key(text)].side == "holdout"]
    assert len(held) == 44
    assert 60 < sum(held) / len(held) < 140


def test_a_new_request_joins_the_side_and_origin_of_a_similar_one(database: Database) -> None:
    holdout = Holdout(database)
    for known in held_and_trained(holdout):
        before = assign(holdout, known)[key(known)]
        assert assign(holdout, known + "s")[key(known + "s")] == before


def test_a_new_request_similar_to_both_sides_joins_neither(database: Database) -> None:
    holdout = Holdout(database)
    for seed in range(20):
        stem = dissimilar(1, seed + 50)[0]
        left, right, between = LEFT + stem, stem + RIGHT, LEFT[-5:] + stem + RIGHT[:5]
        both = assign_wordings(holdout, stem, left, right)
        assert not near(left, right)
        assert near(left, between)
        assert near(right, between)
        assert {place.side for place in both.values()} == {"train", "holdout"}
        assert assign_wordings(holdout, stem, between)[key(between)].side == "neither"
        assert {p.side for p in assign_wordings(holdout, stem, left, right).values()} == {"train", "holdout"}
        assert assign_wordings(holdout, stem, between)[key(between)].side == "neither"


def test_two_new_requests_that_link_both_sides_join_neither(database: Database) -> None:
    holdout = Holdout(database)
    stem = dissimilar(1, 99)[0]
    known = assign_wordings(holdout, stem, LEFT + stem, stem + RIGHT)
    assert {place.side for place in known.values()} == {"train", "holdout"}
    chain = [LEFT[-6:] + stem, stem + RIGHT[:6]]
    assert near(*chain)
    assert not near(chain[0], stem + RIGHT)
    assert [place.side for place in assign_wordings(holdout, stem, *chain).values()] == ["neither", "neither"]


def test_suites_are_assigned_separately(database: Database) -> None:
    holdout = Holdout(database)
    held, trained = held_and_trained(holdout)
    places = holdout.assign(GroupedRequest(text=text, suite="commits", group=text) for text in (held, trained))
    assert set(places) == {request_key("commits", held), request_key("commits", trained)}
    origins = {place.origin for place in places.values()}
    assert origins.isdisjoint({place.origin for place in assign(holdout, held, trained).values()})


def test_a_holdout_sees_requests_that_another_one_stored(database: Database) -> None:
    mine, other = Holdout(database), Holdout(database)
    held, trained = held_and_trained(mine)
    before = assign(mine, held, trained)
    stranger = dissimilar(1, 7)[0]
    theirs = assign(other, stranger, held + "s")
    assert assign(mine, stranger + "s")[key(stranger + "s")] == theirs[key(stranger)]
    assert theirs[key(held + "s")] == before[key(held)]


def test_an_erased_request_attracts_no_similar_ones(database: Database) -> None:
    holder = Holdout(database)
    held, trained = held_and_trained(holder)
    assign(holder, held + "s")
    with database.write() as connection:
        connection.execute(sa.delete(assignments))
    place = assign(holder, held + "!!", trained + "s")[key(trained + "s")]
    assert place.origin == key(trained + "s")


@pytest.mark.slow
def test_a_thousand_wordings_of_one_answer_are_one_origin(database: Database) -> None:
    form = "Please restart the billing worker on the staging host before noon, and tell {} about it"
    names = dissimilar(1000)
    places = Holdout(database).assign(
        GroupedRequest(text=form.format(name[:4]), suite="recall", group="one") for name in names
    )
    assert len(set(places.values())) == 1


@pytest.mark.parametrize("many", [400])
def test_questions_of_one_template_are_origins_of_their_own(database: Database, many: int) -> None:
    forms = (
        "What does error {} of the crane controller mean and what should I do about it?",
        "What does the error {} of the crane controller mean, and what should we do about it?",
    )
    asked = [
        GroupedRequest(text=form.format(f"E{n:04}"), suite="recall", group=f"replace sensor {n}")
        for n in range(many)
        for form in forms
    ]
    places = Holdout(database).assign(asked)
    origins = [{places[key(form.format(f"E{n:04}"))].origin for form in forms} for n in range(many)]
    assert all(len(both) == 1 for both in origins)  # two wordings of one question stay together
    assert len(set().union(*origins)) == many
    assert 0.15 * many < sum(place.side == "holdout" for place in places.values()) / 2 < 0.3 * many


def test_requests_with_other_content_words_are_one_question_only_with_the_same_answer(database: Database) -> None:
    first, second = "How do I restart the northern crane service?", "How do I restart the southern crane service?"
    paraphrase = "How do I reboot the northern crane service?"
    assert near(first, second)
    assert near(first, paraphrase)
    requests = [("crane north", first), ("crane south", second), ("crane north", paraphrase)]
    places = Holdout(database).assign(GroupedRequest(text=t, suite="recall", group=group) for group, t in requests)
    assert places[key(first)] == places[key(paraphrase)]
    assert places[key(first)].origin != places[key(second)].origin


def test_an_empty_list_is_assigned_without_error(database: Database) -> None:
    assert Holdout(database).assign([]) == {}
