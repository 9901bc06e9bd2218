"""Adapters on the disk of a home: here, or put away in one compressed file each; and who uses which of them now.

What this module promises: an adapter's folder is taken away only after its archive was read back and found to be the
very adapter, and only while nobody uses it. A use is a shared lock that the system drops when its process dies.
An archive is restored all or nothing, and only where it is the adapter that its name says.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from academy.adapters.adapter import read_adapter
from academy.errors import AdapterError
from academy.records import Record, canonical
from academy.store.files import STAGING, digest_of_file, explain_disk_errors, publish_folder, write_file


class Packed(Record):
    """An archive: of which adapter, its own digest, and what a reading of it took."""

    adapter: str  # digest
    sha256: str  # of the archive file
    files: dict[str, str]  # name -> sha256
    bytes: int  # of the files
    packed_bytes: int
    seconds: float  # to unpack it, measured when it was made


class AdapterStore:
    """The adapters of a home, named by their digests. The archive and the locks lie beside their folder."""

    def __init__(self, adapters: Path) -> None:
        self.adapters = adapters
        self.archive = adapters.parent / "archive"
        self.locks = adapters.parent / "locks" / "adapters"

    def folder(self, digest: str) -> Path:
        """Where an adapter lies, if it is here."""
        return self.adapters / digest[:16]

    def here(self, digest: str) -> bool:
        """Whether an adapter's folder is here."""
        return self.folder(digest).is_dir()

    def packed(self, digest: str) -> Packed | None:
        """What is known of an adapter's archive; None where there is none."""
        note = self._note(digest)
        if not note.is_file() or not self._file(digest).is_file():
            return None
        try:
            return Packed.model_validate_json(note.read_bytes())
        except ValidationError as problem:
            raise AdapterError(
                f"The note {note} on an archived adapter cannot be read.",
                "Train again: on processors the bytes are the same.",
            ) from problem

    @contextmanager
    def lease(self, digest: str) -> Iterator[Path]:
        """Use an adapter: until this ends it is not put away. Waits for an archiving that is under way."""
        with self._lock(digest, fcntl.LOCK_SH):
            yield self.folder(digest)

    @contextmanager
    def exclusive(self, digest: str) -> Iterator[None]:
        """Make sure that nobody uses an adapter and none begins to. Raises AdapterError where somebody does."""
        try:
            with self._lock(digest, fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError:
            raise AdapterError(
                f"The adapter {digest[:12]} is loaded by a running process.", "It can be archived when that has ended."
            ) from None

    def pack(self, digest: str) -> Packed:
        """Write an adapter's archive beside its folder, which stays. Doing it again gives the same bytes.

        Raises AdapterError for an adapter that is damaged, or whose archive does not give it back.
        """
        folder = read_adapter(self.folder(digest), digest=digest).path
        paths = sorted(folder.iterdir())
        for path in paths:
            if path.is_symlink() or not path.is_file():
                raise AdapterError(f"{path} is no plain file.", "Take it out of the adapter's folder first.")
        files = {path.name: digest_of_file(path) for path in paths}
        place = self._file(digest)
        with explain_disk_errors(self.archive):
            self.archive.mkdir(parents=True, exist_ok=True)
            handle, staged = tempfile.mkstemp(dir=self.archive, prefix=STAGING)
            try:
                with os.fdopen(handle, "wb") as raw:
                    with (
                        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as zipped,
                        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
                    ):
                        for path in paths:
                            entry = tarfile.TarInfo(path.name)  # no time, no owner: the same adapter, the same bytes
                            entry.size = path.stat().st_size
                            with path.open("rb") as stream:
                                tar.addfile(entry, stream)
                    raw.flush()
                    os.fsync(raw.fileno())
                Path(staged).chmod(0o644)
                found = Packed(
                    adapter=digest, sha256=digest_of_file(Path(staged)), files=files,
                    bytes=sum(path.stat().st_size for path in paths), packed_bytes=Path(staged).stat().st_size,
                    seconds=0.0,
                )  # fmt: skip
                found = found.model_copy(update={"seconds": self._prove(Path(staged), found)})
                Path(staged).replace(place)
            finally:
                Path(staged).unlink(missing_ok=True)
        write_file(self._note(digest), canonical(found))
        return found

    def remove(self, digest: str) -> None:
        """Take an adapter's folder away, at once by its name; what a kill leaves of it is swept later.

        The caller holds `alone`, and its archive was made.
        """
        if self.packed(digest) is None:
            raise AdapterError(f"The adapter {digest[:12]} has no archive.", "Archive it first.")
        if self.here(digest):
            with explain_disk_errors(self.adapters):
                away = Path(tempfile.mkdtemp(dir=self.adapters, prefix=STAGING))
                self.folder(digest).rename(away / digest[:16])
                shutil.rmtree(away)

    def unpack(self, digest: str) -> Packed:
        """Bring an archived adapter back; the archive stays. Raises AdapterError where it is not that adapter."""
        found = self.packed(digest)
        if found is None:
            raise AdapterError(
                f"There is no archive of the adapter {digest[:12]}.",
                "Train again: on processors the bytes are the same.",
            )
        file = self._file(digest)
        if digest_of_file(file) != found.sha256:
            raise AdapterError(f"{file} was altered.", "It is not restored. Train again.")
        with publish_folder(self.folder(digest)) as staged:
            _extract(file, staged, found)
            read_adapter(staged, digest=digest)
        return found

    def _prove(self, file: Path, found: Packed) -> float:
        """Read an archive back; the seconds it took. Raises AdapterError where something else comes out."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.archive, prefix=STAGING) as place:
            _extract(file, Path(place), found)
            read_adapter(Path(place), digest=found.adapter)
        return time.monotonic() - began

    def _file(self, digest: str) -> Path:
        return self.archive / f"{digest[:16]}.tar.gz"

    def _note(self, digest: str) -> Path:
        return self.archive / f"{digest[:16]}.json"

    @contextmanager
    def _lock(self, digest: str, how: int) -> Iterator[None]:
        with explain_disk_errors(self.locks):
            self.locks.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.locks / digest[:16], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)


def _extract(file: Path, place: Path, found: Packed) -> None:
    """Exactly the files that the note names, with their bytes; nothing else is written anywhere."""
    left = dict(found.files)
    try:
        with tarfile.open(file, mode="r:gz") as tar:
            for entry in tar:
                stream = tar.extractfile(entry) if entry.isreg() else None
                if stream is None or entry.name not in left or entry.size > found.bytes or "/" in entry.name:
                    raise AdapterError(f"{file} holds '{entry.name}', which is no file of the adapter.", "Train again.")
                with stream, (place / entry.name).open("wb") as out:
                    shutil.copyfileobj(stream, out)
                if digest_of_file(place / entry.name) != left.pop(entry.name):
                    raise AdapterError(f"{entry.name} in {file} was altered.", "It is not restored. Train again.")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as problem:
        raise AdapterError(f"{file} cannot be unpacked: {problem}.", "It is not restored. Train again.") from problem
    if left:
        raise AdapterError(f"{file} lacks {', '.join(sorted(left))}.", "It is not restored. Train again.")
