"""Adapters of a home: as folders, or archived as one compressed file each; and leases on them.

An adapter's folder is removed only after its archive was read back and matched, and only while no process has a lease
on it. A lease is a shared lock that the system releases when its process dies. An archive is restored completely or
not at all, and only if its content matches its digest.
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


class Package(Record):
    """An archived adapter: its digest, the digest of the archive file, and the time to unpack it."""

    adapter: str  # digest
    sha256: str  # of the archive file
    files: dict[str, str]  # name -> sha256
    bytes: int  # of the files
    packed_bytes: int
    seconds: float  # to unpack it, measured when it was made


class AdapterStore:
    """The adapters of a home, named by their digests. The archive and the locks are sibling folders."""

    def __init__(self, adapters: Path) -> None:
        self.adapters = adapters
        self.archive = adapters.parent / "archive"
        self.locks = adapters.parent / "locks" / "adapters"

    def folder(self, digest: str) -> Path:
        """The folder of an adapter, which may not exist."""
        return self.adapters / digest[:16]

    def here(self, digest: str) -> bool:
        """Whether an adapter's folder exists."""
        return self.folder(digest).is_dir()

    def package(self, digest: str) -> Package | None:
        """The record of an adapter's archive; None if it has none."""
        note = self._note(digest)
        if not note.is_file() or not self._file(digest).is_file():
            return None
        try:
            return Package.model_validate_json(note.read_bytes())
        except ValidationError as problem:
            raise AdapterError(
                f"The record {note} of an archived adapter cannot be read.",
                "Train again: on CPUs the bytes are the same.",
            ) from problem

    @contextmanager
    def lease(self, digest: str) -> Iterator[Path]:
        """Use an adapter: it is not archived before the lease ends. Waits for an archive in progress."""
        with self._lock(digest, fcntl.LOCK_SH):
            yield self.folder(digest)

    @contextmanager
    def exclusive(self, digest: str) -> Iterator[None]:
        """Prevent all leases on an adapter. Raises AdapterError if a process has one."""
        try:
            with self._lock(digest, fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError:
            raise AdapterError(
                f"The adapter {digest[:12]} is loaded by a running process.", "Archive it after that process has ended."
            ) from None

    def pack(self, digest: str) -> Package:
        """Write an adapter's archive; its folder stays. Repeating it gives the same bytes.

        Raises AdapterError if the adapter is damaged, or its archive does not unpack to the same adapter.
        """
        folder = read_adapter(self.folder(digest), digest=digest).path
        paths = sorted(folder.iterdir())
        for path in paths:
            if path.is_symlink() or not path.is_file():
                raise AdapterError(f"{path} is not a regular file.", "Remove it from the adapter's folder first.")
        files = {path.name: digest_of_file(path) for path in paths}
        place = self._file(digest)
        with explain_disk_errors(self.archive):
            self.archive.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, staging_file = tempfile.mkstemp(dir=self.archive, prefix=STAGING)
            try:
                with os.fdopen(handle, "wb") as raw:
                    with (
                        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as gzip_stream,
                        tarfile.open(fileobj=gzip_stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
                    ):
                        for path in paths:
                            entry = tarfile.TarInfo(
                                path.name
                            )  # without time and owner: the same adapter gives the same bytes
                            entry.size = path.stat().st_size
                            with path.open("rb") as stream:
                                tar.addfile(entry, stream)
                    raw.flush()
                    os.fsync(raw.fileno())
                package = Package(
                    adapter=digest, sha256=digest_of_file(Path(staging_file)), files=files,
                    bytes=sum(path.stat().st_size for path in paths), packed_bytes=Path(staging_file).stat().st_size,
                    seconds=0.0,
                )  # fmt: skip
                package = package.model_copy(update={"seconds": self._verify(Path(staging_file), package)})
                Path(staging_file).replace(place)
            finally:
                Path(staging_file).unlink(missing_ok=True)
        write_file(self._note(digest), canonical(package))
        return package

    def remove(self, digest: str) -> None:
        """Remove an adapter's folder: it is renamed first; `sweep` removes what a killed process leaves.

        The caller holds `exclusive` and has made the archive.
        """
        if self.package(digest) is None:
            raise AdapterError(f"The adapter {digest[:12]} has no archive.", "Archive it first.")
        if self.here(digest):
            with explain_disk_errors(self.adapters):
                away = Path(tempfile.mkdtemp(dir=self.adapters, prefix=STAGING))
                self.folder(digest).rename(away / digest[:16])
                shutil.rmtree(away)

    def unpack(self, digest: str) -> Package:
        """Restore an archived adapter; the archive stays. Raises AdapterError if the content does not match."""
        package = self.package(digest)
        if package is None:
            raise AdapterError(
                f"The adapter {digest[:12]} has no archive.",
                "Train again: on CPUs the bytes are the same.",
            )
        file = self._file(digest)
        if digest_of_file(file) != package.sha256:
            raise AdapterError(f"{file} was altered.", "It is not restored. Train again.")
        with publish_folder(self.folder(digest)) as folder:
            _extract(file, folder, package)
            read_adapter(folder, digest=digest)
        return package

    def _verify(self, file: Path, package: Package) -> float:
        """Unpack an archive to check it. Returns the seconds. Raises AdapterError if the content does not match."""
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.archive, prefix=STAGING) as place:
            _extract(file, Path(place), package)
            read_adapter(Path(place), digest=package.adapter)
        return time.monotonic() - start

    def _file(self, digest: str) -> Path:
        return self.archive / f"{digest[:16]}.tar.gz"

    def _note(self, digest: str) -> Path:
        return self.archive / f"{digest[:16]}.json"

    @contextmanager
    def _lock(self, digest: str, mode: int) -> Iterator[None]:
        with explain_disk_errors(self.locks):
            self.locks.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.locks / digest[:16], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, mode)
            yield
        finally:
            os.close(handle)


def _extract(file: Path, place: Path, package: Package) -> None:
    """Extract exactly the files of the record and check their bytes. Nothing else is written."""
    files = dict(package.files)
    try:
        with tarfile.open(file, mode="r:gz") as tar:
            for entry in tar:
                stream = tar.extractfile(entry) if entry.isreg() else None
                if stream is None or entry.name not in files or entry.size > package.bytes or "/" in entry.name:
                    raise AdapterError(
                        f"{file} contains '{entry.name}', which does not belong to the adapter.", "Train again."
                    )
                with stream, (place / entry.name).open("wb") as out:
                    shutil.copyfileobj(stream, out)
                if digest_of_file(place / entry.name) != files.pop(entry.name):
                    raise AdapterError(f"{entry.name} in {file} was altered.", "It is not restored. Train again.")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as problem:
        raise AdapterError(f"{file} cannot be unpacked: {problem}.", "It is not restored. Train again.") from problem
    if files:
        raise AdapterError(f"{file} lacks {', '.join(sorted(files))}.", "It is not restored. Train again.")
