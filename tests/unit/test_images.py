"""Images made without a registry: which files they contain, and whether compiled modules are valid in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from academy.habitat.backends import image
from academy.system.images import VERSION, python_files, write_root

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_an_image_contains_only_what_the_trainer_needs() -> None:
    names = {name for name, _ in image._site_packages()}
    assert {"torch/__init__.py", "trl/__init__.py", "orjson/__init__.py", "torch/bin/torch_shm_manager"} <= names
    tops = {name.split("/")[0] for name in names}
    assert not {"prefect", "mlflow", "playwright", "pytest", "_pytest", "academy"} & tops
    assert not [name for name in names if re.search(r"(^|/)(tests?|include)/|[.]pyc$|[.][.]", name)]
    assert any(name.startswith("trl-") and name.endswith("/METADATA") for name in names)  # for its version


@pytest.mark.slow
def test_an_image_contains_each_shared_library_once() -> None:
    python = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    more = {name: path for name, path in image._site_packages() if name.startswith("numpy")}
    found = python_files(python, more)
    places = {Path(name).name: name for name in found}
    assert found["python/bin/python3"] == python
    assert places["libc.so.6"] == "python/lib/libc.so.6"
    inside = f"python/lib/{VERSION}/site-packages/numpy"
    assert [name for name in found if "openblas" in name] == [
        name for name in found if "openblas" in name and name.startswith(inside)
    ]


def test_compiled_modules_are_valid_at_any_path_and_time(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "fresh.py").write_text("value = 1\n")
    (source / "known.py").write_text("value = 2\n")
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(source / "known.py")], check=True)
    (source / "stale.py").write_text("value = 0\n")
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(source / "stale.py")], check=True)
    (source / "stale.py").write_text("value = 3  # changed since it was compiled\n")
    write_root(tmp_path / "root.tar", {f"m/{path.name}": path for path in source.glob("*.py")})
    with tarfile.open(tmp_path / "root.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    for name in ("fresh", "known", "stale"):
        os.truncate(tmp_path / "m" / f"{name}.py", 0)  # now only the compiled module can answer
    told = subprocess.run(
        [sys.executable, "-c", "import fresh, known, stale; print(fresh.value, known.value, stale.value)"],
        cwd=tmp_path / "m", capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path / "m")},
    )  # fmt: skip
    assert told.stdout.split() == ["1", "2", "3"]


def test_the_dockerfile_installs_the_packages_of_a_made_image() -> None:
    written = (ROOT / "deployments" / "trainer.Dockerfile").read_text(encoding="utf-8")
    (stack,) = re.findall(r'stack="([^"]+)"', written)
    (beside,) = re.findall(r"\$stack ([^&]+) &&", written)
    assert (*stack.split(), *beside.split()) == image.WANTED


@pytest.mark.slow
def test_the_trainer_imports_nothing_that_its_image_lacks() -> None:
    program = (
        "import sys, academy.habitat.trainer.__main__, academy.habitat.trainer.launch, academy.habitat.trainer.smoke;"
        "files = {name.partition('.')[0] for name, module in sys.modules.items() if getattr(module, '__file__', None)};"
        "print(*files - set(sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    libraries = {canonical(library.metadata["Name"]) for library in image._required(image.WANTED)}
    owners = packages_distributions()
    missing = {
        name
        for name in run.stdout.split()
        if name in owners and not libraries & {canonical(owner) for owner in owners[name]} and name != "academy"
    }
    assert missing == set()


def canonical(name: str) -> str:
    """A distribution's name as packages compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
