"""Docker images made of this machine's Python, without a registry.

An image has an interpreter with its modules, the libraries that these need, and the loader. The engine imports them as
one tar archive. A label holds the digest of the files, so the same files are not imported twice.
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

from academy.border.current_folder import environment, find_program
from academy.errors import EngineError
from academy.records import Record, digest_of
from academy.store.files import content_digest_of
from academy.system.docker import problems

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
"""Version of the interpreter in the image: the name of its modules' folder, and the image's tag."""
EXCLUDED = ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages",
            "dist-packages", "__pycache__")  # fmt: skip
FOLDERS = ("tmp", "home", "proc", "sys", "dev", "etc", "python/bin")
ENVIRONMENT = ("ENV PATH=/python/bin", "ENV LD_LIBRARY_PATH=/python/lib")
LIBRARY = re.compile(r"^[^\S\n]*+(\S++) => (/\S++) \(0x", re.MULTILINE)
LOADER = re.compile(r"^[^\S\n]*+(/\S*ld-[\w.-]+) \(0x", re.MULTILINE)
CHECKED_BY_TIME, NEVER_CHECKED = (0).to_bytes(4, "little"), (1).to_bytes(4, "little")
"""Flags of a compiled module: valid for a source of this time and size, or always valid."""


class Image(Record):
    """An image as the engine has it; size in bytes."""

    name: str
    digest: str
    """The engine's digest, `sha256:...`, of the layers and the configuration."""
    published: tuple[str, ...] = ()
    """Its digests in registries; empty if it was made here."""
    volumes: tuple[str, ...] = ()
    size: int = 0


def find_image(client: Any, name: str, remedy: str) -> Image:
    """The image with this name or digest. Raises EngineError with the remedy if it does not exist."""
    try:
        image = client.images.get(name)
    except problems() as problem:
        raise EngineError(f"The Docker engine has no image {name}.", remedy) from problem
    return Image(
        name=name,
        digest=image.id,
        published=tuple(image.attrs.get("RepoDigests") or ()),
        volumes=tuple((image.attrs.get("Config") or {}).get("Volumes") or ()),
        size=int(image.attrs.get("Size") or 0),
    )


def make_image(client: Any, name: str, label: str, files: Mapping[str, Path]) -> None:
    """Make an image of files, by their paths in the image, replacing an earlier image of this name.

    The label `label` holds the digest of the files. If the engine has an image of the same files, that one stays.
    Modules are also stored compiled; the digest does not include these, because compiling is not reproducible. Raises
    EngineError.
    """
    content = digest_of(sorted((place, content_digest_of(path)) for place, path in files.items()))
    try:
        earlier = client.images.list(name=name)
        if any(image.labels.get(label) == content for image in earlier):
            return
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "root.tar"
            write_root(archive, files)
            _import(client, archive, name, [*ENVIRONMENT, f"LABEL {label}={content}"])
        for image in earlier:
            with suppress(*problems()):  # a running container may use it
                client.images.remove(image.id)
    except problems() as problem:
        raise EngineError(f"Docker rejected the image: {problem}", "See `docker info` and check its disk.") from problem


def _import(client: Any, archive: Path, name: str, changes: Sequence[str]) -> None:
    repository, _, tag = name.rpartition(":")
    output = client.api.import_image(str(archive), repository=repository, tag=tag, changes=list(changes))
    messages = [json.loads(line) for line in output.splitlines()]
    if errors := [message["error"] for message in messages if "error" in message]:
        raise EngineError(f"Docker rejected the image: {errors[0]}", "See `docker info` and check its disk.")


def python_files(python: Path, more: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """Files of an interpreter by their paths in the image: loader, libraries, modules, and further module files.

    Raises EngineError if the standard library, `ldd` or the loader is not found.
    """
    library = python.parent.parent / "lib" / VERSION
    if not (library / "os.py").is_file():
        version = VERSION.removeprefix("python")
        raise EngineError(f"{library} has no standard library.", f"Install a complete Python {version}.")
    extra = {f"python/lib/{VERSION}/site-packages/{name}": path for name, path in (more or {}).items()}
    extra_binaries = [path for path in extra.values() if ".so" in path.name]
    binaries = [python, *sorted(library.glob("lib-dynload/*.so")), *extra_binaries]
    shared_libraries, loader = _shared_libraries(binaries, extra=extra.values())
    files = {"python/bin/python3": python}
    if loader:
        files[loader.lstrip("/")] = Path(loader)
    files |= {f"python/lib/{name}": path for name, path in sorted(shared_libraries.items())}
    files |= {f"python/lib/{VERSION}/{path.relative_to(library)}": path for path in _modules(library)}
    return files | extra


def write_root(archive: Path, files: Mapping[str, Path]) -> None:
    """Write the root file system as a tar archive, owned by root, without times, and with compiled modules."""
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
    """Members of the archive, each after its folder: an engine makes unnamed folders accessible to root only."""

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
        folders[:] = sorted(name for name in folders if name not in EXCLUDED and not name.startswith("config-"))
        yield from (Path(place, name) for name in sorted(files) if name.endswith((".py", ".so")))


def _compiled(path: Path, name: str, source: bytes) -> bytes | None:
    """The compiled module, valid whatever its time; None if it is not valid Python, as in some of Python's own tests.

    A compiled file on this machine that is still valid only gets another header, which is many times faster.
    """
    with suppress(OSError, NotImplementedError):
        code = Path(importlib.util.cache_from_source(str(path))).read_bytes()
        time = int(path.stat().st_mtime).to_bytes(8, "little")[:4]
        size = len(source).to_bytes(8, "little")[:4]
        if code[:16] == importlib.util.MAGIC_NUMBER + CHECKED_BY_TIME + time + size:
            return code[:4] + NEVER_CHECKED + importlib.util.source_hash(source) + code[16:]
    with tempfile.NamedTemporaryFile(suffix=".pyc") as output:
        try:
            py_compile.compile(
                str(path), output.name, dfile=f"/{name}", doraise=True, quiet=2,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )  # fmt: skip
        except (py_compile.PyCompileError, ValueError):
            return None
        return Path(output.name).read_bytes()


def _shared_libraries(files: list[Path], extra: Iterable[Path]) -> tuple[dict[str, Path], str]:
    """The shared libraries that files need besides the extra files, by name, and the loader's path.

    Raises EngineError without `ldd`.
    """
    try:
        output = subprocess.run(
            [find_program("ldd"), *map(str, files)], capture_output=True, text=True, check=False,
            env=environment(),
        ).stdout  # fmt: skip
    except OSError as problem:
        raise EngineError(f"ldd cannot be run: {problem}", "Install libc-bin.") from problem
    extra_files = {path.resolve() for path in extra}
    all_libraries = {name: Path(path) for name, path in LIBRARY.findall(output)}
    libraries = {name: path for name, path in all_libraries.items() if path.resolve() not in extra_files}
    loader = "".join(LOADER.findall(output)[:1])
    if not loader and platform.libc_ver()[0] == "glibc" and libraries:
        raise EngineError("The loader of this machine's programs was not found.", "Use an image from a registry.")
    return libraries, loader
