"""Commits are read from real repositories; those that teach nothing are skipped with a reason."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from academy.curriculum.filters import reason_to_drop
from academy.errors import InputError
from academy.experience.experience import Experience
from academy.experience.git.history import Pair
from academy.experience.git.repository import refusal_of
from academy.experience.sources.base import Skipped
from academy.experience.sources.commits import LARGEST_PATCH, LONGEST_REQUEST, CommitsSource


class Repository:
    """A git repository that is written to by git itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.commits = 0
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str, author: str = "Ana") -> str:
        self.commits += 1
        when = f"2026-07-01T{self.commits // 60:02}:{self.commits % 60:02}:00+02:00"
        own_names = {f"GIT_{role}_{field}" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL", "DATE")}
        inherited = {name: value for name, value in os.environ.items() if name not in own_names}
        identity = {
            "GIT_AUTHOR_NAME": author, "GIT_COMMITTER_NAME": author, "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_EMAIL": "a@example.org", "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when,
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
        }  # fmt: skip
        process = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env={**inherited, **identity},
            capture_output=True,
            text=True,
            check=True,
        )
        return process.stdout.strip()

    def commit(self, subject: str, content: str | bytes, name: str = "file.txt", author: str = "Ana") -> str:
        (self.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        self.git("add", name)
        self.git("commit", "-q", "--allow-empty-message", "-m", subject, author=author)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def read(path: Path, limit: int = 100) -> tuple[list[Experience], dict[str, str]]:
    items = list(CommitsSource(path, limit).read())
    commits = [item for item in items if isinstance(item, Experience)]
    return commits, {item.what: item.because for item in items if isinstance(item, Skipped)}


def test_a_commit_becomes_its_change_and_its_subject(repository: Repository) -> None:
    repository.commit("Start", "one\ntwo\n")
    sha = repository.commit("Say three instead of two", "one\nthree\n")
    commits, reasons = read(repository.path)
    assert [item.answer for item in commits] == ["Start", "Say three instead of two"]
    assert reasons == {}
    assert commits[1].request == "Write the subject line for this change: file.txt\n-two\n+three"
    assert (commits[1].kind, commits[1].author, commits[1].outcome, commits[1].seq) == ("commit", "Ana", "success", 0)
    assert commits[1].provenance == {"commit": sha, "repository": "repository"}
    assert commits[1].at.startswith("2026-07-01T")


def test_a_second_reading_gives_the_same_records(repository: Repository) -> None:
    for n in range(3):
        repository.commit(f"Change {n}", f"content {n}\n")
    assert read(repository.path) == read(repository.path)
    assert len({item.id for item in read(repository.path)[0]}) == 3


def test_merges_reverts_bots_and_binaries_are_skipped_with_a_reason(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    repository.git("checkout", "-q", "-b", "side")
    repository.commit("Work on the side", "side\n", "side.txt")
    repository.git("checkout", "-q", "main")
    repository.commit("Work on main", "two\n")
    repository.git("merge", "-q", "--no-ff", "-m", "Bring the side in", "side")
    merge = repository.git("rev-parse", "HEAD")
    bot = repository.commit("Bump a library", "three\n", author="dependabot[bot]")
    binary = repository.commit("Add a picture", bytes(range(256)) * 4, "picture.png")
    repository.git("revert", "--no-edit", bot)
    revert = repository.git("rev-parse", "HEAD")
    repository.git("commit", "-q", "--allow-empty", "-m", "Nothing changed")
    empty = repository.git("rev-parse", "HEAD")
    commits, reasons = read(repository.path)
    assert [item.answer for item in commits] == ["Start", "Work on the side", "Work on main"]
    assert reasons == {
        merge[:12]: "a merge or revert",
        bot[:12]: "written by a bot",
        binary[:12]: "only binary files changed",
        revert[:12]: "a merge or revert",
        empty[:12]: "no text changed",
    }


def test_a_commit_without_a_message_is_dropped(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    sha = repository.commit("", "two\n")
    commits, reasons = read(repository.path)
    left_out = set(reasons) | {item.provenance["commit"][:12] for item in commits if reason_to_drop(item)}
    assert left_out == {sha[:12]}


def test_other_alphabets_are_preserved(repository: Repository) -> None:
    repository.commit("Zażółć gęślą jaźń 🚢", "zażółć\n", "łódź.txt", author="Błażej Żółć")
    repository.commit("Latin bytes", b"caf\xe9\n", "latin.txt")
    commits, _ = read(repository.path)
    assert (commits[0].answer, commits[0].author) == ("Zażółć gęślą jaźń 🚢", "Błażej Żółć")
    assert commits[0].request == "Write the subject line for this change: łódź.txt\n+zażółć"
    assert "caf" in commits[1].request


def test_a_file_that_imitates_git_log_changes_nothing(repository: Repository) -> None:
    mark = "\x1ecommit\x1f" + "0" * 40 + "\x1fEve\x1f2026\x1fForged"
    repository.commit("Start", f"{mark}\n--- a line\n+++ another\ndiff --git a/x b/y\n")
    commits, reasons = read(repository.path)
    assert ([item.answer for item in commits], reasons) == (["Start"], {})
    assert commits[0].request.startswith("Write the subject line for this change: file.txt\n")


def test_a_line_that_begins_with_dashes_is_a_changed_line(repository: Repository) -> None:
    repository.commit("Start", "-- a comment of SQL\nselect 1;\n", "query.sql")
    repository.commit("Drop the comment", "select 1;\n", "query.sql")
    commits, reasons = read(repository.path)
    assert reasons == {}
    assert commits[1].request == "Write the subject line for this change: query.sql\n--- a comment of SQL"


def test_a_large_patch_is_skipped_and_a_long_one_is_cut(repository: Repository) -> None:
    large = repository.commit("Add a large file", "a line of text\n" * (LARGEST_PATCH // 10), "large.txt")
    repository.commit("Add a long file", "".join(f"line {n} of the text\n" for n in range(200)), "long.txt")
    commits, reasons = read(repository.path)
    assert reasons == {large[:12]: "patch too large"}
    (long,) = commits
    assert LONGEST_REQUEST - 40 < len(long.request) <= LONGEST_REQUEST


def test_the_limit_keeps_the_newest_commits_in_order(repository: Repository) -> None:
    for n in range(5):
        repository.commit(f"Change {n}", f"content {n}\n")
    assert [item.answer for item in read(repository.path, 2)[0]] == ["Change 3", "Change 4"]
    assert read(repository.path, 0) == ([], {})


def test_a_repository_without_commits_gives_a_reason(repository: Repository) -> None:
    assert read(repository.path) == ([], {str(repository.path): "the history is empty"})


def test_a_folder_inside_a_repository_reads_the_repository(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    (repository.path / "deep").mkdir()
    assert [item.answer for item in read(repository.path / "deep")[0]] == ["Start"]
    assert refusal_of(repository.path / "deep") is None


def test_a_shallow_clone_is_read_to_its_boundary(repository: Repository, tmp_path: Path) -> None:
    for n in range(4):
        repository.commit(f"Change {n}", f"content {n}\n")
    repository.git("clone", "-q", "--depth", "2", f"file://{repository.path}", str(tmp_path / "shallow"))
    commits, _ = read(tmp_path / "shallow")
    assert commits[-1].answer == "Change 3"
    assert commits[-1].request.endswith("-content 2\n+content 3")


def test_the_boundary_of_a_shallow_clone_is_not_a_change(repository: Repository, tmp_path: Path) -> None:
    repository.commit("Start", "".join(f"line {n}\n" for n in range(9)))
    repository.commit("Change one line", "".join(f"line {n}\n" for n in range(8)) + "other\n")
    repository.git("clone", "-q", "--depth", "1", f"file://{repository.path}", str(tmp_path / "shallow"))
    for item in read(tmp_path / "shallow")[0]:
        assert "line 3" not in item.request


def test_a_bare_repository_is_read(repository: Repository, tmp_path: Path) -> None:
    repository.commit("Start", "one\n")
    repository.git("clone", "-q", "--bare", str(repository.path), str(tmp_path / "bare.git"))
    assert [item.answer for item in read(tmp_path / "bare.git")[0]] == ["Start"]


@pytest.mark.parametrize("name", ["nothing", "folder", "file"])
def test_a_path_outside_a_repository_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is not a git repository\.") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)
    assert refusal_of(tmp_path / name) is not None


def test_a_missing_commit_is_skipped_with_the_one_that_is_compared_with_it(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    repository.commit("Next", "two\n")
    repository.commit("Last", "three\n")
    first, second = (repository.git("rev-parse", f"HEAD~{n}") for n in (2, 1))
    (repository.path / ".git" / "objects" / first[:2] / first[2:]).unlink()
    commits, reasons = read(repository.path)
    assert [item.answer for item in commits] == ["Last"]
    assert reasons == {first[:12]: "an object is missing", second[:12]: "an object is missing"}


def test_git_settings_of_the_user_do_not_change_the_result(repository: Repository) -> None:
    repository.commit("Start", "one\ntwo\n")
    repository.commit("Next", "one\nthree\n")
    before = read(repository.path)
    for name, value in (("diff.noprefix", "true"), ("diff.mnemonicPrefix", "true"), ("color.ui", "always")):
        repository.git("config", name, value)
    repository.git("config", "log.showSignature", "true")
    assert read(repository.path) == before


def test_git_variables_of_the_caller_do_not_select_another_repository(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("Start", "one\n")
    second = Repository(tmp_path / "other")
    second.commit("Elsewhere", "two\n")
    monkeypatch.setenv("GIT_DIR", str(second.path / ".git"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(second.path / ".git" / "objects"))
    assert [item.answer for item in read(repository.path)[0]] == ["Start"]


def test_a_commit_reverted_later_is_skipped(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    bad = repository.commit("Turn it round", "two\n")
    repository.git("revert", "--no-edit", bad)
    good = repository.commit("Add the other file", "x\n", "other.txt")
    repository.git("revert", "--no-edit", good)
    repository.git("revert", "--no-edit", repository.git("rev-parse", "HEAD"))  # taken back, and put back again
    commits, reasons = read(repository.path)
    assert [item.answer for item in commits] == ["Start", "Add the other file"]
    assert reasons[bad[:12]] == "reverted later"


def test_commits_of_untrusted_authors_are_skipped(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    untrusted = repository.commit("Bring in something", "two\n", author="Bo")
    items = list(CommitsSource(repository.path, 100, trusted=["Ana"]).read())
    assert [item.answer for item in items if isinstance(item, Experience)] == ["Start"]
    assert Skipped(what=untrusted[:12], because="an author who is not trusted") in items
    items = list(CommitsSource(repository.path, 100, trusted=["a@example.org"]).read())
    assert len([item for item in items if isinstance(item, Experience)]) == 2


@pytest.mark.parametrize("subject", ["wip", "Fix", "update.", "...", "x"])
def test_a_subject_that_says_nothing_is_skipped(repository: Repository, subject: str) -> None:
    repository.commit("Start", "one\n")
    sha = repository.commit(subject, "two\n")
    assert read(repository.path)[1] == {sha[:12]: "a subject that says nothing"}


def test_commits_of_only_submodules_or_modes_are_skipped(repository: Repository) -> None:
    first = repository.commit("Start", "one\n")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{first},module")
    repository.git("commit", "-q", "-m", "Move the module")
    link = repository.git("rev-parse", "HEAD")
    (repository.path / "file.txt").chmod(0o755)
    repository.git("commit", "-q", "-m", "Make it a program", "file.txt")
    mode = repository.git("rev-parse", "HEAD")
    assert read(repository.path)[1] == {link[:12]: "only submodules changed", mode[:12]: "only modes changed"}


def test_a_message_in_another_encoding_is_read(repository: Repository) -> None:
    repository.git("config", "i18n.commitEncoding", "ISO-8859-2")
    (repository.path / "file.txt").write_text("one\n")
    (repository.path / "message").write_bytes("Dodaj żółtą łódź".encode("iso-8859-2"))
    repository.git("add", "file.txt")
    repository.git("commit", "-q", "-F", "message")
    assert [item.answer for item in read(repository.path)[0]] == ["Dodaj żółtą łódź"]


def test_a_missing_object_skips_only_its_commit(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    bad = repository.commit("Lose a file", "two\n", "lost.txt")
    repository.commit("Next", "three\n")
    blob = repository.git("rev-parse", f"{bad}:lost.txt")
    (repository.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    commits, reasons = read(repository.path)
    assert [item.answer for item in commits] == ["Start", "Next"]
    assert reasons == {bad[:12]: "an object is missing"}


# --- the cache of extracted texts


def read_cached(repository: Repository, cache: Path, limit: int = 100) -> list[Experience | Skipped]:
    return list(CommitsSource(repository.path, limit, cache=cache).read())


def test_an_unchanged_repository_is_read_from_the_cache(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("Start", "one\n")
    repository.commit("wip", "two\n")
    first = read_cached(repository, tmp_path / "kept")

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("academy.experience.sources.commits.newest_commits", never)
    assert read_cached(repository, tmp_path / "kept") == first


def test_a_new_commit_costs_one_patch_and_a_revert_changes_the_cached_reason(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from academy.experience.sources import commits

    repository.commit("Start", "one\n")
    bad = repository.commit("Turn it round", "two\n")
    read_cached(repository, tmp_path / "kept")
    requested: list[list[Pair]] = []
    real = commits.patches
    monkeypatch.setattr(
        commits, "patches", lambda view, pairs, largest: (requested.append(list(pairs)), real(view, pairs, largest))[1]
    )
    repository.git("revert", "--no-edit", bad)
    repository.commit("Say three", "three\n")
    items = read_cached(repository, tmp_path / "kept")
    trees = (repository.git("rev-parse", f"{name}^{{tree}}") for name in ("HEAD~1", "HEAD"))
    assert requested == [[Pair(*trees)]]
    assert [item.answer for item in items if isinstance(item, Experience)] == ["Start", "Say three"]
    assert Skipped(what=bad[:12], because="reverted later") in items
    assert items == list(CommitsSource(repository.path, 100).read())


def test_a_damaged_or_foreign_cache_is_ignored(repository: Repository, tmp_path: Path) -> None:
    repository.commit("Start", "one\n")
    first = read_cached(repository, tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    for content in (b"", b"{}", b"[1]", b'{"key": 1, "rules": 4, "commits": 3}', file.read_bytes()[:-9]):
        file.write_bytes(content)
        assert read_cached(repository, tmp_path / "kept") == first
    assert read_cached(repository, tmp_path / "kept", limit=1) == first
