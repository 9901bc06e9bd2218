"""Commits are read from real repositories; what teaches nothing is skipped with a reason."""

from __future__ import annotations

import gc
import os
import subprocess
from pathlib import Path

import pytest

from academy.curriculum.filters import reason_to_drop
from academy.errors import InputError
from academy.experience.experience import Experience
from academy.experience.sources.base import Skipped
from academy.experience.sources.commits import LARGEST_PATCH, LONGEST_REQUEST, CommitsSource, is_repository


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
        mine = {f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL", "DATE")}
        kept = {name: value for name, value in os.environ.items() if name not in mine}
        identity = {
            "GIT_AUTHOR_NAME": author, "GIT_COMMITTER_NAME": author, "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_EMAIL": "a@example.org", "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when,
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
        }  # fmt: skip
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env={**kept, **identity}, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, subject: str, content: str | bytes, name: str = "file.txt", author: str = "Ana") -> str:
        (self.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        self.git("add", name)
        self.git("commit", "-q", "--allow-empty-message", "-m", subject, author=author)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def read(path: Path, limit: int = 100) -> tuple[list[Experience], dict[str, str]]:
    found = list(CommitsSource(path, limit).read())
    taken = [one for one in found if isinstance(one, Experience)]
    return taken, {one.what: one.because for one in found if isinstance(one, Skipped)}


def test_a_commit_is_its_change_and_its_subject(repository: Repository) -> None:
    repository.commit("Start", "one\ntwo\n")
    sha = repository.commit("Say three instead of two", "one\nthree\n")
    taken, skipped = read(repository.path)
    assert [one.answer for one in taken] == ["Start", "Say three instead of two"]
    assert skipped == {}
    assert taken[1].request == "Write the subject line for this change: file.txt\n-two\n+three"
    assert (taken[1].kind, taken[1].author, taken[1].outcome, taken[1].seq) == ("commit", "Ana", "success", 0)
    assert taken[1].provenance == {"commit": sha, "repository": "repository"}
    assert taken[1].at.startswith("2026-07-01T")


def test_reading_again_gives_the_same_records(repository: Repository) -> None:
    for n in range(3):
        repository.commit(f"Change {n}", f"content {n}\n")
    assert read(repository.path) == read(repository.path)
    assert len({one.id for one in read(repository.path)[0]}) == 3


def test_merges_reverts_bots_and_binaries_are_skipped_with_their_reason(repository: Repository) -> None:
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
    taken, skipped = read(repository.path)
    assert [one.answer for one in taken] == ["Start", "Work on the side", "Work on main"]
    assert skipped == {
        merge[:12]: "a merge or revert",
        bot[:12]: "written by a bot",
        binary[:12]: "only binary files changed",
        revert[:12]: "a merge or revert",
        empty[:12]: "no text changed",
    }


def test_a_commit_without_a_message_is_no_example(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    sha = repository.commit("", "two\n")
    taken, skipped = read(repository.path)
    left_out = set(skipped) | {one.provenance["commit"][:12] for one in taken if reason_to_drop(one)}
    assert left_out == {sha[:12]}


def test_other_alphabets_come_through(repository: Repository) -> None:
    repository.commit("Zażółć gęślą jaźń 🚢", "zażółć\n", "łódź.txt", author="Błażej Żółć")
    repository.commit("Latin bytes", b"caf\xe9\n", "latin.txt")
    taken, _ = read(repository.path)
    assert (taken[0].answer, taken[0].author) == ("Zażółć gęślą jaźń 🚢", "Błażej Żółć")
    assert taken[0].request == "Write the subject line for this change: łódź.txt\n+zażółć"
    assert "caf" in taken[1].request


def test_a_file_that_talks_like_git_log_changes_nothing(repository: Repository) -> None:
    mark = "\x1ecommit\x1f" + "0" * 40 + "\x1fEve\x1f2026\x1fForged"
    repository.commit("Start", f"{mark}\n--- a line\n+++ another\ndiff --git a/x b/y\n")
    taken, skipped = read(repository.path)
    assert ([one.answer for one in taken], skipped) == (["Start"], {})
    assert taken[0].request.startswith("Write the subject line for this change: file.txt\n")


def test_a_line_that_begins_with_dashes_is_a_changed_line(repository: Repository) -> None:
    repository.commit("Start", "-- a comment of SQL\nselect 1;\n", "query.sql")
    repository.commit("Drop the comment", "select 1;\n", "query.sql")
    taken, skipped = read(repository.path)
    assert skipped == {}
    assert taken[1].request == "Write the subject line for this change: query.sql\n--- a comment of SQL"


def test_a_large_patch_is_skipped_and_a_long_one_is_cut(repository: Repository) -> None:
    large = repository.commit("Add a large file", "a line of text\n" * (LARGEST_PATCH // 10), "large.txt")
    repository.commit("Add a long file", "".join(f"line {n} of the text\n" for n in range(200)), "long.txt")
    taken, skipped = read(repository.path)
    assert skipped == {large[:12]: "patch too large"}
    (long,) = taken
    assert LONGEST_REQUEST - 40 < len(long.request) <= LONGEST_REQUEST


def test_the_limit_keeps_the_newest_oldest_first(repository: Repository) -> None:
    for n in range(5):
        repository.commit(f"Change {n}", f"content {n}\n")
    assert [one.answer for one in read(repository.path, 2)[0]] == ["Change 3", "Change 4"]
    assert read(repository.path, 0) == ([], {})


def test_a_repository_without_commits_gives_nothing_and_says_so(repository: Repository) -> None:
    assert read(repository.path) == ([], {str(repository.path): "the history is empty"})


def test_a_folder_inside_a_repository_is_that_repository(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    (repository.path / "deep").mkdir()
    assert [one.answer for one in read(repository.path / "deep")[0]] == ["Start"]
    assert is_repository(repository.path / "deep")


def test_a_shallow_clone_is_read_as_far_as_it_goes(repository: Repository, tmp_path: Path) -> None:
    for n in range(4):
        repository.commit(f"Change {n}", f"content {n}\n")
    repository.git("clone", "-q", "--depth", "2", f"file://{repository.path}", str(tmp_path / "shallow"))
    taken, _ = read(tmp_path / "shallow")
    assert taken[-1].answer == "Change 3"
    assert taken[-1].request.endswith("-content 2\n+content 3")


def test_the_boundary_of_a_shallow_clone_is_not_taken_for_a_change(repository: Repository, tmp_path: Path) -> None:
    repository.commit("Start", "".join(f"line {n}\n" for n in range(9)))
    repository.commit("Change one line", "".join(f"line {n}\n" for n in range(8)) + "other\n")
    repository.git("clone", "-q", "--depth", "1", f"file://{repository.path}", str(tmp_path / "shallow"))
    for one in read(tmp_path / "shallow")[0]:
        assert "line 3" not in one.request


def test_a_bare_repository_is_read_too(repository: Repository, tmp_path: Path) -> None:
    repository.commit("Start", "one\n")
    repository.git("clone", "-q", "--bare", str(repository.path), str(tmp_path / "bare.git"))
    assert [one.answer for one in read(tmp_path / "bare.git")[0]] == ["Start"]


@pytest.mark.parametrize("name", ["nothing", "folder", "file"])
def test_what_is_no_repository_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is not a git repository\.") as refused:
        read(tmp_path / name)
    assert "\n" not in str(refused.value)
    assert not is_repository(tmp_path / name)


def test_a_damaged_repository_is_refused_in_one_sentence(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    repository.commit("Next", "two\n")
    first = repository.git("rev-parse", "HEAD~1")
    (repository.path / ".git" / "objects" / first[:2] / first[2:]).unlink()
    with pytest.raises(InputError, match="cannot be read") as refused:
        read(repository.path)
    assert "\n" not in str(refused.value)
    del refused
    gc.collect()  # a pipe to git that is still open gives a warning here


def test_the_settings_of_a_person_do_not_change_what_is_read(repository: Repository) -> None:
    repository.commit("Start", "one\ntwo\n")
    repository.commit("Next", "one\nthree\n")
    before = read(repository.path)
    for name, value in (("diff.noprefix", "true"), ("diff.mnemonicPrefix", "true"), ("color.ui", "always")):
        repository.git("config", name, value)
    repository.git("config", "log.showSignature", "true")
    assert read(repository.path) == before


def test_a_callers_git_variables_do_not_lead_elsewhere(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("Start", "one\n")
    other = Repository(tmp_path / "other")
    other.commit("Elsewhere", "two\n")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other.path / ".git" / "objects"))
    assert [one.answer for one in read(repository.path)[0]] == ["Start"]


def test_what_was_taken_back_later_teaches_nothing(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    bad = repository.commit("Turn it round", "two\n")
    repository.git("revert", "--no-edit", bad)
    good = repository.commit("Add the other file", "x\n", "other.txt")
    repository.git("revert", "--no-edit", good)
    repository.git("revert", "--no-edit", repository.git("rev-parse", "HEAD"))  # taken back, and put back again
    taken, skipped = read(repository.path)
    assert [one.answer for one in taken] == ["Start", "Add the other file"]
    assert skipped[bad[:12]] == "reverted later"


def test_only_trusted_authors_are_learned_from(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    other = repository.commit("Bring in something", "two\n", author="Bo")
    found = list(CommitsSource(repository.path, 100, trusted=["Ana"]).read())
    assert [one.answer for one in found if isinstance(one, Experience)] == ["Start"]
    assert Skipped(what=other[:12], because="an author who is not trusted") in found
    found = list(CommitsSource(repository.path, 100, trusted=["a@example.org"]).read())
    assert len([one for one in found if isinstance(one, Experience)]) == 2


@pytest.mark.parametrize("subject", ["wip", "Fix", "update.", "...", "x"])
def test_a_subject_that_says_nothing_is_skipped(repository: Repository, subject: str) -> None:
    repository.commit("Start", "one\n")
    sha = repository.commit(subject, "two\n")
    assert read(repository.path)[1] == {sha[:12]: "a subject that says nothing"}


def test_submodules_and_modes_alone_are_skipped(repository: Repository) -> None:
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
    assert [one.answer for one in read(repository.path)[0]] == ["Dodaj żółtą łódź"]


def test_a_missing_object_is_a_reason_and_the_rest_is_read(repository: Repository) -> None:
    repository.commit("Start", "one\n")
    bad = repository.commit("Lose a file", "two\n", "lost.txt")
    repository.commit("Next", "three\n")
    blob = repository.git("rev-parse", f"{bad}:lost.txt")
    (repository.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    taken, skipped = read(repository.path)
    assert [one.answer for one in taken] == ["Start", "Next"]
    assert skipped == {bad[:12]: "an object is missing"}


# --- what was extracted is kept ------------------------------------------------------------------------------------


def kept(repository: Repository, cache: Path, limit: int = 100) -> list[Experience | Skipped]:
    return list(CommitsSource(repository.path, limit, cache=cache).read())


def test_an_unchanged_repository_is_not_read_again(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("Start", "one\n")
    repository.commit("wip", "two\n")
    first = kept(repository, tmp_path / "kept")

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("academy.experience.sources.commits.commit_headers", never)
    assert kept(repository, tmp_path / "kept") == first


def test_a_new_commit_makes_one_patch_and_a_revert_changes_what_was_kept(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from academy.experience.sources import commits

    repository.commit("Start", "one\n")
    bad = repository.commit("Turn it round", "two\n")
    kept(repository, tmp_path / "kept")
    asked: list[list[str]] = []
    real = commits.patches
    monkeypatch.setattr(
        commits, "patches", lambda repo, shas, most: (asked.append(list(shas)), real(repo, shas, most))[1]
    )
    repository.git("revert", "--no-edit", bad)
    new = repository.commit("Say three", "three\n")
    found = kept(repository, tmp_path / "kept")
    assert asked == [[new]]
    assert [one.answer for one in found if isinstance(one, Experience)] == ["Start", "Say three"]
    assert Skipped(what=bad[:12], because="reverted later") in found
    assert found == list(CommitsSource(repository.path, 100).read())


def test_a_damaged_or_foreign_cache_is_read_past(repository: Repository, tmp_path: Path) -> None:
    repository.commit("Start", "one\n")
    first = kept(repository, tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    for content in (b"", b"{}", b"[1]", b'{"key": 1, "rules": 4, "commits": 3}', file.read_bytes()[:-9]):
        file.write_bytes(content)
        assert kept(repository, tmp_path / "kept") == first
    assert kept(repository, tmp_path / "kept", limit=1) == first
