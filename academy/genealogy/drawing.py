"""The family tree drawn: for a terminal, as SVG and as Mermaid.

One row for each version, oldest first, as `git log --graph` draws commits: a line of champions keeps its lane, the
others branch off to the right and give their lane back where they end. So one version, ten or 200 in a line stay
readable, and only as many lanes are used as live side by side. Everything that people can write is escaped.
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


class Place(Record):
    """Where a row of the drawing stands, and from where its line comes."""

    lane: int
    parent: int | None  # row of the parent; None for the base model and for parents that are not on this page
    through: tuple[int, ...]  # lanes whose lines pass this row
    direct: bool  # nobody else of the parent's lane stands between: the line can follow it


class Line(Record):
    """A row: the base model, a parent that is elsewhere, or a version."""

    number: str
    text: str
    node: Node | None = None


def text(tree: FamilyTree) -> str:
    """The tree for a terminal."""
    lines, places = layout(tree)
    drawn = []
    for line, place in zip(lines, places, strict=True):
        cells = ["| " if lane in place.through else "  " for lane in range(1 + max(one.lane for one in places))]
        if place.parent is not None and places[place.parent].lane < place.lane:
            start = places[place.parent].lane
            cells[start] = "|-" if place.direct else cells[start]
            for lane in range(start + 1 if place.direct else place.lane, place.lane):
                cells[lane] = "--"
        cells[place.lane] = "o " if line.node is None or not line.node.version.champion else "@ "
        drawn.append("".join(cells[: place.lane + 1] + cells[place.lane + 1 :]).rstrip() + "  " + line.text)
    return "\n".join(drawn)


def svg(tree: FamilyTree) -> str:
    """The tree as one SVG image with its own colours, readable in light and dark pages."""
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
        fill = colour if champion or _was(line.node) else "#ffffff"
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


def layout(tree: FamilyTree) -> tuple[list[Line], list[Place]]:
    """Rows and where they stand. Every version is one row, below its parent."""
    lines = [Line(number=BASE, text=f"base  {tree.base}" + ("  <- champion" if tree.champion == BASE else ""))]
    lines += [Line(number=one, text=f"v{one}  not on this page") for one in tree.elsewhere()]
    lines += [Line(number=node.version.version, text=version_line(node), node=node) for node in tree.nodes]
    row = {line.number: n for n, line in enumerate(lines)}
    # a parent edited in MLflow into something younger must not make a circle
    parents = [_above(row.get(line.node.version.parent), n) if line.node else None for n, line in enumerate(lines)]
    children: dict[int, list[int]] = {}
    for n, parent in enumerate(parents):
        if parent is not None:
            children.setdefault(parent, []).append(n)
    heir = {
        parent: max(crowned)
        for parent, born in children.items()
        if (crowned := [n for n in born if _was(lines[n].node)])
    }
    chains = []  # each a line of descent: it keeps one lane from its first row to the last that hangs on it
    for n in range(len(lines)):
        parent = parents[n]
        if parent is None or heir.get(parent) != n:
            chain = list(_descent(n, heir))
            chains.append((chain, max(max(children.get(one, [one])[-1], one) for one in chain)))
    lanes = [0] * len(lines)
    busy: list[int] = []  # of each lane, the last row that is taken
    spans: list[tuple[int, int, int]] = []
    for chain, last in chains:
        above = parents[chain[0]]
        lowest = lanes[above] + 1 if above is not None else 0
        lane = next((k for k in range(lowest, len(busy)) if busy[k] < chain[0]), max(lowest, len(busy)))
        busy += [-1] * (lane + 1 - len(busy))
        busy[lane] = last
        spans.append((lane, chain[0], last))
        for one in chain:
            lanes[one] = lane
    places = []
    for n, parent in enumerate(parents):
        between = range(parent + 1, n) if parent is not None else range(0)
        places.append(
            Place(
                lane=lanes[n],
                parent=parent,
                through=tuple(sorted({lane for lane, first, last in spans if first < n <= last and lane != lanes[n]})),
                direct=parent is not None and not any(lanes[k] == lanes[parent] for k in between),
            )
        )
    return lines, places


def version_line(node: Node) -> str:
    """One line on a version: name, generation, verdict with its score, dataset, standing."""
    one = node.version
    words = [one.name + (f" ({one.label})" if one.label else ""), f"generation {one.generation}, {one.verdict}"]
    if difference := one.scores.get("score_difference"):
        words[1] += f" {difference} ({one.scores.get('score_interval', '')})"
    words.append(f"dataset {one.dataset[:12]}" if one.dataset else "no dataset")
    words.append(f"parent {version_name(one.parent)}")
    if node.status:
        words.append(f"<- {node.status}")
    return "  ".join(" ".join(word.split()) for word in words)


def _above(parent: int | None, row: int) -> int | None:
    return parent if parent is not None and parent < row else None


def _descent(first: int, heir: dict[int, int]) -> Iterator[int]:
    one: int | None = first
    while one is not None:
        yield one
        one = heir.get(one)


def _was(node: Node | None) -> bool:
    return node is not None and (node.version.champion or node.ever_champion)


def _colour(node: Node | None) -> str:
    if node is None:
        return "#555555"
    if node.version.champion:
        return COLOURS["champion"]
    if _was(node):
        return COLOURS["was champion"]
    return COLOURS.get(node.version.verdict, OTHER)


def _point(row: int, place: Place) -> tuple[int, int]:
    return LEFT + place.lane * LANE + LANE // 2, TOP + row * ROW + ROW // 2


def _path(row: int, place: Place, places: list[Place]) -> str:
    """From the parent down its lane and over; or a curve of its own where others of that lane stand between."""
    x, y = _point(row, place)
    above = place.parent or 0
    px, py = _point(above, places[above])
    if place.direct or px == x:
        way, dashes = f"M {px} {py} V {y} H {x}", ""
    else:
        way, dashes = f"M {px} {py} C {px + LANE} {py + ROW} {x - LANE} {y - ROW} {x} {y}", ' stroke-dasharray="5 3"'
    return f'<path d="{way}" fill="none" stroke="#9e9e9e" stroke-width="2"{dashes}/>'


def _xml(words: str) -> str:
    """Text for XML; characters that XML does not know are left out."""
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", words))


def _mermaid(words: str) -> str:
    """Text for a quoted label: every sign but a few harmless ones as Mermaid's entity."""
    return "".join(one if one.isalnum() or one in " .,:-+" else f"#{ord(one)};" for one in words)


def _id(number: str) -> str:
    """A node's id; parents are tags that people can edit."""
    return "n" + re.sub(r"\W", "_", number, flags=re.ASCII)
