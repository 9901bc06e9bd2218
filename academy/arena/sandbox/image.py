"""The image of the Docker sandbox: one interpreter with its standard library and the libraries that these need.

It is made of the Python that runs this, so no registry is asked; a program finds no shell, no other program and no
site-packages in it. Its layer is the same for the same Python, whoever makes it and when. An image of a registry, by
name or digest, serves as well: it needs a `python3` on its PATH and must declare no volumes, for those can be written.
"""

from __future__ import annotations

import io
import json
import platform
import py_compile
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from academy.arena.sandbox.bubblewrap import find_python
from academy.arena.sandbox.engine import problems
from academy.artifacts import Record, digest_of_file
from academy.errors import ExaminationError

REPOSITORY, TAG = "academy-sandbox", f"python{sys.version_info.major}.{sys.version_info.minor}"
IMAGE = f"{REPOSITORY}:{TAG}"
CONTENT = "academy-sandbox.content"
"""The label with the digest of the layer's archive."""
HOW = "Make it: academy sandbox --make-image. Or name another with ACADEMY_SANDBOX_IMAGE and fetch it: docker pull."
LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages",
            "dist-packages", "__pycache__")  # fmt: skip
FOLDERS = ("tmp", "home", "proc", "sys", "dev", "etc", "python/bin")
NAMED = re.compile(r"^\s*(\S+) => (/\S+) \(0x", re.MULTILINE)
LOADER = re.compile(r"^\s*(/\S*ld-[\w.-]+) \(0x", re.MULTILINE)


class Image(Record):
    """An image as the engine has it."""

    name: str
    digest: str
    """The engine's own, `sha256:...`: it covers the layers and the configuration."""
    published: tuple[str, ...] = ()
    """What registries call it, by digest; none where it was made here."""


def find_image(client: Any, name: str) -> Image:
    """The image of this name. Raises ExaminationError where it is not there or cannot contain a program."""
    try:
        found = client.images.get(name)
    except problems() as problem:
        raise ExaminationError(f"The Docker engine has no image {name}.", HOW) from problem
    if volumes := (found.attrs.get("Config") or {}).get("Volumes"):
        raise ExaminationError(
            f"The image {name} declares volumes ({', '.join(volumes)}), which a program could fill.", HOW
        )
    return Image(name=name, digest=found.id, published=tuple(found.attrs.get("RepoDigests") or ()))


def make_image(client: Any) -> Image:
    """Make the image of this Python on an engine, in place of an earlier one. Needs `ldd` and a few seconds."""
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place) / "root.tar"
        write_root(archive, Path(find_python()))
        changes = [
            "ENV PATH=/python/bin",
            "ENV LD_LIBRARY_PATH=/python/lib",
            f"LABEL {CONTENT}={digest_of_file(archive)}",
        ]
        try:
            said = client.api.import_image(str(archive), repository=REPOSITORY, tag=TAG, changes=changes)
        except problems() as problem:
            raise ExaminationError(f"Docker took no image: {problem}", "Look at `docker info`.") from problem
    told = [json.loads(line) for line in said.splitlines()]
    if refused := [one["error"] for one in told if "error" in one]:
        raise ExaminationError(f"Docker took no image: {refused[0]}", "Look at `docker info` and at its disk.")
    return find_image(client, IMAGE)


def write_root(archive: Path, python: Path) -> None:
    """Write the root file system as a tar archive: sorted, owned by root, without times."""
    version = python.name.removeprefix("python") or TAG.removeprefix("python")
    library = python.parent.parent / "lib" / f"python{version}"
    if not (library / "os.py").is_file():
        raise ExaminationError(f"There is no standard library at {library}.", "Install a whole Python.")
    shared, loader = _shared([python, *sorted(library.glob("lib-dynload/*.so"))])
    with tarfile.open(archive, "w") as tar:
        root = _Root(tar)
        for folder in FOLDERS:
            root.folder(folder)
        root.file(f"python/bin/python{version}", python.read_bytes(), 0o755)
        root.link("python/bin/python3", f"python{version}")
        if loader:
            root.file(loader.lstrip("/"), Path(loader).read_bytes(), 0o755)
        for name, path in sorted(shared.items()):
            root.file(f"python/lib/{name}", path.read_bytes(), 0o755)
        for path in _modules(library):
            name = f"python/lib/python{version}/{path.relative_to(library)}"
            root.file(name, path.read_bytes(), 0o755 if path.suffix == ".so" else 0o644)
            if path.suffix == ".py" and (code := _compiled(path, name)):
                folder, _, stem = name.removesuffix(".py").rpartition("/")
                root.file(f"{folder}/__pycache__/{stem}.{sys.implementation.cache_tag}.pyc", code, 0o644)


class _Root:
    """Members of the archive, each after its folder: an engine gives folders that are not named to root alone."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self.tar = tar
        self.folders = {"."}

    def folder(self, name: str) -> None:
        if name not in self.folders:
            self.folders.add(name)
            self._add(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755)

    def file(self, name: str, content: bytes, mode: int) -> None:
        self._add(name, tarfile.REGTYPE, mode, content)

    def link(self, name: str, target: str) -> None:
        self._add(name, tarfile.SYMTYPE, 0o777, target=target)

    def _add(self, name: str, kind: bytes, mode: int, content: bytes = b"", target: str = "") -> None:
        self.folder(str(Path(name).parent))
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.size, member.linkname = kind, mode, len(content), target
        self.tar.addfile(member, io.BytesIO(content))


def _modules(library: Path) -> Iterator[Path]:
    for path in sorted(library.rglob("*")):
        parts = path.relative_to(library).parts
        if path.suffix in (".py", ".so") and path.is_file() and not any(part in LEFT_OUT for part in parts):
            if not parts[0].startswith("config-"):
                yield path


def _compiled(path: Path, name: str) -> bytes | None:
    """The module compiled, valid whatever its time; None where it is no module of this version, or none at all."""
    if f"/python{sys.version_info.major}.{sys.version_info.minor}/" not in name:
        return None
    with tempfile.NamedTemporaryFile(suffix=".pyc") as made:
        try:
            py_compile.compile(
                str(path), made.name, dfile=f"/{name}", doraise=True, quiet=2,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )  # fmt: skip
        except (py_compile.PyCompileError, ValueError):
            return None
        return Path(made.name).read_bytes()


def _shared(files: list[Path]) -> tuple[dict[str, Path], str]:
    """The shared libraries that files need, by name, and the loader's path. Raises ExaminationError without `ldd`."""
    shared: dict[str, Path] = {}
    loader = ""
    for file in files:
        try:
            told = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False).stdout
        except OSError as problem:
            raise ExaminationError(f"ldd cannot be run: {problem}", "Install libc-bin.") from problem
        shared |= {name: Path(path) for name, path in NAMED.findall(told)}
        loader = loader or "".join(LOADER.findall(told)[:1])
    if not loader and platform.libc_ver()[0] == "glibc" and shared:
        raise ExaminationError("The loader of this machine's programs was not found.", "Name an image of a registry.")
    return shared, loader

