"""Orders that cannot be carried out: one sentence with a cause in the last event, and no adapter.

By the trainer's own program, but in this process: to start it costs more than what it does here.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file

from academy.artifacts import digest_of_file
from academy.base_model import SEED_FOLDER, resolve
from academy.habitat.backend import TrainingEvent, TrainingOrder
from academy.habitat.process import EVENTS, ProcessBackend, read_events
from academy.habitat.trainer.__main__ import carry_out
from academy.habitat.trainer.checkpoints import CHECKPOINTS
from academy.habitat.trainer.events import EventWriter
from academy.professor import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:The pynvml package is deprecated:FutureWarning")
LONG = {"messages": [{"role": "user", "content": "why " * 300}, {"role": "assistant", "content": "because"}]}


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Training wants algorithms that repeat themselves; whoever comes after us may not."""
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


def rows(count: int) -> list[dict[str, Any]]:
    """So many short examples."""
    return [{"instruction": f"request {n}", "input": "", "output": f"answer {n % 3}"} for n in range(count)]


def ordered(place: Path, content: list[dict[str, Any]] | bytes, **changes: Any) -> TrainingOrder:
    """An order of these rows with files of its own."""
    file = place / "train.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else b"".join(orjson.dumps(row) + b"\n" for row in content))
    facts: dict[str, Any] = {
        "base": resolve("seed"), "dataset": "0" * 64, "train_file": file, "train_digest": digest_of_file(file),
        "recipe": Recipe(rank=8, alpha=16, epochs=2, batch_size=4, accumulation=1, max_length=128),
        "runs": place / "runs", "adapters": place / "adapters",
    }  # fmt: skip
    return TrainingOrder.model_validate(facts | changes)


def _altered(place: Path) -> TrainingOrder:
    order = ordered(place, rows(8))
    order.train_file.write_bytes(order.train_file.read_bytes().replace(b"answer", b"gossip"))
    return order


def _base(place: Path, change: Callable[[Path], None]) -> TrainingOrder:
    folder = Path(shutil.copytree(SEED_FOLDER, place / "base"))
    change(folder)
    return ordered(place, rows(8), base=resolve(str(folder)))


def _no_marker(folder: Path) -> None:
    config = orjson.loads((folder / "tokenizer_config.json").read_bytes())
    config["chat_template"] = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}Assistant:"
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(config))


def _not_a_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("down_proj.weight"))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("make", "cause", "words"),
    [
        (_altered, "data", "was altered after it was ordered"),
        (lambda place: ordered(place, b""), "data", "has no examples"),
        (lambda place: ordered(place, rows(1)), "data", "has one example"),
        (lambda place: ordered(place, b'{"instruction": "a"\n' * 3), "data", "a line is no JSON"),
        (lambda place: ordered(place, b'{"text": "a"}\n' * 3), "data", "cannot be read"),
        (lambda place: ordered(place, [*rows(8), LONG]), "data", "1 of 9 examples have over 128 tokens"),
        (lambda place: ordered(place, [LONG, LONG]), "data", "2 of 2 examples have over 128 tokens"),
        (lambda place: _base(place, _no_marker), "template", "does not put the answer behind the prompt"),
        (lambda place: _base(place, _not_a_number), "loss", "The loss became nan"),
    ],
    ids=["altered", "empty", "one", "no JSON", "other rows", "a long row", "long rows", "no marker", "no number"],
)
def test_one_sentence_with_a_cause(
    make: Callable[[Path], TrainingOrder], cause: str, words: str, tmp_path: Path
) -> None:
    order = make(tmp_path)
    order.folder.mkdir(parents=True)
    told = carry_out(order, EventWriter(order.folder / EVENTS))
    *_, event = read_events(order.folder / EVENTS)
    assert told == {"message": event.message, "cause": event.cause}
    assert (event.phase, event.cause) == ("failed", cause), event.message
    assert words in event.message
    assert event.message.endswith(".")
    assert "\n" not in event.message
    assert not order.adapters.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Room for events and for one checkpoint, and not for two."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a tmpfs can be mounted by root alone")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_at_a_checkpoint(small_disk: Path, tmp_path: Path) -> None:
    """What is whole stays, the sentence finds room, and with more room it goes on there."""
    order = ordered(tmp_path, rows(24), runs=small_disk / "runs")
    last = list(ProcessBackend(gpu="").train(order))[-1]
    assert (last.phase, last.cause) == ("failed", "disk"), last.message
    assert last.message.startswith("The disk is full. Free some space")
    assert list(read_events(order.folder / EVENTS))[-1] == last, "for whoever asks later"
    kept = list((order.folder / CHECKPOINTS).glob("checkpoint-*/trainer_state.json"))
    assert len(kept) == 1, "the whole one stays, and the torn one is gone"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    told: list[TrainingEvent] = list(ProcessBackend(gpu="").train(order))
    assert told[-1].phase == "done", told[-1].message
    second = [event.n for event in told if event.phase == "started"][1]
    step = int(kept[0].parent.name.rpartition("-")[2])
    assert next(event.step for event in told if event.n > second and event.phase == "step") > step
    assert order.adapters.is_dir()
