"""The family tree: read page by page, drawn with escaped text, and described on MLflow's page."""

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
from academy.loop.genealogy import _line
from academy.store.ledger_rows import PromotionEntry, RollbackEntry
from tests.registry import House

EVIL = '"]; click n1 "javascript:alert(1)" <script>&amp;\x00\x0b**bold** [x](y) `'


def node(number: int, parent: str = "base", *, promoted: bool = False, **facts: object) -> Node:
    version = Version(
        version=str(number), adapter=f"{number:064x}", order="", generation=1, parent=parent, dataset="d" * 64,
        verdict="HOLD", run="", created=0,
    ).model_copy(update=facts)  # fmt: skip
    deployed = Deployment(seq=number, at="", action="deploy", version=str(number), adapter=version.adapter)
    return Node(version=version, recipe={}, events=(deployed,) if promoted else ())


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
    """Every third version became champion; the others have the champion of their time as parent."""
    nodes, champion = [], "base"
    for number in range(1, count + 1):
        nodes.append(node(number, champion, promoted=number % 3 == 0))
        champion = str(number) if number % 3 == 0 else champion
    return tree(*nodes)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_pages_meet_without_gap_or_overlap(house: House) -> None:
    for value in range(7):
        house.train(float(value))
    house.make_champion(house.versions.get("7"))
    newest = family_tree(house.versions, house.ledger, "seed", 3)
    assert [member.version.version for member in newest.nodes] == ["5", "6", "7"]
    assert [member.version.champion for member in newest.nodes] == [False, False, True]
    older = family_tree(house.versions, house.ledger, "seed", 3, newest.before)
    oldest = family_tree(house.versions, house.ledger, "seed", 3, older.before)
    assert [member.version.version for page in (oldest, older) for member in page.nodes] == ["1", "2", "3", "4"]
    assert oldest.before is None
    assert [version.version for version in house.versions.newest()] == list("7654321")


def test_node_shows_its_changes(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    house.make_champion(first)
    house.make_champion(second)
    house.rollback()
    page = family_tree(house.versions, house.ledger, "seed")
    events = {
        member.version.version: [(event.action, event.version) for event in member.events] for member in page.nodes
    }
    assert events == {
        "1": [("deploy", "1"), ("deploy", "2"), ("rollback", "1")],
        "2": [("deploy", "2"), ("rollback", "1")],
    }
    assert [member.ever_champion for member in page.nodes] == [True, True]
    assert (page.champion, page.missing) == ("1", "")


def test_champion_deleted_in_mlflow_is_reported(house: House) -> None:
    house.make_champion(house.train(1.0))
    house.versions.client.delete_model_version(house.versions.family, "1")
    page = family_tree(house.versions, house.ledger, "seed")
    assert page.nodes == ()
    assert page.missing == "v1, the champion, was deleted in MLflow. It still answers."
    assert "v1" in drawing.text(page) + page.missing


@pytest.mark.parametrize(
    ("tag", "value"), [("generation", "many"), ("recipe", "{no json"), ("parent", EVIL), ("metric.f1", "nan")]
)
def test_edited_tags_do_not_break_a_page(house: House, tag: str, value: str) -> None:
    version = house.train(1.0)
    house.versions.set_tags(version.version, {tag: value.replace("\x00", "")})
    page = family_tree(house.versions, house.ledger, "seed")
    ET.fromstring(drawing.svg(page))  # noqa: S314  our own image
    assert drawing.text(page)
    describe(house.versions, house.ledger, "1")


def test_versions_are_found_by_number_label_order_and_adapter(house: House) -> None:
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
    family = line(count)
    image = ET.fromstring(drawing.svg(family))  # noqa: S314  our own image
    names = [element.tag.rpartition("}")[2] for element in image]
    assert (names.count("circle"), names.count("path")) == (count + 1, count)
    assert len(drawing.text(family).splitlines()) == count + 1
    assert len(re.findall(r"^ +\w+ --> \w+$", drawing.mermaid(family), re.MULTILINE)) == count
    lanes = {place.lane for place in drawing.layout(family)[1]}
    assert lanes <= {0, 1}, "a line of champions with its children needs two lanes, whatever its length"


def test_rows_of_one_lane_are_not_confused() -> None:
    """After a rollback a branch starts at an older champion: its line does not cross the younger ones."""
    family = tree(node(1, promoted=True), node(2, "1", promoted=True), node(3, "1"), node(4, "2"), node(5, "99"))
    lines, places = drawing.layout(family)
    by_number = {row.number: place for row, place in zip(lines, places, strict=True)}
    assert not by_number["3"].direct
    assert by_number["4"].direct
    assert by_number["5"].parent == [row.number for row in lines].index("99")
    assert "v99  not on this page" in drawing.text(family)


def test_cycle_of_parents_is_drawn_without_a_cycle() -> None:
    family = tree(node(1, "2"), node(2, "1"), node(3, "3"))
    ET.fromstring(drawing.svg(family))  # noqa: S314  our own image
    assert len(drawing.text(family).splitlines()) == 4


def test_text_from_people_is_escaped_everywhere() -> None:
    family = tree(node(1, verdict=EVIL), node(2, "1", champion=True, tainted=True))
    image = drawing.svg(family)
    assert "<script" not in image
    assert [element.tag.rpartition("}")[2] for element in ET.fromstring(image).iter()].count("script") == 0  # noqa: S314
    chart = drawing.mermaid(family)
    (label,) = re.findall(r'^    n1\["(.*)"\]$', chart, re.MULTILINE)
    assert not set(label) & set('"[]<>;') - {";"}
    assert "#34;#93;#59; click" in label
    assert "click n1" not in chart.replace(label, "")


# --- MLflow's page ---------------------------------------------------------------------------------------------------


def test_description_follows_the_changes(house: House) -> None:
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
    assert "rollback from v2 to v1 \\(a test\\), by tester" in text(second)


def test_description_escapes_text_from_people_and_fits_the_limit(house: House) -> None:
    version = house.train(1.0)
    house.versions.set_tags("1", {"verdict_because": EVIL.replace("\x00", "") + "long " * 2000})
    describe(house.versions, house.ledger, "1")
    markdown = str(house.versions.client.get_model_version(house.versions.family, version.version).description)
    assert len(markdown) <= MAX_CHARACTERS
    assert "<script" not in markdown.replace("\\<script", "")
    assert escape("[x](y) <b>") == "\\[x\\]\\(y\\) \\<b\\>"


def test_text_names_a_rollback_once(house: House) -> None:
    for value in (1.0, 2.0):
        house.make_champion(house.train(value))
    house.rollback("v1")
    (row,) = house.ledger.rows(RollbackEntry)
    assert _line(row) == "rollback from v2 to v1 (a test), by tester"
    assert [_line(row).partition(":")[0] for row in house.ledger.rows(PromotionEntry)] == ["promotion", "promotion"]
