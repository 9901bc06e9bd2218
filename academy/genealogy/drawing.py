"""The family tree as a drawing: for a terminal, as SVG and as Mermaid.

One row per version, oldest first, like the commits of `git log --graph`: a line of champions stays in its lane, other
versions branch off to the right and free their lane at their end. So 1, 10 or 200 versions stay readable with few
lanes. Text from people is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.sax.saxutils import escape

from academy.genealogy.history import version_name
from academy.genealogy.tree import FamilyTree, Node
from academy.records import Record
from academy.store.ledger import BASE

ROW, LANE, LEFT, TOP, RADIUS, LETTER = 30, 26, 24, 64, 7, 7.3
COLOURS = {"champion": "#b8860b", "was champion": "#2e7d32", "REJECT": "#c62828", "HOLD": "#757575"}
OTHER = "#1565c0"


class Position(Record):
    """Position of a row in the drawing, and the source of its line."""

    lane: int
    parent: int | None  # row of the parent; None for the base model and for parents on other pages
    through: tuple[int, ...]  # lanes with lines that pass this row
    direct: bool  # no other row of the parent's lane lies between: the line can follow that lane


class Line(Record):
    """A row: the base model, a parent on another page, or a version."""

    number: str
    text: str
    node: Node | None = None


def text(tree: FamilyTree) -> str:
    """The tree for a terminal."""
    lines, places = layout(tree)
    rows = []
    lanes = 1 + max(place.lane for place in places)
    for line, place in zip(lines, places, strict=True):
        cells = ["| " if lane in place.through else "  " for lane in range(lanes)]
        if place.parent is not None and places[place.parent].lane < place.lane:
            start = places[place.parent].lane
            cells[start] = "|-" if place.direct else cells[start]
            for lane in range(start + 1 if place.direct else place.lane, place.lane):
                cells[lane] = "--"
        cells[place.lane] = "o " if line.node is None or not line.node.version.champion else "@ "
        rows.append("".join(cells[: place.lane + 1] + cells[place.lane + 1 :]).rstrip() + "  " + line.text)
    return "\n".join(rows)


def svg(tree: FamilyTree) -> str:
    """The tree as one SVG image with its own colours, readable on light and dark pages."""
    lines, places = layout(tree)
    lanes = 1 + max(place.lane for place in places)
    words = LEFT + lanes * LANE + 8
    width = max(520, words + int(LETTER * max(len(line.text) for line in lines)) + LEFT)
    height = TOP + ROW * len(lines) + 16
    title = f"Family {tree.family}: {len(tree.nodes)} versions, champion {version_name(tree.champion)}"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="img" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">',
        f"<title>{_xml(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="28" font-size="15" font-weight="bold" fill="#111111">{_xml(title)}</text>',
    ]
    if tree.before is not None or tree.missing:
        note = tree.missing or f"Older versions: --before {tree.before}"
        out.append(f'<text x="{LEFT}" y="46" fill="#555555">{_xml(note)}</text>')
    out += [_path(n, place, places) for n, place in enumerate(places) if place.parent is not None]
    for n, (line, place) in enumerate(zip(lines, places, strict=True)):
        x, y = _point(n, place)
        colour = _colour(line.node)
        champion = line.node is not None and line.node.version.champion
        fill = colour if champion or _was_champion(line.node) else "#ffffff"
        dashes = ' stroke-dasharray="3 2"' if line.node is not None and line.node.version.tainted else ""
        out.append(
            f'<circle cx="{x}" cy="{y}" r="{RADIUS + 2 * champion}" fill="{fill}" stroke="{colour}" '
            f'stroke-width="2.5"{dashes}/>'
        )
        weight = ' font-weight="bold"' if champion else ""
        out.append(f'<text x="{words}" y="{y + 4}" fill="#111111"{weight}>{_xml(line.text)}</text>')
    return "\n".join([*out, "</svg>", ""])


def mermaid(tree: FamilyTree) -> str:
    """The tree as a Mermaid flowchart."""
    lines, _ = layout(tree)
    out = ["flowchart TD", *(f'    {_id(line.number)}["{_mermaid(line.text)}"]' for line in lines)]
    out += [f"    {_id(node.version.parent)} --> {_id(node.version.version)}" for node in tree.nodes]
    kinds: dict[str, list[str]] = {}
    for node in tree.nodes:
        kinds.setdefault(_colour(node), []).append(_id(node.version.version))
    for n, (colour, ids) in enumerate(sorted(kinds.items())):
        out += [f"    classDef kind{n} stroke:{colour},stroke-width:2px", f"    class {','.join(ids)} kind{n}"]
    return "\n".join([*out, ""])


def layout(tree: FamilyTree) -> tuple[list[Line], list[Position]]:
    """Rows and their positions. Every version is one row below its parent."""
    lines = [Line(number=BASE, text=f"base  {tree.base}" + ("  <- champion" if tree.champion == BASE else ""))]
    lines += [Line(number=number, text=f"v{number}  not on this page") for number in tree.elsewhere()]
    lines += [Line(number=node.version.version, text=version_line(node), node=node) for node in tree.nodes]
    row = {line.number: n for n, line in enumerate(lines)}
    # a parent that was edited in MLflow into a younger version must not create a cycle
    parents = [_above(row.get(line.node.version.parent), n) if line.node else None for n, line in enumerate(lines)]
    children: dict[int, list[int]] = {}
    for n, parent in enumerate(parents):
        if parent is not None:
            children.setdefault(parent, []).append(n)
    heir = {
        parent: max(champions)
        for parent, rows in children.items()
        if (champions := [n for n in rows if _was_champion(lines[n].node)])
    }
    chains = []  # each one a line of descent in one lane, from its first row to the last child of its rows
    for n in range(len(lines)):
        parent = parents[n]
        if parent is None or heir.get(parent) != n:
            chain = list(_descent(n, heir))
            chains.append((chain, max(max(children.get(n, [n])[-1], n) for n in chain)))
    lanes = [0] * len(lines)
    busy: list[int] = []  # for each lane, the last row in use
    spans: list[tuple[int, int, int]] = []
    for chain, last in chains:
        above = parents[chain[0]]
        lowest = lanes[above] + 1 if above is not None else 0
        lane = next((k for k in range(lowest, len(busy)) if busy[k] < chain[0]), max(lowest, len(busy)))
        busy += [-1] * (lane + 1 - len(busy))
        busy[lane] = last
        spans.append((lane, chain[0], last))
        for n in chain:
            lanes[n] = lane
    places = []
    for n, parent in enumerate(parents):
        between = range(parent + 1, n) if parent is not None else range(0)
        places.append(
            Position(
                lane=lanes[n],
                parent=parent,
                through=tuple(sorted({lane for lane, first, last in spans if first < n <= last and lane != lanes[n]})),
                direct=parent is not None and not any(lanes[k] == lanes[parent] for k in between),
            )
        )
    return lines, places


def version_line(node: Node) -> str:
    """One line on a version: name, generation, verdict with its score, dataset, status."""
    version = node.version
    words = [version.name + (f" ({version.label})" if version.label else "")]
    words.append(f"generation {version.generation}, {version.verdict}")
    if difference := version.scores.get("score_difference"):
        words[1] += f" {difference} ({version.scores.get('score_interval', '')})"
    words.append(f"dataset {version.dataset[:12]}" if version.dataset else "no dataset")
    words.append(f"parent {version_name(version.parent)}")
    if node.status:
        words.append(f"<- {node.status}")
    return "  ".join(" ".join(word.split()) for word in words)


def _above(parent: int | None, row: int) -> int | None:
    return parent if parent is not None and parent < row else None


def _descent(first: int, heir: dict[int, int]) -> Iterator[int]:
    row: int | None = first
    while row is not None:
        yield row
        row = heir.get(row)


def _was_champion(node: Node | None) -> bool:
    return node is not None and (node.version.champion or node.ever_champion)


def _colour(node: Node | None) -> str:
    if node is None:
        return "#555555"
    if node.version.champion:
        return COLOURS["champion"]
    if _was_champion(node):
        return COLOURS["was champion"]
    return COLOURS.get(node.version.verdict, OTHER)


def _point(row: int, place: Position) -> tuple[int, int]:
    return LEFT + place.lane * LANE + LANE // 2, TOP + row * ROW + ROW // 2


def _path(row: int, place: Position, places: list[Position]) -> str:
    """A line down the parent's lane and across; or a curve if other rows of that lane lie between."""
    x, y = _point(row, place)
    above = place.parent or 0
    px, py = _point(above, places[above])
    if place.direct or px == x:
        way, dashes = f"M {px} {py} V {y} H {x}", ""
    else:
        way, dashes = f"M {px} {py} C {px + LANE} {py + ROW} {x - LANE} {y - ROW} {x} {y}", ' stroke-dasharray="5 3"'
    return f'<path d="{way}" fill="none" stroke="#9e9e9e" stroke-width="2"{dashes}/>'


def _xml(words: str) -> str:
    """Text for XML; characters that are invalid in XML are omitted."""
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", words))


def _mermaid(words: str) -> str:
    """Text for a quoted label: all but a few harmless characters become Mermaid entities."""
    return "".join(char if char.isalnum() or char in " .,:-+" else f"#{ord(char)};" for char in words)


def _id(number: str) -> str:
    """A node's id. Parents are tags that people can edit."""
    return "n" + re.sub(r"\W", "_", number, flags=re.ASCII)
