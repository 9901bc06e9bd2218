"""Files: a name that exists has complete content, and a digest identifies the content."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.errors import HomeError
from academy.records import canonical, digest_of, digest_of_bytes, stable_fraction
from academy.store.files import (
    STAGING,
    content_digest_of,
    digest_of_file,
    open_folder,
    publish_folder,
    read_regular_file,
    sweep,
    write_file,
)
from academy.store.locks import exclusive_lock


class Interrupted(Exception):
    """Any exception that ends a stage halfway."""


def test_published_folder_has_the_written_files(tmp_path: Path) -> None:
    with publish_folder(tmp_path / "deep" / "place") as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "file").write_text("content")
        assert not (tmp_path / "deep" / "place").exists()
    assert (tmp_path / "deep" / "place" / "inside" / "file").read_text() == "content"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["place"]


def test_exception_publishes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), publish_folder(tmp_path / "place") as folder:
        (folder / "file").write_text("half")
        raise Interrupted
    assert list(tmp_path.iterdir()) == []


def test_second_publication_keeps_the_first(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with publish_folder(tmp_path / "place") as folder:
            (folder / "file").write_text(content)
    assert (tmp_path / "place" / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_write_file_replaces_the_whole_file(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"a longer first content")
    write_file(tmp_path / "file", iter([b"sec", b"ond"]))
    assert (tmp_path / "file").read_bytes() == b"second"


def test_file_whose_new_content_fails_stays_unchanged(tmp_path: Path) -> None:
    def breaking():  # type: ignore[no-untyped-def]
        yield b"half"
        raise Interrupted

    write_file(tmp_path / "file", b"before")
    with pytest.raises(Interrupted):
        write_file(tmp_path / "file", breaking())
    assert (tmp_path / "file").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_killed_writer_leaves_no_incomplete_file_and_sweep_removes_its_staging(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from academy.store.files import publish_folder\n"
        "with publish_folder(Path(sys.argv[1]) / 'place') as folder:\n"
        "    (folder / 'file').write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    folders = [tmp_path, tmp_path / "runs", tmp_path / "runs" / "one"]
    folders[-1].mkdir(parents=True)
    for folder in folders:
        assert subprocess.run([sys.executable, "-c", script, str(folder)], check=False).returncode == -9
        assert not (folder / "place").exists()
        assert len(list(folder.glob(STAGING + "*"))) == 1
    assert sweep(tmp_path) == 0, "another process may be writing it"
    assert sweep(tmp_path, older_than=-1) == 3
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["one", "runs"]


def test_lock_is_refused_to_a_second_holder_and_free_afterwards(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "one"
    with exclusive_lock(lock, "Taken."):
        with pytest.raises(HomeError, match=r"^Taken\. "), exclusive_lock(lock, "Taken."):
            pytest.fail("two holders have the lock")
        with exclusive_lock(tmp_path / "locks" / "other", "Taken."):
            pass
    with exclusive_lock(lock, "Taken."):
        pass


def test_lock_is_released_when_its_process_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from academy.store.locks import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1]), 'Taken.'):\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(HomeError), exclusive_lock(lock, "Taken."):
            pytest.fail("a second holder got the lock of a living process")
        holder.kill()
    with exclusive_lock(lock, "Taken."):
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def backwards(value: object) -> object:
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(member) for member in value] if isinstance(value, list) else value


@pytest.mark.slow
@given(json_values)
def test_digest_does_not_depend_on_the_order_of_keys(value: object) -> None:
    assert digest_of(value) == digest_of(backwards(value))


@given(st.lists(st.integers(), min_size=2, max_size=5, unique=True))
def test_digest_depends_on_the_order_of_a_list(values: list[int]) -> None:
    small = [value % 2**40 for value in values]
    if small != small[::-1]:
        assert digest_of(small) != digest_of(small[::-1])


def test_digests_are_sha256_of_the_canonical_bytes(tmp_path: Path) -> None:
    assert canonical({"b": [1, "ł"], "a": None}) == '{"a":null,"b":[1,"ł"]}'.encode()
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_of_file(tmp_path / "file") == digest_of_bytes(b"a", b"bc") == expected


def test_content_digest_is_blake3_in_one_or_more_chunks(tmp_path: Path) -> None:
    expected = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"  # b3sum's
    (tmp_path / "file").write_bytes(b"abc")
    with open_folder(tmp_path) as folder:
        assert read_regular_file(folder, "file", 3)[1] == content_digest_of(tmp_path / "file") == expected
    (tmp_path / "file").write_bytes(bytes(range(256)) * 20_000)  # more than one chunk
    with open_folder(tmp_path) as folder:
        assert read_regular_file(folder, "file", 1 << 23)[1] == content_digest_of(tmp_path / "file")


def test_stable_fraction_is_even_and_separates_its_parts() -> None:
    fractions = [stable_fraction("test", str(n)) for n in range(2000)]
    assert all(0 <= fraction < 1 for fraction in fractions)
    assert 0.45 < sum(fractions) / len(fractions) < 0.55
    assert stable_fraction("ab", "c") != stable_fraction("a", "bc")


def test_full_disk_is_one_sentence_and_keeps_the_old_file(small_disk: Path) -> None:
    write_file(small_disk / "file", b"before")
    with pytest.raises(HomeError, match=r"^The disk that holds .* is full\. ") as refused:
        write_file(small_disk / "file", os.urandom(200_000))
    assert "\n" not in str(refused.value)
    assert (small_disk / "file").read_bytes() == b"before"
    assert [path.name for path in small_disk.iterdir()] == ["file"]


def test_folder_that_does_not_fit_on_the_disk_is_not_published(small_disk: Path) -> None:
    with pytest.raises(HomeError, match="is full"), publish_folder(small_disk / "place") as folder:
        (folder / "weights").write_bytes(os.urandom(200_000))
    assert list(small_disk.iterdir()) == []


def test_read_only_disk_is_one_sentence(read_only_disk: Path) -> None:
    for attempt in (
        lambda: write_file(read_only_disk / "file", b"content"),
        lambda: publish_folder(read_only_disk / "place").__enter__(),
        lambda: exclusive_lock(read_only_disk / "lock", "Taken.").__enter__(),
    ):
        with pytest.raises(HomeError, match=r"cannot be written \(Read-only file system\)"):
            attempt()
