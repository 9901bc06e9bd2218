"""The image that trainings run in: made of this Python and the trainer's libraries, or one from a registry.

The Academy's own code is mounted and not part of the image, so an image is made again only when libraries change.
Before an image is used it is tried: can it import what the trainer needs, in which versions, and can it use a GPU?
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
"""The label with the digest of the image's files."""
IMAGE_REMEDY = (
    "Make it: academy trainer --make-image. Or build deployments/trainer.Dockerfile, or fetch one (docker pull), and "
    "name it with ACADEMY_TRAINING_IMAGE."
)
WANTED = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors", "tokenizers", "numpy",
          "pydantic", "orjson", "blake3", "jinja2", "cryptography", "typing-extensions", "packaging",
          "nvidia-ml-py")  # fmt: skip
"""What the trainer imports. The image contains these and their requirements, and nothing else."""
NOT_NEEDED = re.compile(r"(^|/)(tests?|include|__pycache__)/|^torch/bin/(?!torch_shm_manager$)|^\.\./")
TRIAL_SECONDS = 300
OTHER_TORCH = (
    "Name an image whose torch was built for that GPU and driver with ACADEMY_TRAINING_IMAGE, "
    "or set ACADEMY_ENABLE_GPU=false to train on the CPU."
)


class ImageTrial(Record):
    """The result of trying an image."""

    image: str  # its digest
    code: str  # the digest of the Academy's code that was mounted
    driver: str  # of the GPU that it was tried with; empty without one
    python: str
    versions: dict[str, str]  # of what trainings import, with bitsandbytes, and with Unsloth where a GPU is visible
    gpu: str  # name of the first visible GPU
    fault: str = ""  # what failed on that GPU
    broken: dict[str, str] = Field(default_factory=dict)  # installed libraries that cannot be imported, and why


def make_image(client: Any) -> Image:
    """Make the image of this Python and its libraries on an engine, replacing an earlier one. Raises EngineError."""
    python = Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()
    images.make_image(client, IMAGE, CONTENT, images.python_files(python, dict(_site_packages())))
    return images.find_image(client, IMAGE, IMAGE_REMEDY)


def _site_packages() -> Iterator[tuple[str, Path]]:
    """Files of the wanted libraries and of their requirements, by their paths in site-packages."""
    for library in _required(WANTED):
        for file in library.files or ():
            name, path = file.as_posix(), Path(str(file.locate()))
            # `torch.test` is its own tests; compiled modules are made from the sources
            if not NOT_NEEDED.search(name) and path.is_file():
                yield name, path


def _required(names: tuple[str, ...]) -> list[Distribution]:
    """These distributions and what they require here, each once."""
    distributions: dict[str, Distribution] = {}
    todo = list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in distributions:
            continue
        try:
            distributions[name] = distribution(name)
        except PackageNotFoundError as problem:
            raise EngineError(
                f"An image of this Python cannot be made: {name} is not installed.", "Install the Academy again."
            ) from problem
        requirements = map(Requirement, distributions[name].requires or ())
        todo += [need.name for need in requirements if need.marker is None or need.marker.evaluate({"extra": ""})]
    return [distributions[name] for name in sorted(distributions)]


def try_image(client: Any, image: Image, home: Path, limits: Limits, *, gpu: str, library: str = "") -> ImageTrial:
    """Try an image in a container like a training's; the home remembers the result.

    It is tried again after the image, the mounted code or the driver changed. `library`: the one that will train, as
    in a plan. Raises TrainingError (cause image, gpu, memory or engine) if it cannot train.
    """
    file = home / "images" / f"{image.digest.replace(':', '-')}{'-gpu' if gpu else ''}.json"
    code, driver = digest_of_code(), driver_version() if gpu else ""
    trial = _earlier_trial(file)
    if trial is None or (trial.code, trial.driver) != (code, driver):
        output, exit_code = _run_trial(client, image, home, limits, gpu=gpu)
        try:
            trial = ImageTrial(image=image.digest, code=code, driver=driver, **orjson.loads(output.splitlines()[-1]))
        except (IndexError, TypeError, orjson.JSONDecodeError, ValidationError) as problem:
            last = output.splitlines()[-1][:300] if output else f"code {exit_code}"
            raise TrainingError(
                f"The image {image.name} cannot train: {last}.", IMAGE_REMEDY, cause="image"
            ) from problem
        if gpu and not trial.gpu:
            raise TrainingError(f"The image {image.name} sees no GPU.", isolation.GPU_REMEDY, cause="gpu")
        if gpu and trial.fault:
            raise TrainingError(
                f"The image {image.name} cannot use the {trial.gpu}: {trial.fault}.", OTHER_TORCH, cause="gpu"
            )
        write_file(file, canonical(trial))
    if gpu and library != "trl" and (reason := trial.broken.get("unsloth")):
        raise TrainingError(
            f"The image {image.name} contains an Unsloth that cannot be imported: {reason}.",
            "Set ACADEMY_TRAINING_LIBRARY=trl, or name another image with ACADEMY_TRAINING_IMAGE.",
            cause="image",
        )
    return trial


def digest_of_code() -> str:
    """Digest of the Academy's own code, as it is mounted in containers."""
    files = sorted(isolation.CODE.rglob("*.py"))
    return digest_of([(str(path.relative_to(isolation.CODE)), digest_of_file(path)) for path in files])


def _earlier_trial(file: Path) -> ImageTrial | None:
    with suppress(OSError, ValidationError):  # ValidationError: a file of an older version
        return ImageTrial.model_validate_json(file.read_bytes())
    return None


def _run_trial(client: Any, image: Image, home: Path, limits: Limits, *, gpu: str) -> tuple[str, int]:
    """What the trial printed, and its exit code."""
    options = isolation.container_options(
        client, ["-m", "academy.habitat.trainer.smoke"], limits, isolation.labels(home), gpu=gpu
    )
    try:
        name = client.api.create_container(image.digest, **options)["Id"]
        try:
            client.api.start(name)
            code = int(client.api.wait(name, timeout=TRIAL_SECONDS)["StatusCode"])
            if client.api.inspect_container(name)["State"]["OOMKilled"]:
                raise TrainingError(
                    f"{limits.memory_bytes / 2**20:,.0f} MiB of memory is too little to try {image.name}.",
                    "Give it more with ACADEMY_TRAINING_MEMORY_GIB.",
                    cause="memory",
                )
            output = client.api.logs(name, stdout=True, stderr=code != 0, tail=20)
            return output.decode(errors="replace").strip(), code
        finally:
            with suppress(*problems()):
                client.api.remove_container(name, force=True, v=True)
    except problems() as problem:
        message, remedy, cause = isolation.explain(problem)
        raise TrainingError(message, remedy, cause=cause) from problem
