"""Repositories of arbitrary bytes, seeded from the messages of the cases: every commit is accounted for, in time.

Objects are written as by `git hash-object --literally`: any bytes, under their own id. ACADEMY_TEST_FUZZ_SECONDS
bounds the time; the counts are printed at the end.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from academy.experience.experience import Experience
from academy.experience.git.repository import EMPTY_TREES
from academy.experience.sources.base import Skipped
from academy.experience.sources.commits import CommitsSource
from tests.foreign import budget
from tests.foreign.cases import cases_of

TOGETHER = 50
"""Examples between two looks at the clock."""
SLOWEST = 10.0
PREVIOUS = -1
"""The place of the previous commit; places without a commit stand for a missing one."""
ANN = b"author Ann <ann@example.com> 1773300000 +0000"
SIGNS = [
    b"\0", b"\n", b"\n\n", b"\r", b"\x1b[31m", b"\x1d", b"\x1e", b"\x1f", b"\x1ecommit\x1f", b"<", b">", b" ", b":",
    ANN, b"author ", b"committer ", b"parent ", b"tree ", b"encoding ", b"gpgsig ", b"9" * 20, b" -2400", b"+9999",
    b"diff --git a/x b/x", b"@@ -1 +1 @@", b":100644 100644 ", b"0" * 40, b"\xff\xfe", b"\xc3\xa9", b"\xe2\x80\xae",
    b"Revert ", b"Merge ", b"This reverts commit ", b"utf-16", b"zlib_codec", b"ISO-8859-2", b"unicode_escape", b"\n ",
    b"x" * 2000, b"[bot]", b"\t", b"-",
]  # fmt: skip
MODES = [b"100644", b"100755", b"120000", b"160000", b"40000", b"040000", b"100664", b"0", b"777777", b""]


def seeds() -> list[bytes]:
    """What the scripts of the cases print: messages, whole commits, names."""
    texts = [text for case in cases_of("git") for text in re.findall(r"printf '([^']+)'", case.input["script"])]
    return [re.sub(rb"\\(0[0-7]{2}|n)", _sign, text.encode()) for text in texts]


def _sign(match: re.Match[bytes]) -> bytes:
    return b"\n" if match[1] == b"n" else bytes([int(match[1], 8)])


BYTES = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from(SIGNS) | st.binary(max_size=6) | st.sampled_from(seeds()), max_size=6).map(b"".join),
)
WORDS = st.sampled_from([b"Close the sluice at high water", b"Open the gate", b"Begin"])


@dataclass
class Plan:
    """A commit to be written: its header and message, the places of its parents among the earlier ones, its files."""

    author: bytes
    headers: bytes
    message: bytes
    parents: list[int]
    entries: list[tuple[bytes, bytes, int]]
    mutation: tuple[int, bytes] | None


def sorted_by_name(entries: list[tuple[bytes, bytes, int]]) -> list[tuple[bytes, bytes, int]]:
    """The entries of a tree in git's order."""
    return sorted(entries, key=lambda entry: entry[1])


@dataclass
class Written:
    """A repository that was written, and the commits that can be reached from its branch."""

    path: Path
    reachable: set[str] = field(default_factory=set)
    is_regular: bool = True


PLANS = st.lists(
    st.builds(
        Plan,
        author=st.just(ANN)
        | st.just(ANN)
        | st.just(ANN)
        | st.just(ANN)
        | st.just(b"author Bo <bo@example.com> 1773300000 +0000")
        | BYTES.map(lambda b: b"author " + b),
        headers=st.just(b"")
        | st.just(b"")
        | st.just(b"")
        | BYTES.map(lambda b: b"\n" + b)
        | BYTES.map(lambda b: b"\nencoding " + b),
        message=WORDS | BYTES | st.tuples(WORDS, BYTES).map(b"\n\n".join),
        parents=st.just([-1]) | st.just([-1]) | st.lists(st.integers(-2, 8), max_size=4),
        entries=st.lists(st.tuples(st.sampled_from(MODES), BYTES, st.integers(0, 12)), max_size=4),
        mutation=st.none() | st.none() | st.none() | st.none() | st.tuples(st.integers(0, 400), BYTES),
    ),
    min_size=1,
    max_size=8,
)
SOUND = st.lists(
    st.builds(
        Plan,
        author=st.just(ANN),
        headers=st.just(b""),
        message=st.tuples(WORDS, BYTES).map(b"\n\n".join) | WORDS,
        parents=st.just([-1]),
        entries=st.lists(
            st.tuples(
                st.sampled_from([b"100644", b"100755", b"120000"]),
                st.sampled_from([b"b.py", b"c d", b"\xff"]),
                st.integers(0, 3),
            ),
            max_size=2,
            unique_by=lambda entry: entry[1],
        ).map(sorted_by_name),
        mutation=st.none(),
    ),
    min_size=2,
    max_size=8,
)


@st.composite
def mutated(draw: st.DrawFn) -> list[Plan]:
    """Sound commits, of which at most two are replaced by arbitrary ones."""
    plans = draw(SOUND)
    for plan in draw(PLANS)[: draw(st.integers(0, 2))]:
        plans[draw(st.integers(0, len(plans) - 1))] = plan
    return plans


DAMAGE = (
    st.just([])
    | st.just([])
    | st.just([])
    | st.just([])
    | st.lists(st.tuples(st.integers(0, 60), st.none() | st.binary(max_size=30)), max_size=3)
)


class Loose:
    """A repository of loose objects, written without git."""

    def __init__(self, path: Path) -> None:
        self.git = path / ".git"
        for name in ("objects", "refs/heads"):
            (self.git / name).mkdir(parents=True)
        (self.git / "HEAD").write_text("ref: refs/heads/main\n")
        (self.git / "config").write_text("[core]\n\trepositoryformatversion = 0\n")
        self.ids: list[str] = []

    def write(self, kind: str, content: bytes) -> str:
        """Write an object; returns its id."""
        content = f"{kind} {len(content)}\0".encode() + content
        name = hashlib.sha1(content).hexdigest()  # noqa: S324  git's own
        file = self.file(name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(zlib.compress(content, 1))
        self.ids.append(name)
        return name

    def file(self, name: str) -> Path:
        """The file of an object."""
        return self.git / "objects" / name[:2] / name[2:]


def write(path: Path, plans: list[Plan], damage: list[tuple[int, bytes | None]]) -> Written:
    """Write a repository with a commit for each plan; the last one is the branch's."""
    loose, written = Loose(path), Written(path)
    blobs = [loose.write("blob", content) for content in (b"", b"one\n", b"one\ntwo\n", b"\0\1\2", b"x" * 300_000)]
    trees, commits = [EMPTY_TREES["sha1"]], []
    parents_of: dict[str, set[str]] = {}
    for n, plan in enumerate(plans):
        objects = [*blobs, *trees, *commits, "12" * 20]
        entries = (
            (mode, name.replace(b"\0", b"") or b"f", objects[place % len(objects)])
            for mode, name, place in plan.entries
        )
        content = b"".join(mode + b" " + name + b"\0" + bytes.fromhex(sha) for mode, name, sha in entries)
        trees.append(loose.write("tree", b"100644 a.py\0" + bytes.fromhex(blobs[n % 3]) + content))
        parents = [_parent(commits, place) for place in plan.parents if commits or place != PREVIOUS]
        content = b"tree " + trees[-1].encode() + b"".join(b"\nparent " + parent.encode() for parent in parents)
        content += b"\n" + plan.author + b"\ncommitter Bo <bo@example.com> %d +0000" % (1773300000 + n) + plan.headers
        content += b"\n\n" + plan.message
        if plan.mutation:
            at, insertion = plan.mutation
            content = content[:at] + insertion + content[at + len(insertion) :]
            written.is_regular = False
        commits.append(loose.write("commit", content))
        parents_of[commits[-1]] = set(parents)
    for place, content in damage:
        file = loose.file(loose.ids[place % len(loose.ids)])
        if content is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(content)
        written.is_regular = False
    (loose.git / "refs" / "heads" / "main").write_text(f"{commits[-1]}\n")
    queue = [commits[-1]]
    while queue:
        if (name := queue.pop()) not in written.reachable:
            written.reachable.add(name)
            queue += parents_of.get(name, ())
    return written


def _parent(commits: list[str], place: int) -> str:
    """An earlier commit, the previous one, or one that does not exist."""
    return commits[place] if PREVIOUS <= place < len(commits) and commits else f"{place % 10}" * 40


def authors_by_git(path: Path, shas: list[str]) -> dict[str, str]:
    """The authors of commits as git prints them."""
    form = ("--no-walk=unsorted", "-z", "--format=%H%n%an", "--stdin")
    command = ["git", "-C", str(path), "-c", "log.mailmap=false", "log", *form]
    output = subprocess.run(command, input="\n".join(shas).encode(), capture_output=True, check=True).stdout
    return dict(record.decode("utf-8", errors="replace").split("\n", 1) for record in output.split(b"\0") if record)


@pytest.mark.campaign
def test_arbitrary_repositories_are_accounted_for() -> None:
    counts: Counter[str] = Counter()
    until = time.monotonic() + budget.SECONDS

    @settings(
        max_examples=TOGETHER,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated() | mutated() | mutated() | PLANS, DAMAGE, st.sampled_from([(), ("Ann",), ("ann@example.com",)]))
    def fuzz(plans: list[Plan], damage: list[tuple[int, bytes | None]], trusted: tuple[str, ...]) -> None:
        with tempfile.TemporaryDirectory(prefix="academy-fuzz-") as name:
            written = write(Path(name), plans, damage)
            began = time.monotonic()
            items = list(CommitsSource(written.path, 100, trusted=trusted).read())
            assert time.monotonic() - began < SLOWEST
            learned = {item.provenance["commit"]: item for item in items if isinstance(item, Experience)}
            skipped = [item for item in items if isinstance(item, Skipped)]
            names = [*(sha[:12] for sha in learned), *(item.what for item in skipped)]
            assert len(names) == len(set(names))
            assert all(item.because for item in skipped)
            if written.is_regular:
                assert set(names) == {sha[:12] for sha in written.reachable}
            plain = [sha for sha, item in learned.items() if item.author.isascii()]
            if plain:
                by_git = authors_by_git(written.path, plain)
                assert {sha: learned[sha].author for sha in plain} == by_git
            counts.update(item.because for item in skipped)
            counts.update({"repositories": 1, "learned": len(learned)})

    while time.monotonic() < until:
        fuzz()
    print(f"\n{counts['repositories']} repositories: {dict(counts.most_common())}")
    assert counts["repositories"]
