"""The image of the Docker sandbox: one interpreter with its standard library and the libraries that these need.

It is made of the Python that runs this, so no registry is asked; a program finds no shell, no other program and no
site-packages in it. A label holds the digest of the files that went in. An image of a registry, by name or digest,
serves as well: it needs a `python3` on its PATH and must declare no volumes, for those can be written.
"""

from __future__ import annotations

import io
import json
import os
import platform
import py_compile
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from academy.arena.sandbox.bubblewrap import find_python
from academy.arena.sandbox.engine import problems
from academy.artifacts import Record, digest_of, digest_of_file
from academy.errors import ExaminationError

REPOSITORY, TAG = "academy-sandbox", f"python{sys.version_info.major}.{sys.version_info.minor}"
IMAGE = f"{REPOSITORY}:{TAG}"
CONTENT = "academy-sandbox.content"
"""The label with the digest of what went in; modules compiled are left out of it, for they come out differently."""
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
    """Make the image of this Python on an engine, in place of an earlier one. Needs `ldd` and some ten seconds.

    Where the engine has one of the same files already, that one stays.
    """
    files = _files(Path(find_python()))
    content = digest_of([(name, digest_of_file(path)) for name, path in files.items()])
    try:
        earlier = client.images.list(name=IMAGE)
        if not any(one.labels.get(CONTENT) == content for one in earlier):
            with tempfile.TemporaryDirectory() as place:
                _write(Path(place) / "root.tar", files)
                _import(client, Path(place) / "root.tar", content)
            for one in earlier:
                with suppress(*problems()):  # a container that runs may hold it
                    client.images.remove(one.id)
    except problems() as problem:
        raise ExaminationError(f"Docker took no image: {problem}", "Look at `docker info`.") from problem
    return find_image(client, IMAGE)


def _import(client: Any, archive: Path, content: str) -> None:
    changes = ["ENV PATH=/python/bin", "ENV LD_LIBRARY_PATH=/python/lib", f"LABEL {CONTENT}={content}"]
    said = client.api.import_image(str(archive), repository=REPOSITORY, tag=TAG, changes=changes)
    told = [json.loads(line) for line in said.splitlines()]
    if refused := [one["error"] for one in told if "error" in one]:
        raise ExaminationError(f"Docker took no image: {refused[0]}", "Look at `docker info` and at its disk.")


def _files(python: Path) -> dict[str, Path]:
    """What goes in, by its place there: interpreter, loader, libraries, modules."""
    version = TAG.removeprefix("python")
    library = python.parent.parent / "lib" / TAG
    if not (library / "os.py").is_file():
        raise ExaminationError(f"There is no standard library at {library}.", f"Install a whole Python {version}.")
    shared, loader = _shared([python, *sorted(library.glob("lib-dynload/*.so"))])
    found = {"python/bin/python3": python}
    if loader:
        found[loader.lstrip("/")] = Path(loader)
    found |= {f"python/lib/{name}": path for name, path in sorted(shared.items())}
    return found | {f"python/lib/{TAG}/{path.relative_to(library)}": path for path in _modules(library)}


def _write(archive: Path, files: Mapping[str, Path]) -> None:
    """The root file system as a tar archive, owned by root and without times; modules come compiled too."""
    with tarfile.open(archive, "w") as tar:
        root = _Root(tar)
        for folder in FOLDERS:
            root.folder(folder)
        for name, path in files.items():
            module = path.suffix == ".py"
            root.file(name, path.read_bytes(), 0o644 if module else 0o755)
            if module and (code := _compiled(path, name)):
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

    def _add(self, name: str, kind: bytes, mode: int, content: bytes = b"") -> None:
        self.folder(str(Path(name).parent))
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.size = kind, mode, len(content)
        self.tar.addfile(member, io.BytesIO(content))


def _modules(library: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(library):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and not name.startswith("config-"))
        yield from (Path(place, name) for name in sorted(files) if name.endswith((".py", ".so")))


def _compiled(path: Path, name: str) -> bytes | None:
    """The module compiled, valid whatever its time; None for a text that is none, as tests of Python's own have."""
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
    try:
        told = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    except OSError as problem:
        raise ExaminationError(f"ldd cannot be run: {problem}", "Install libc-bin.") from problem
    shared = {name: Path(path) for name, path in NAMED.findall(told)}
    loader = "".join(LOADER.findall(told)[:1])
    if not loader and platform.libc_ver()[0] == "glibc" and shared:
        raise ExaminationError("The loader of this machine's programs was not found.", "Name an image of a registry.")
    return shared, loader
