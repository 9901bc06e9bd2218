"""Images of a Docker engine that are made of what runs here, without a registry.

An interpreter with its modules, the libraries that these need, and the loader, as one tar archive that the engine
imports. A label holds the digest of the files that went in: the same files are not imported twice.
"""

from __future__ import annotations

import importlib.util
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from academy.errors import EngineError
from academy.records import Record, digest_of
from academy.store.files import content_digest_of
from academy.system.docker import problems

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
"""Of the interpreter that goes in: its folder of modules, and the images' tag."""
LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages",
            "dist-packages", "__pycache__")  # fmt: skip
FOLDERS = ("tmp", "home", "proc", "sys", "dev", "etc", "python/bin")
PLACES = ("ENV PATH=/python/bin", "ENV LD_LIBRARY_PATH=/python/lib")
NAMED = re.compile(r"^\s*(\S+) => (/\S+) \(0x", re.MULTILINE)
LOADER = re.compile(r"^\s*(/\S*ld-[\w.-]+) \(0x", re.MULTILINE)
CHECKED_BY_TIME, NEVER_CHECKED = (0).to_bytes(4, "little"), (1).to_bytes(4, "little")
"""The flags of a compiled module: valid for a source of its time and size, and valid always."""


class Image(Record):
    """An image as the engine has it; size in bytes."""

    name: str
    digest: str
    """The engine's own, `sha256:...`: it covers the layers and the configuration."""
    published: tuple[str, ...] = ()
    """What registries call it, by digest; none where it was made here."""
    volumes: tuple[str, ...] = ()
    size: int = 0


def find_image(client: Any, name: str, remedy: str) -> Image:
    """The image of this name or digest. Raises EngineError, with the remedy, where it is not there."""
    try:
        found = client.images.get(name)
    except problems() as problem:
        raise EngineError(f"The Docker engine has no image {name}.", remedy) from problem
    return Image(
        name=name,
        digest=found.id,
        published=tuple(found.attrs.get("RepoDigests") or ()),
        volumes=tuple((found.attrs.get("Config") or {}).get("Volumes") or ()),
        size=int(found.attrs.get("Size") or 0),
    )


def make_image(client: Any, name: str, label: str, files: Mapping[str, Path]) -> None:
    """Make an image of files, by their places in it, in place of an earlier one of the name; `label` tells which.

    Where the engine has one of the same files already, that one stays. Modules come compiled too; they are left out
    of the label's digest, for they come out differently. Raises EngineError.
    """
    content = digest_of(sorted((place, content_digest_of(path)) for place, path in files.items()))
    try:
        earlier = client.images.list(name=name)
        if any(one.labels.get(label) == content for one in earlier):
            return
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "root.tar"
            write_root(archive, files)
            _import(client, archive, name, [*PLACES, f"LABEL {label}={content}"])
        for one in earlier:
            with suppress(*problems()):  # a container that runs may hold it
                client.images.remove(one.id)
    except problems() as problem:
        raise EngineError(f"Docker took no image: {problem}", "Look at `docker info` and at its disk.") from problem


def _import(client: Any, archive: Path, name: str, changes: Sequence[str]) -> None:
    repository, _, tag = name.rpartition(":")
    said = client.api.import_image(str(archive), repository=repository, tag=tag, changes=list(changes))
    told = [json.loads(line) for line in said.splitlines()]
    if refused := [one["error"] for one in told if "error" in one]:
        raise EngineError(f"Docker took no image: {refused[0]}", "Look at `docker info` and at its disk.")


def python_files(python: Path, more: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """An interpreter with all that it needs, by place: loader, libraries, modules; and further files of modules.

    Raises EngineError where the standard library, `ldd` or the loader is not found.
    """
    library = python.parent.parent / "lib" / VERSION
    if not (library / "os.py").is_file():
        version = VERSION.removeprefix("python")
        raise EngineError(f"There is no standard library at {library}.", f"Install a whole Python {version}.")
    extra = {f"python/lib/{VERSION}/site-packages/{name}": path for name, path in (more or {}).items()}
    binaries = [path for path in extra.values() if ".so" in path.name]
    shared, loader = _shared([python, *sorted(library.glob("lib-dynload/*.so")), *binaries], own=extra.values())
    found = {"python/bin/python3": python}
    if loader:
        found[loader.lstrip("/")] = Path(loader)
    found |= {f"python/lib/{name}": path for name, path in sorted(shared.items())}
    found |= {f"python/lib/{VERSION}/{path.relative_to(library)}": path for path in _modules(library)}
    return found | extra


def write_root(archive: Path, files: Mapping[str, Path]) -> None:
    """The root file system as a tar archive, owned by root and without times; modules come compiled too."""
    with tarfile.open(archive, "w") as tar:
        root = _Root(tar)
        for folder in FOLDERS:
            root.folder(folder)
        for name, path in files.items():
            if path.suffix != ".py":
                root.copy(name, path, 0o755)
                continue
            source = path.read_bytes()
            root.file(name, source, 0o644)
            if code := _compiled(path, name, source):
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
            self._above(name)
            self.tar.addfile(_member(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755, 0))

    def file(self, name: str, content: bytes, mode: int) -> None:
        self._above(name)
        self.tar.addfile(_member(name, tarfile.REGTYPE, mode, len(content)), io.BytesIO(content))

    def copy(self, name: str, path: Path, mode: int) -> None:
        self._above(name)
        with path.open("rb") as stream:
            self.tar.addfile(_member(name, tarfile.REGTYPE, mode, os.fstat(stream.fileno()).st_size), stream)

    def _above(self, name: str) -> None:
        self.folder(str(Path(name).parent))


def _member(name: str, kind: bytes, mode: int, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size = kind, mode, size
    return member


def _modules(library: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(library):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and not name.startswith("config-"))
        yield from (Path(place, name) for name in sorted(files) if name.endswith((".py", ".so")))


def _compiled(path: Path, name: str, source: bytes) -> bytes | None:
    """The module compiled, valid whatever its time; None for a text that is none, as tests of Python's own have.

    What was compiled on this machine and is still valid gets another head; that is many times faster.
    """
    with suppress(OSError, NotImplementedError):
        code = Path(importlib.util.cache_from_source(str(path))).read_bytes()
        time = int(path.stat().st_mtime).to_bytes(8, "little")[:4]
        size = len(source).to_bytes(8, "little")[:4]
        if code[:16] == importlib.util.MAGIC_NUMBER + CHECKED_BY_TIME + time + size:
            return code[:4] + NEVER_CHECKED + importlib.util.source_hash(source) + code[16:]
    with tempfile.NamedTemporaryFile(suffix=".pyc") as made:
        try:
            py_compile.compile(
                str(path), made.name, dfile=f"/{name}", doraise=True, quiet=2,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )  # fmt: skip
        except (py_compile.PyCompileError, ValueError):
            return None
        return Path(made.name).read_bytes()


def _shared(files: list[Path], own: Iterable[Path]) -> tuple[dict[str, Path], str]:
    """The shared libraries that files need beside their own, by name, and the loader's path.

    Raises EngineError without `ldd`.
    """
    try:
        told = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    except OSError as problem:
        raise EngineError(f"ldd cannot be run: {problem}", "Install libc-bin.") from problem
    brought = {path.resolve() for path in own}
    named = {name: Path(path) for name, path in NAMED.findall(told)}
    shared = {name: path for name, path in named.items() if path.resolve() not in brought}
    loader = "".join(LOADER.findall(told)[:1])
    if not loader and platform.libc_ver()[0] == "glibc" and shared:
        raise EngineError("The loader of this machine's programs was not found.", "Name an image of a registry.")
    return shared, loader
