"""The trial of a training's image: what it shows, when it runs again, and what it rejects.

A fake engine on loopback answers the real client; real containers are in tests/integration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from academy.errors import TrainingError
from academy.habitat.backends import isolation
from academy.habitat.backends.container import ContainerBackend
from academy.habitat.backends.image import IMAGE, ImageTrial, digest_of_code
from academy.habitat.backends.isolation import Limits
from academy.habitat.trainer import smoke
from tests.servers.docker import DIGEST, Engine, serving

LIMITS = Limits(memory_bytes=2**30, cpus=1)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    with serving(Engine(images={IMAGE: DIGEST}, gpus=True)) as found:
        monkeypatch.setenv("DOCKER_HOST", found.host)
        yield found


def look(home: Path, gpu: str = "", library: str = "") -> ImageTrial:
    return ContainerBackend(home, gpu=gpu, limits=LIMITS, library=library).try_image()[1]


def test_an_image_that_passed_its_trial_is_not_tried_again(engine: Engine, tmp_path: Path) -> None:
    found = look(tmp_path)
    assert (found.image, found.versions["trl"], found.gpu) == (DIGEST, "1.14.2", "")
    assert look(tmp_path) == found
    assert engine.tried == [False]
    assert look(tmp_path, "GPU-1").gpu == "H100"  # with a GPU the trial shows more
    assert look(tmp_path, "GPU-1").gpu == "H100"
    assert engine.tried == [False, True]


@pytest.mark.parametrize("other", [{"code": "0" * 64}, {"driver": "550.54"}, {"driver": None}])
def test_an_image_is_tried_again_after_code_or_driver_changed(
    engine: Engine, tmp_path: Path, other: dict[str, Any]
) -> None:
    found = look(tmp_path, "GPU-1")
    (note,) = (tmp_path / "images").iterdir()
    said = found.model_dump(mode="json") | other
    note.write_text(json.dumps({name: value for name, value in said.items() if value is not None}))
    assert look(tmp_path, "GPU-1") == found
    assert engine.tried == [True, True]


def test_the_code_digest_covers_the_mounted_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "CODE", tmp_path)
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "smoke.py").write_text("1")
    (tmp_path / "trainer" / "smoke.pyc").write_text("1")
    before = digest_of_code()
    (tmp_path / "trainer" / "smoke.pyc").write_text("2")
    assert digest_of_code() == before
    (tmp_path / "trainer" / "smoke.py").write_text("2")
    assert digest_of_code() != before


def test_a_gpu_that_the_image_cannot_use_is_refused_each_time(engine: Engine, tmp_path: Path) -> None:
    engine.on_gpu = {"gpu": "H100", "fault": "AcceleratorError: CUDA error: no kernel image is available"}
    with pytest.raises(TrainingError) as refused:
        look(tmp_path, "GPU-1")
    assert refused.value.cause == "gpu"
    assert refused.value.message.endswith(
        "cannot use the H100: AcceleratorError: CUDA error: no kernel image is available."
    )
    assert "ACADEMY_TRAINING_IMAGE" in refused.value.remedy
    assert not (tmp_path / "images").exists()
    look(tmp_path)  # without the GPU, the image can train
    engine.on_gpu = {"gpu": ""}
    with pytest.raises(TrainingError, match="sees no GPU"):
        look(tmp_path, "GPU-1")


def test_a_broken_unsloth_is_refused_where_it_would_train(engine: Engine, tmp_path: Path) -> None:
    engine.on_gpu = {"gpu": "H100", "broken": {"unsloth": "ImportError: no triton"}}
    with pytest.raises(TrainingError) as refused:
        look(tmp_path, "GPU-1")
    assert "contains an Unsloth that cannot be imported: ImportError: no triton." in refused.value.message
    assert "ACADEMY_TRAINING_LIBRARY=trl" in refused.value.remedy
    assert look(tmp_path, "GPU-1", "trl").gpu == "H100"
    with pytest.raises(TrainingError, match="no triton"):  # the result is stored
        look(tmp_path, "GPU-1")
    assert engine.tried == [True]


def test_an_image_with_invalid_trial_output_cannot_train(engine: Engine, tmp_path: Path) -> None:
    engine.says = {"python": "3.11.7"}
    with pytest.raises(TrainingError) as refused:
        look(tmp_path)
    assert (refused.value.cause, engine.tried) == ("image", [False])


def test_a_failed_computation_is_reported_in_one_line() -> None:
    """On a real CPU; a missing GPU replaces one without kernels."""
    import torch

    assert smoke.compute_on("cpu") == ""
    if not torch.cuda.is_available():
        assert smoke.compute_on("cuda").startswith(("AssertionError: ", "RuntimeError: "))


@pytest.mark.slow
def test_a_smoke_test_here_gives_a_valid_trial() -> None:
    """Really run in this Python: the output of a container of an image made of it."""
    found = ImageTrial(image=DIGEST, code="", driver="", **smoke.smoke_test())
    assert found.versions["torch"]
    assert ("bitsandbytes" in found.versions) is (find_spec("bitsandbytes") is not None)
    assert found.fault == ""
    assert "unsloth" not in found.versions or found.gpu


def test_optional_libraries_are_really_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sound_library.py").write_text("")
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('no driver\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    versions, broken = smoke.optional_libraries(("sound_library", "broken_library", "absent_library", "orjson"))
    assert versions["sound_library"] == "unknown"
    assert set(versions) == {"sound_library", "orjson"}
    assert broken == {"broken_library": "RuntimeError: no driver"}
