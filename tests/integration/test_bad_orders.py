"""Orders that cannot be carried out: one sentence with a cause in the last event, and no adapter.

By the trainer's own program, but in this process: to start it costs more than what it does here.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file

from academy.genealogy.tracking import open_mlflow
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.run_folder import EVENTS, read_events
from academy.habitat.trainer import train
from academy.habitat.trainer.__main__ import carry_out
from academy.habitat.trainer.checkpoints import CHECKPOINTS
from academy.habitat.trainer.events import EventWriter
from academy.models.base_model import SEED_FOLDER, resolve
from academy.professor.recipe import Recipe
from academy.settings import load_settings
from tests.homes import RealHome
from tests.orders import order_of
from tests.topics import write_topics

LONG = {"messages": [{"role": "user", "content": "why " * 300}, {"role": "assistant", "content": "because"}]}
UNASKED = {"messages": [{"role": "assistant", "content": "because"}, {"role": "user", "content": "thanks"}]}


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Training sets deterministic algorithms, which other tests may not support."""
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


def rows(count: int) -> list[dict[str, Any]]:
    """This many short examples."""
    return [{"instruction": f"request {n}", "input": "", "output": f"answer {n % 3}"} for n in range(count)]


def ordered(place: Path, content: list[dict[str, Any]] | bytes, **changes: Any) -> TrainingOrder:
    """An order of these rows with its own files."""
    file = place / "train.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else b"".join(orjson.dumps(row) + b"\n" for row in content))
    recipe = Recipe(rank=8, alpha=16, epochs=2, batch_size=4, accumulation=1, max_length=128)
    return order_of(place, file, **{"recipe": recipe} | changes)


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


def _own_code(folder: Path) -> None:
    config = orjson.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_bytes(orjson.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))


def _with_code(place: Path) -> TrainingOrder:
    """An order whose base model changed afterwards: the normal commands reject such a model earlier."""
    order = _base(place, lambda _: None)
    _own_code(order.base.path)
    return order


def _not_a_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("down_proj.weight"))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("make", "cause", "words"),
    [
        (_altered, "data", "changed after the training was ordered"),
        (lambda place: ordered(place, b""), "data", "has no examples"),
        (lambda place: ordered(place, rows(1)), "data", "has one example"),
        (
            lambda place: ordered(place, b'{"instruction": "a"\n' * 3),
            "data",
            "Line 1 of the dataset cannot be read: not JSON",
        ),
        (lambda place: ordered(place, b'{"text": "a"}\n' * 3), "data", "cannot be read"),
        (lambda place: ordered(place, b"5\n" * 3), "data", "not a JSON object"),
        (lambda place: ordered(place, [UNASKED] * 3), "data", "no request with an answer"),
        (lambda place: ordered(place, [*rows(8), LONG]), "data", "1 of 9 examples have more than 128 tokens"),
        (lambda place: ordered(place, [LONG, LONG]), "data", "2 of 2 examples have more than 128 tokens"),
        (lambda place: _base(place, _no_marker), "template", "does not put the answer after the prompt"),
        (_with_code, "base model", "needs its own code"),
        (lambda place: _base(place, _not_a_number), "loss", "The loss became nan"),
    ],
    ids=[
        "altered",
        "empty",
        "one",
        "no JSON",
        "other rows",
        "a number",
        "no request",
        "a long row",
        "long rows",
        "no marker",
        "own code",
        "no number",
    ],
)
def test_an_invalid_order_fails_with_one_sentence_and_a_cause(
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


def carried_out(order: TrainingOrder) -> list[TrainingEvent]:
    """The events of an attempt in this process."""
    order.folder.mkdir(parents=True, exist_ok=True)
    before = len(list(read_events(order.folder / EVENTS)))
    carry_out(order, EventWriter(order.folder / EVENTS))
    return list(read_events(order.folder / EVENTS))[before:]


def test_messages_after_the_last_answer_are_ignored(tmp_path: Path) -> None:
    """ShareGPT's conversations often end with the user's thanks."""
    talks = [
        {"conversations": [
            {"from": "human", "value": row["instruction"]}, {"from": "gpt", "value": row["output"]},
            {"from": "human", "value": "thanks"},
        ]}
        for row in rows(8)
    ]  # fmt: skip
    plain, thanked = tmp_path / "plain", tmp_path / "thanked"
    adapters = []
    for place, content in ((plain, rows(8)), (thanked, talks)):
        place.mkdir()
        adapters.append(carried_out(ordered(place, content))[-1].adapter)
    assert adapters[0]
    assert adapters[0] == adapters[1]


def test_a_training_ended_before_publishing_only_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for place in (whole, cut):
        place.mkdir()
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(train, "canaries", _no_space)
        *_, last = carried_out(ordered(cut, rows(24)))
        assert (last.phase, last.cause) == ("failed", "disk")
    *_, once = carried_out(ordered(whole, rows(24)))
    told = carried_out(ordered(cut, rows(24)))
    assert "step" not in [event.phase for event in told], "it must not train again"
    assert (told[-1].phase, told[-1].adapter, told[-1].loss) == ("done", once.adapter, once.loss)


def _no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_evaluation_loss_that_is_not_finite_ends_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(rank=8, alpha=16, epochs=2, batch_size=4, accumulation=1, max_length=128, dev_share=0.3)

    def evaluate(self: Any, *given: Any, **more: Any) -> dict[str, float]:
        self.model.get_input_embeddings().weight.data.fill_(torch.nan)
        found: dict[str, float] = usual(self, *given, **more)
        return found

    usual = train._Repeatable.evaluate
    monkeypatch.setattr(train._Repeatable, "evaluate", evaluate)
    *_, last = carried_out(ordered(tmp_path, rows(40), recipe=recipe))
    assert (last.phase, last.cause) == ("failed", "loss"), last.message
    assert last.message.startswith("The evaluation loss became nan at step ")


def test_slow_steps_report_their_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "REPORT_SECONDS", 0.0)
    recipe = Recipe(rank=8, alpha=16, epochs=1, batch_size=1, accumulation=1, max_length=128)
    steps = [event for event in carried_out(ordered(tmp_path, rows(130), recipe=recipe)) if event.phase == "step"]
    assert [event.step for event in steps] == list(range(1, 131))
    assert [event.step for event in steps if event.loss is not None] == list(range(2, 131, 2))


def test_the_trainer_program_names_the_fault_of_its_order(tmp_path: Path) -> None:
    def told(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "academy.habitat.trainer", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    assert told("order.json") == (
        1, "Usage: ORDER PARENT, the file of a training order and the id of the process to end with, or 0.\n",
    )  # fmt: skip
    order = orjson.loads(ordered(tmp_path, rows(8)).model_dump_json())
    order["recipe"]["rank"] = 1000
    file = tmp_path / "order.json"
    file.write_bytes(orjson.dumps(order))
    code, said = told(str(file), str(os.getpid()))
    assert (code, said.count("\n")) == (1, 1), said
    assert "recipe.rank" in said
    (event,) = read_events(tmp_path / EVENTS)
    assert (event.phase, event.cause, event.message + "\n") == ("failed", "order", said)


def test_an_order_that_names_a_path_outside_the_home_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    order = ordered(tmp_path, rows(8), runs=home / "runs", adapters=home / "adapters")
    (event,) = ProcessBackend(gpu="", home=home).train(order)
    assert (event.phase, event.cause) == ("failed", "order")
    assert f"names {order.train_file}, which is outside {home}." in event.message
    assert not order.runs.exists()


@pytest.mark.campaign
def test_the_command_and_mlflow_show_the_same_figures(tmp_path: Path) -> None:
    there = RealHome(tmp_path / "home")
    base = Path(shutil.copytree(SEED_FOLDER, tmp_path / "base"))
    _not_a_number(base)
    assert there.run("lessons", "import", write_topics(tmp_path / "topics.jsonl")).code == 0
    ended = there.run("train", "--base-model", base, "--epochs", "1", "--batch-size", "16")
    assert ended.code == 2
    words = "The loss became nan at step 1. Use a smaller learning rate."
    assert ended.err.strip().splitlines()[-1] == words, ended.err
    assert "Traceback" not in ended.err
    client = open_mlflow(load_settings(there.path))
    (run,) = client.search_runs([client.get_experiment_by_name("academy").experiment_id])
    assert (run.info.status, run.data.tags["academy.failed"]) == ("FAILED", f"loss: {words}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Room for events and one checkpoint, but not for two."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs: only root can mount one")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_full_at_a_checkpoint_fails_with_that_cause(small_disk: Path, tmp_path: Path) -> None:
    """Complete files stay, the last event fits, and with more room the training continues there."""
    order = ordered(tmp_path, rows(24), runs=small_disk / "runs")
    last = list(ProcessBackend(gpu="").train(order))[-1]
    assert (last.phase, last.cause) == ("failed", "disk"), last.message
    assert last.message.startswith("The disk is full. Free some space")
    assert list(read_events(order.folder / EVENTS))[-1] == last, "it can be read later"
    kept = list((order.folder / CHECKPOINTS).glob("checkpoint-*/trainer_state.json"))
    assert len(kept) == 1, "the complete one stays, and the incomplete one is removed"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    told: list[TrainingEvent] = list(ProcessBackend(gpu="").train(order))
    assert told[-1].phase == "done", told[-1].message
    second = [event.n for event in told if event.phase == "started"][1]
    step = int(kept[0].parent.name.rpartition("-")[2])
    assert next(event.step for event in told if event.n > second and event.phase == "step") > step
    assert order.adapters.is_dir()
