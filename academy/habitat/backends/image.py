"""The image that trainings run in: made of this Python and the libraries of the trainer, or one of a registry.

The Academy's own code is not in it but mounted, so an image is made again only when libraries change. Before an image
is used it is tried: whether it can import what the trainer needs, in which versions, and whether it can use a GPU.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import orjson
from packaging.requirements import Requirement
from pydantic import Field, ValidationError

from academy.errors import EngineError, TrainingError
from academy.habitat.backends import isolation
from academy.habitat.backends.isolation import Limits
from academy.records import Record, canonical, digest_of
from academy.store.files import digest_of_file, write_file
from academy.system import images
from academy.system.docker import problems
from academy.system.hardware import driver_version
from academy.system.images import Image

IMAGE = f"academy-trainer:{images.VERSION}"
CONTENT = "academy-trainer.content"
"""The label with the digest of what went in."""
HOW = (
    "Make it: academy trainer --make-image. Or build deployments/trainer.Dockerfile, or fetch one (docker pull), and "
    "name it with ACADEMY_TRAINING_IMAGE."
)
WANTED = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors", "tokenizers", "numpy",
          "pydantic", "orjson", "blake3", "jinja2", "cryptography", "typing-extensions", "packaging",
          "pynvml")  # fmt: skip
"""What the trainer imports; with what these require it is all that goes in."""
NOT_NEEDED = re.compile(r"(^|/)(tests?|include|__pycache__)/|^torch/bin/(?!torch_shm_manager$)|^\.\./")
TRIAL_SECONDS = 300
OTHER_TORCH = (
    "Name an image whose torch was built for that GPU and driver with ACADEMY_TRAINING_IMAGE, "
    "or set ACADEMY_ENABLE_GPU=false to train on the CPU."
)


class Proof(Record):
    """What an image showed when it was tried."""

    image: str  # its digest
    code: str  # the digest of the Academy's code that was mounted
    driver: str  # of the GPU that it was tried with; empty without one
    python: str
    versions: dict[str, str]  # of what trainings import, bitsandbytes among it, and Unsloth where a GPU is seen
    gpu: str  # the name of the first one it sees
    fault: str = ""  # what went wrong on that
    broken: dict[str, str] = Field(default_factory=dict)  # libraries that are installed and cannot be imported, and why


def make_image(client: Any) -> Image:
    """Make the image of this Python and its libraries on an engine, in place of an earlier one. Raises EngineError."""
    python = Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()
    images.make_image(client, IMAGE, CONTENT, images.python_files(python, dict(_site_packages())))
    return images.find_image(client, IMAGE, HOW)


def _site_packages() -> Iterator[tuple[str, Path]]:
    """Files of the wanted libraries and of all that they require, by their places among site-packages."""
    for one in _required(WANTED):
        for file in one.files or ():
            name, path = file.as_posix(), Path(str(file.locate()))
            # `torch.test` is its own tests; the compiled modules come from the sources
            if not NOT_NEEDED.search(name) and path.is_file():
                yield name, path


def _required(names: tuple[str, ...]) -> list[Distribution]:
    """These distributions and what they require here, each once."""
    found: dict[str, Distribution] = {}
    todo = list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError as problem:
            raise EngineError(
                f"{name} is not installed here, so no image can be made of it.", "Install the Academy again."
            ) from problem
        needs = map(Requirement, found[name].requires or ())
        todo += [one.name for one in needs if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [found[name] for name in sorted(found)]


def prove(client: Any, image: Image, home: Path, limits: Limits, *, gpu: str, library: str = "") -> Proof:
    """Try an image in a container as a training gets one; what it showed is remembered in the home.

    It is tried again where image, mounted code or driver are others. `library` is the one that is to train, as in a
    plan. Raises TrainingError (cause image, gpu, memory or engine) where it cannot train.
    """
    note = home / "images" / f"{image.digest.replace(':', '-')}{'-gpu' if gpu else ''}.json"
    code, driver = digest_of_code(), driver_version() if gpu else ""
    found = _kept(note)
    if found is None or (found.code, found.driver) != (code, driver):
        said, ended = _try(client, image, home, limits, gpu=gpu)
        try:
            found = Proof(image=image.digest, code=code, driver=driver, **orjson.loads(said.splitlines()[-1]))
        except (IndexError, TypeError, orjson.JSONDecodeError, ValidationError) as problem:
            last = said.splitlines()[-1][:300] if said else f"code {ended}"
            raise TrainingError(f"The image {image.name} cannot train: {last}.", HOW, cause="image") from problem
        if gpu and not found.gpu:
            raise TrainingError(f"The image {image.name} sees no GPU.", isolation.GPU, cause="gpu")
        if gpu and found.fault:
            raise TrainingError(
                f"The image {image.name} cannot use the {found.gpu}: {found.fault}.", OTHER_TORCH, cause="gpu"
            )
        write_file(note, canonical(found))
    if gpu and library != "trl" and (why := found.broken.get("unsloth")):
        raise TrainingError(
            f"The image {image.name} has an Unsloth that cannot be imported: {why}.",
            "Set ACADEMY_TRAINING_LIBRARY=trl, or name another image with ACADEMY_TRAINING_IMAGE.",
            cause="image",
        )
    return found


def digest_of_code() -> str:
    """Of the Academy's own code, as containers have it mounted."""
    files = sorted(isolation.CODE.rglob("*.py"))
    return digest_of([(str(path.relative_to(isolation.CODE)), digest_of_file(path)) for path in files])


def _kept(note: Path) -> Proof | None:
    with suppress(OSError, ValidationError):  # ValidationError: an older Academy's
        return Proof.model_validate_json(note.read_bytes())
    return None


def _try(client: Any, image: Image, home: Path, limits: Limits, *, gpu: str) -> tuple[str, int]:
    """What the trial printed, and how it ended."""
    how = isolation.settings(client, ["-m", "academy.habitat.trainer.smoke"], limits, isolation.labels(home), gpu=gpu)
    try:
        name = client.api.create_container(image.digest, **how)["Id"]
        try:
            client.api.start(name)
            code = int(client.api.wait(name, timeout=TRIAL_SECONDS)["StatusCode"])
            if client.api.inspect_container(name)["State"]["OOMKilled"]:
                raise TrainingError(
                    f"{limits.memory_bytes / 2**20:,.0f} MiB of memory are too few to try {image.name}.",
                    "Give it more with ACADEMY_TRAINING_MEMORY_GIB.",
                    cause="memory",
                )
            told = client.api.logs(name, stdout=True, stderr=code != 0, tail=20)
            return told.decode(errors="replace").strip(), code
        finally:
            with suppress(*problems()):
                client.api.remove_container(name, force=True, v=True)
    except problems() as problem:
        message, remedy, cause = isolation.in_words(problem)
        raise TrainingError(message, remedy, cause=cause) from problem
