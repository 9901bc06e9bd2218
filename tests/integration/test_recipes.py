"""Real trainings of other recipes than the usual one, by the trainer itself, in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from academy.adapters.adapter import CONFIG
from academy.errors import TrainingError
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.memory import Plan, split_batch
from academy.habitat.run_folder import EVENTS, read_events
from academy.habitat.trainer.events import NOTE
from academy.habitat.trainer.model import Library, load, prepare, refuse_leaks
from academy.habitat.trainer.rows import packed, read_rows
from academy.models.chat_template import ChatTemplate
from academy.professor.recipe import Recipe
from academy.store.files import digest_of_file
from tests.orders import order_of, topic_rows, train_here, write_rows
from tests.topics import TOPICS

RECIPE = Recipe(rank=8, alpha=16, epochs=2, learning_rate=5e-3, batch_size=4, accumulation=1, max_length=128)
Order = Callable[..., TrainingOrder]


@pytest.fixture(scope="module", autouse=True)
def as_it_was() -> Iterator[None]:
    """Training needs deterministic algorithms; later tests may not allow them."""
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """Orders of twenty rows, each with files of its own."""
    file = write_rows(tmp_path / "train.jsonl", topic_rows(4))

    def made(name: str = "one", plan: Plan | None = None, **changes: Any) -> TrainingOrder:
        recipe = Recipe.model_validate(RECIPE.model_dump() | changes)
        return order_of(tmp_path / name, file, plan=plan, recipe=recipe)

    return made


def test_checkpointing_changes_no_byte(order: Order) -> None:
    plain, told = train_here(order("plain"))
    folder, events = train_here(order("less", Plan(device="cpu", checkpointing=True)))
    assert folder.name == plain.name
    assert "with checkpointing" in next(one.message for one in events if one.phase == "contract")
    assert "TRL" in next(one.message for one in told if one.phase == "contract")


def test_dora_trains_with_rank_stabilised_scaling(order: Order) -> None:
    folder, _ = train_here(order(use_dora=True, use_rslora=True, epochs=1))
    config = json.loads((folder / CONFIG).read_text())
    assert (config["use_dora"], config["use_rslora"]) == (True, True)
    assert any("magnitude" in name for name in load_file(folder / "adapter_model.safetensors"))


def test_a_training_without_gains_ends_early_with_its_best_adapter(order: Order) -> None:
    """One wording an answer: nothing that is learned helps with the others, and their loss soon rises."""
    one = order(dev_share=0.3, patience=1, epochs=12)
    rows = [{"instruction": topic, "input": "", "output": answer} for topic, answer in TOPICS.items()]
    one.train_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = one.model_copy(update={"train_digest": digest_of_file(one.train_file)})
    folder, events = train_here(one)
    losses = [event.eval_loss for event in events if event.eval_loss is not None]
    steps = max(event.steps for event in events)
    last = max(event.step for event in events if event.phase == "step")
    assert losses.index(min(losses)) == len(losses) - 2  # one evaluation without a gain ended it
    assert last < steps
    contract = next(event.message for event in events if event.phase == "contract")
    kept = int(contract.partition("out, ")[2].split()[0])
    assert 0 < kept < 32
    assert json.loads((folder / "manifest.json").read_text())["examples"] == 32 - kept


def test_packing_trains_on_every_example(order: Order) -> None:
    folder, events = train_here(order(packing=True, epochs=1))
    assert "20 rows in and out" in next(event.message for event in events if event.phase == "contract")
    one = order(packing=True)
    rows = read_rows(one, ChatTemplate.of(one.base.path)).train
    found = packed(rows, 128)
    assert sum(len(row["seq_lengths"]) for row in found) == 20
    assert sorted(token for row in found for token in row["input_ids"]) == sorted(
        token for row in rows for token in row["input_ids"]
    )
    assert len(found) < 20
    assert max(len(row["input_ids"]) for row in found) <= 128
    assert json.loads((folder / "manifest.json").read_text())["examples"] == 20


def test_packed_examples_that_see_each_other_are_refused(order: Order) -> None:
    one = order(packing=True)
    row = max(
        packed(read_rows(one, ChatTemplate.of(one.base.path)).train, 128), key=lambda row: len(row["seq_lengths"])
    )
    library = Library("trl", Plan(device="cpu"))
    model = load(one, library)
    refuse_leaks(model, row, library)  # transformers' own attention keeps them apart

    class Careless(torch.nn.Module):
        """The same model that takes a row for one text."""

        device = model.device

        def forward(self, input_ids: Any, position_ids: Any, use_cache: bool) -> Any:
            straight = torch.arange(position_ids.shape[1])[None]
            return model(input_ids=input_ids, position_ids=straight, use_cache=use_cache)

    with pytest.raises(TrainingError, match="see each other"):
        refuse_leaks(Careless(), row, library)

    class ByLengths(Careless):
        """One that keeps examples apart by their lengths alone, as Unsloth's do."""

        def forward(self, packed_seq_lengths: Any, **given: Any) -> Any:  # type: ignore[override]
            places = torch.cat([torch.arange(length) for length in packed_seq_lengths.tolist()])[None]
            return model(**{**given, "position_ids": places})

    refuse_leaks(ByLengths(), row, Library("unsloth", Plan(device="cpu")))


def of_trainers(order: TrainingOrder) -> list[str]:
    """Command lines of all processes of an order."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(order.folder).encode() in (line := entry.read_bytes()):
                found.append(line.replace(b"\0", b" ").decode())
    return found


@pytest.mark.campaign
def test_two_processes_share_a_training_and_none_outlives_it(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    """By gloo on the CPU; accumulation is shared, so even the bytes are those of one process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    two = order("two", Plan(device="cpu", processes=2), batch_size=2, accumulation=2)
    begun = ProcessBackend(gpu="").train(two)
    assert next(event for event in begun if event.phase == "step").loss is not None
    workers = [line for line in of_trainers(two) if "academy.habitat.trainer " in line]
    assert len(workers) == 2, of_trainers(two)
    begun.close()  # type: ignore[attr-defined]
    until = time.monotonic() + 10
    while of_trainers(two) and time.monotonic() < until:
        time.sleep(0.1)
    assert of_trainers(two) == []

    last = list(ProcessBackend(gpu="").train(two))[-1]
    assert last.phase == "done", last.message
    one, _ = train_here(order("one", batch_size=2, accumulation=2))
    assert last.adapter.startswith(one.name)
    assert [event.n for event in read_events(two.folder / EVENTS)] == list(range(1, last.n + 1))


@pytest.mark.campaign
def test_a_process_that_aborts_at_its_end_does_not_undo_a_training(
    order: Order, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As gloo's threads can: a process without more to do must not end before the adapter is published."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, pathlib\nif os.environ.get('RANK') == '1':\n    atexit.register(os.abort)\n"
        "    pathlib.Path(__file__).with_name('registered').touch()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    two = order("two", Plan(device="cpu", processes=2), batch_size=2, accumulation=2)
    last = list(ProcessBackend(gpu="").train(two))[-1]
    assert last.phase == "done", last.message
    assert (tmp_path / "registered").exists()


@pytest.mark.campaign
def test_two_processes_that_share_the_weights_continue_after_a_kill(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP by gloo on the CPU, with evaluations: the same bytes as without the kill; the loss of one process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    how: dict[str, Any] = {"plan": Plan(device="cpu", processes=2, sharded=True), "batch_size": 2, "accumulation": 2}
    how |= {"dev_share": 0.2}
    whole = list(ProcessBackend(gpu="").train(order("whole", **how)))
    assert whole[-1].phase == "done", whole[-1].message
    assert "in 2 processes that share the weights" in next(one.message for one in whole if one.phase == "contract")
    cut = order("cut", **how)
    begun = ProcessBackend(gpu="").train(cut)
    assert next(event for event in begun if event.phase == "checkpoint").step < whole[-2].steps
    begun.close()  # type: ignore[attr-defined]
    assert of_trainers(cut) == []
    told = list(ProcessBackend(gpu="").train(cut))
    second = [event for event in told if event.phase == "started"][1].n
    assert next(event.step for event in told if event.n > second and event.phase == "step") > 1, "it began again"
    assert told[-1].adapter == whole[-1].adapter
    how["plan"] = None
    _, alone = train_here(order("alone", **how))
    losses = [[one.loss for one in events if one.loss is not None and one.phase == "step"] for events in (whole, alone)]
    # 16 or so rows to train on fill four steps; the fifth is filled up with the first rows where it is shared
    assert losses[0][:4] == pytest.approx(losses[1][:4], rel=1e-4)
    assert any(event.eval_loss is not None for event in whole)


def test_a_step_that_cannot_be_shared_is_refused() -> None:
    assert split_batch(Recipe(batch_size=3, accumulation=4), 2) == (3, 2), "the same batches where that is possible"
    assert split_batch(Recipe(batch_size=4, accumulation=3), 2) == (2, 3)
    with pytest.raises(TrainingError, match="9 examples per step cannot be split over 2 processes"):
        split_batch(Recipe(batch_size=3, accumulation=3), 2)


@pytest.mark.campaign
def test_a_refusal_of_all_processes_is_reported_once(order: Order) -> None:
    one = order("odd", Plan(device="cpu", processes=2), batch_size=3)
    events = list(ProcessBackend(gpu="").train(one))
    assert (events[-1].phase, events[-1].cause) == ("failed", "order")
    assert events[-1].message.startswith("3 examples per step cannot be split over 2 processes.")


def test_the_known_cause_of_several_processes_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    from academy.habitat.trainer import launch

    def ended(*codes: int) -> ChildFailedError:
        failures = {rank: ProcessFailure(rank, 1, code, "none") for rank, code in enumerate(codes)}
        return ChildFailedError("trainer", failures)

    def note(rank: int, message: str, cause: str) -> None:
        (tmp_path / NOTE.format(rank)).write_text(json.dumps({"message": message, "cause": cause}))

    assert launch.failure_of(tmp_path, ended(1), 0) == {
        "message": "A process of the training ended: code 1.", "cause": "killed",
    }  # fmt: skip
    note(0, "The trainer failed: Connection closed by peer.", "unknown")
    assert launch.failure_of(tmp_path, ended(1, 1), 0)["cause"] == "unknown"
    monkeypatch.setattr(launch, "oom_kills", lambda: 4)
    assert launch.failure_of(tmp_path, ended(1, -9), 3)["cause"] == "memory", "the kernel ended the other one"
    assert launch.failure_of(tmp_path, ended(1, -9), 4)["cause"] == "killed", "a signal ended it"
    note(1, "The training ran out of memory.", "memory")
    assert launch.failure_of(tmp_path, ended(1, 1), 0)["cause"] == "memory", "its loss of the others is what they note"


@pytest.mark.parametrize(
    ("changes", "plan", "said"),
    [
        ({"four_bit": True, "dev_share": 0.2}, None, "4-bit weights"),
        ({"four_bit": True, "packing": True}, None, "4-bit weights"),
        ({"four_bit": True}, Plan(device="cpu", processes=2, sharded=True), "cannot share 4-bit weights"),
        ({}, Plan(device="cuda"), "needs a GPU, but torch sees none"),
        ({}, Plan(device="cpu", library="unsloth"), "needs a GPU and an installed Unsloth"),
    ],
)
def test_unsupported_recipes_are_refused(order: Order, changes: dict[str, Any], plan: Plan, said: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is present")
    with pytest.raises(TrainingError, match=said) as refusal:
        prepare(order(plan=plan, **changes))
    assert refusal.value.cause == ("order" if "share" in said else "gpu")
    assert refusal.value.remedy


def test_too_few_examples_to_evaluate_on_are_refused(order: Order) -> None:
    one = order(dev_share=0.001)
    with pytest.raises(TrainingError, match="cannot be split into") as refusal:
        read_rows(one, ChatTemplate.of(one.base.path))
    assert refusal.value.cause == "data"


def test_the_same_request_is_never_on_both_sides(order: Order) -> None:
    one = order(dev_share=0.3)
    rows = [json.loads(line) for line in one.train_file.read_text().splitlines()]
    twice = one.train_file.with_name("twice.jsonl")
    twice.write_text("".join(json.dumps(row) + "\n" for row in (*rows, *rows)))
    both = one.model_copy(update={"train_file": twice, "train_digest": digest_of_file(twice)})
    template = ChatTemplate.of(one.base.path)
    single, double = read_rows(one, template), read_rows(both, template)
    assert double.dev == single.dev * 2
    assert double.train == single.train * 2
