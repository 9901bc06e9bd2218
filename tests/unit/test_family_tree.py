"""The family tree: read page by page, drawn so that nothing people write breaks it, told in MLflow's own page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from academy.errors import InputError
from academy.genealogy import drawing
from academy.genealogy.description import MAX_CHARACTERS, describe, escape
from academy.genealogy.history import Deployment
from academy.genealogy.tree import FamilyTree, Node, family_tree
from academy.genealogy.versions import Version
from tests.registry import House

EVIL = '"]; click n1 "javascript:alert(1)" <script>&amp;\x00\x0b**bold** [x](y) `'


def node(number: int, parent: str = "base", *, crowned: bool = False, **facts: object) -> Node:
    version = Version(
        version=str(number), adapter=f"{number:064x}", order="", generation=1, parent=parent, dataset="d" * 64,
        verdict="HOLD", run="", created=0,
    ).model_copy(update=facts)  # fmt: skip
    deployed = Deployment(seq=number, at="", action="deploy", version=str(number), adapter=version.adapter)
    return Node(version=version, recipe={}, events=(deployed,) if crowned else ())


def tree(*nodes: Node) -> FamilyTree:
    return FamilyTree(
        family="academy-test",
        base="seed",
        champion="base",
        champion_adapter="base",
        missing="",
        nodes=nodes,
        before=None,
    )


def line(count: int) -> FamilyTree:
    """Every third version became champion, the others hang on the champion of their time."""
    nodes, champion = [], "base"
    for number in range(1, count + 1):
        nodes.append(node(number, champion, crowned=number % 3 == 0))
        champion = str(number) if number % 3 == 0 else champion
    return tree(*nodes)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_pages_meet_without_gap_or_overlap(house: House) -> None:
    for value in range(7):
        house.train(float(value))
    house.make_champion(house.versions.get("7"))
    newest = family_tree(house.versions, house.ledger, "seed", 3)
    assert [one.version.version for one in newest.nodes] == ["5", "6", "7"]
    assert [one.version.champion for one in newest.nodes] == [False, False, True]
    older = family_tree(house.versions, house.ledger, "seed", 3, newest.before)
    oldest = family_tree(house.versions, house.ledger, "seed", 3, older.before)
    assert [one.version.version for page in (oldest, older) for one in page.nodes] == ["1", "2", "3", "4"]
    assert oldest.before is None
    assert [one.version for one in house.versions.newest()] == list("7654321")


def test_a_node_tells_what_happened_to_it(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    house.make_champion(first)
    house.make_champion(second)
    house.rollback()
    page = family_tree(house.versions, house.ledger, "seed")
    told = {one.version.version: [(event.action, event.version) for event in one.events] for one in page.nodes}
    assert told == {
        "1": [("deploy", "1"), ("deploy", "2"), ("rollback", "1")],
        "2": [("deploy", "2"), ("rollback", "1")],
    }
    assert [one.ever_champion for one in page.nodes] == [True, True]
    assert (page.champion, page.missing) == ("1", "")


def test_a_champion_that_was_deleted_in_mlflow_is_told(house: House) -> None:
    house.make_champion(house.train(1.0))
    house.versions.client.delete_model_version(house.versions.family, "1")
    page = family_tree(house.versions, house.ledger, "seed")
    assert page.nodes == ()
    assert page.missing == "v1, the champion, was deleted in MLflow; it answers all the same."
    assert "v1" in drawing.text(page) + page.missing


@pytest.mark.parametrize(
    ("tag", "value"), [("generation", "many"), ("recipe", "{no json"), ("parent", EVIL), ("metric.f1", "nan")]
)
def test_tags_that_people_edited_break_no_page(house: House, tag: str, value: str) -> None:
    version = house.train(1.0)
    house.versions.set_tags(version.version, {tag: value.replace("\x00", "")})
    page = family_tree(house.versions, house.ledger, "seed")
    ET.fromstring(drawing.svg(page))  # noqa: S314  our own image
    assert drawing.text(page)
    describe(house.versions, house.ledger, "1")


def test_versions_are_found_by_number_name_order_and_adapter(house: House) -> None:
    house.train(1.0)
    version = house.versions.set_label(house.train(2.0), "v1.1")
    for name in ("2", "v2", "v1.1", "order-2.0", version.adapter, version.adapter[:12]):
        assert house.versions.get(name).version == "2"
    for name in ("3", "v1.2", version.adapter[:11], "x' OR name = 'y", "%", ""):
        assert house.versions.find(name) is None
    for name in ("7", "v7", "base", "champion", "a'b", "", "-x", "Champion"):
        with pytest.raises(InputError):
            house.versions.set_label(version, name)
    house.versions.set_label(version, "spring-2")
    assert house.versions.client.get_model_version_by_alias(house.versions.family, "spring-2").version == 2


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 10, 200])
def test_every_version_has_a_row_and_its_parents_line(count: int) -> None:
    found = line(count)
    image = ET.fromstring(drawing.svg(found))  # noqa: S314  our own image
    names = [one.tag.rpartition("}")[2] for one in image]
    assert (names.count("circle"), names.count("path")) == (count + 1, count)
    assert len(drawing.text(found).splitlines()) == count + 1
    assert len(re.findall(r"^ +\w+ --> \w+$", drawing.mermaid(found), re.MULTILINE)) == count
    lanes = {place.lane for place in drawing.layout(found)[1]}
    assert lanes <= {0, 1}, "a line of champions and what hangs on it needs two lanes, however long it is"


def test_no_two_rows_of_a_lane_are_taken_for_each_other() -> None:
    """After a rollback a branch hangs on an older champion: its line does not run through the younger ones."""
    found = tree(node(1, crowned=True), node(2, "1", crowned=True), node(3, "1"), node(4, "2"), node(5, "99"))
    lines, places = drawing.layout(found)
    by_number = {one.number: place for one, place in zip(lines, places, strict=True)}
    assert not by_number["3"].direct
    assert by_number["4"].direct
    assert by_number["5"].parent == [one.number for one in lines].index("99")
    assert "v99  not on this page" in drawing.text(found)


def test_a_circle_of_parents_is_drawn_as_what_it_is_not() -> None:
    found = tree(node(1, "2"), node(2, "1"), node(3, "3"))
    ET.fromstring(drawing.svg(found))  # noqa: S314  our own image
    assert len(drawing.text(found).splitlines()) == 4


def test_nothing_that_people_write_leaves_its_place() -> None:
    found = tree(node(1, verdict=EVIL), node(2, "1", champion=True, tainted=True))
    image = drawing.svg(found)
    assert "<script" not in image
    assert [one.tag.rpartition("}")[2] for one in ET.fromstring(image).iter()].count("script") == 0  # noqa: S314
    drawn = drawing.mermaid(found)
    (label,) = re.findall(r'^    n1\["(.*)"\]$', drawn, re.MULTILINE)
    assert not set(label) & set('"[]<>;') - {";"}
    assert "#34;#93;#59; click" in label
    assert "click n1" not in drawn.replace(label, "")


# --- MLflow's page ---------------------------------------------------------------------------------------------------


def test_the_description_follows_what_happens(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    house.make_champion(first)

    def text(version: Version) -> str:
        return str(house.versions.client.get_model_version(house.versions.family, version.version).description)

    assert "**champion**" in text(first)
    house.make_champion(second)
    assert "**champion**" not in text(first)
    assert "v2 replaces v1" in text(first)
    house.rollback()
    assert "**champion**" in text(first)
    assert "back to v1 from v2 \\(a test\\), by tester" in text(second)


def test_a_description_is_plain_where_people_write_and_fits(house: House) -> None:
    version = house.train(1.0)
    house.versions.set_tags("1", {"verdict_because": EVIL.replace("\x00", "") + "long " * 2000})
    describe(house.versions, house.ledger, "1")
    found = str(house.versions.client.get_model_version(house.versions.family, version.version).description)
    assert len(found) <= MAX_CHARACTERS
    assert "<script" not in found.replace("\\<script", "")
    assert escape("[x](y) <b>") == "\\[x\\]\\(y\\) \\<b\\>"
