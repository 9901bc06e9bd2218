"""The loop end to end with real parts: the command line, the trainer, MLflow, the arena, the ledger and the runtime.

One evolution is shared by all tests (tests/conftest.py). Other homes are made where a test spoils something.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.adapters.adapter import MANIFEST, WEIGHTS, Manifest, read_adapter
from academy.curriculum.dataset import read_dataset
from academy.errors import AdapterError
from academy.models.base_model import SEED_FOLDER, resolve
from academy.store.files import content_digest_of
from academy.system.hardware import take_inventory
from tests.conftest import Evolved
from tests.homes import RealHome, result_of
from tests.refusals import refusal_of
from tests.topics import RECIPE, TOPICS, WORDINGS

SHA256 = 64
ONE_EPOCH = ("--epochs", "1", "--learning-rate", "5e-3", "--batch-size", "16")


# --- the evolution and what it left ------------------------------------------------------------------------------


def test_evolve_reports_every_stage(evolved: Evolved) -> None:
    result = result_of(evolved.first)
    dataset, adapter, verdict, stages = (result[name] for name in ("dataset", "adapter", "verdict", "stages"))
    assert result["decision"]["train"] is True
    assert "160" in result["decision"]["because"], "the number of lessons"
    assert (dataset["examples"], dataset["holdout"]) == (128, 32)
    assert Path(dataset["path"]).name == dataset["digest"][:16]
    assert len(dataset["digest"]) == len(adapter["digest"]) == SHA256
    assert (adapter["version"], adapter["parent"]) == ("1", "base")
    assert "questions of recall (p = " in verdict["because"]
    assert set(stages) == {"start", "experience", "dataset", "decision", "training", "arena", "promotion"}
    assert max(stages, key=stages.get) == "training"
    assert sum(stages.values()) == pytest.approx(evolved.first.seconds, rel=0.5)


def test_the_flow_does_not_repeat_what_the_command_prepared(evolved: Evolved) -> None:
    with closing(sqlite3.connect(evolved.home.path / "prefect" / "prefect.db")) as prefect:
        names = [name.rpartition("-")[0] for (name,) in prefect.execute("SELECT name FROM task_run ORDER BY created")]
    assert names == ["curate dataset", "choose recipe", "decide", "train", "examine", "promote"]
    assert evolved.first.err.count("160 admitted") == 1


def test_the_winner_is_promoted(evolved: Evolved) -> None:
    result = result_of(evolved.first)
    assert result["verdict"]["outcome"] == "PROMOTE", result["verdict"]["because"]
    assert result["promoted"] is True
    assert result["champion"] == "1"


def test_an_evolution_leaves_one_of_everything_and_no_process(evolved: Evolved) -> None:
    state = evolved.home.state()
    assert evolved.home.left_behind() == []
    assert len(state.adapters) == len(state.versions) == len(state.verdicts) == len(state.promotions) == 1
    assert state.champion == state.alias == "1"
    assert state.adapters[0][1] == result_of(evolved.first)["adapter"]["digest"]
    assert state.staging == ()


def test_progress_is_logged_on_stderr_without_bars_or_tracebacks(evolved: Evolved) -> None:
    for words in ("160 admitted", "dataset ", "contract holds", "step ", "is registered", "is champion"):
        assert words in evolved.first.err
    assert "Traceback" not in evolved.first.err
    assert "Loading weights" not in evolved.first.err


@pytest.fixture(scope="module")
def mlflow(evolved: Evolved) -> Any:
    """MLflow's own client on the evolved home."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{evolved.home.path / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.fixture(scope="module")
def run(mlflow: Any) -> Any:
    """The one training run."""
    experiment = mlflow.get_experiment_by_name("academy")
    found = mlflow.search_runs([experiment.experiment_id])
    assert len(found) == 1
    return found[0]


def test_mlflow_has_the_run_with_recipe_curve_and_dataset(evolved: Evolved, mlflow: Any, run: Any) -> None:
    result = result_of(evolved.first)
    assert run.info.status == "FINISHED"
    recipe = {name: str(value) for name, value in result["recipe"].items()}
    assert {name: run.data.params[name] for name in recipe} == recipe
    curve = sorted(mlflow.get_metric_history(run.info.run_id, "loss"), key=lambda metric: metric.step)
    steps = [event["step"] for event in evolved.home.events() if event["phase"] == "step"]
    assert [metric.step for metric in curve] == steps
    assert len(curve) >= 20
    assert curve[-1].value < curve[0].value / 4
    (used,) = run.inputs.dataset_inputs
    assert result["dataset"]["digest"].startswith(used.dataset.digest)
    assert run.data.tags["academy.dataset"] == result["dataset"]["digest"]


def test_mlflow_has_predicted_and_measured_memory(evolved: Evolved, run: Any) -> None:
    measured, predicted = run.data.metrics["memory_peak_bytes"], run.data.metrics["memory_predicted_bytes"]
    assert measured == max(event["memory"] for event in evolved.home.events() if event["phase"] == "step")
    assert 0.5 < measured / predicted < 2
    machine = take_inventory(engine=False)
    assert run.data.tags["academy.device"] == ("cuda" if machine.gpus and machine.cuda else "cpu")
    assert run.data.tags["academy.base"]
    assert "it would train on " in result_of(evolved.first)["decision"]["because"]


def test_mlflow_and_status_have_seconds_and_energy_of_the_training(evolved: Evolved, run: Any) -> None:
    events = evolved.home.events()
    stands = result_of(evolved.home.run("habitat", "status", "v1", "--json"))
    assert (stands["status"], stands["adapter"]) == ("finished", result_of(evolved.first)["adapter"]["digest"])
    assert stands["seconds"] == pytest.approx(events[-1]["at"] - events[0]["at"])
    assert run.data.metrics["training_seconds"] == pytest.approx(stands["seconds"])
    assert run.data.metrics.get("energy_joules") == stands["energy"]  # None on the CPU
    assert "cost" not in run.data.metrics
    assert result_of(evolved.home.run("habitat", "runs", "--json"))[0]["run"] == stands["run"]
    assert "This base model has no version v9" in refusal_of(evolved.home.run("habitat", "status", "v9"))


def test_mlflow_has_the_adapter_as_a_logged_model(evolved: Evolved, mlflow: Any, run: Any, tmp_path: Path) -> None:
    (model,) = mlflow.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == run.info.run_id
    assert model.tags["adapter"] == result_of(evolved.first)["adapter"]["digest"]
    from mlflow.artifacts import download_artifacts

    kept = Path(
        download_artifacts(
            artifact_uri=model.artifact_location, dst_path=str(tmp_path), tracking_uri=mlflow.tracking_uri
        )
    )
    assert read_adapter(kept).digest == result_of(evolved.first)["adapter"]["digest"]


def test_mlflow_has_the_version_with_its_tags(evolved: Evolved, mlflow: Any, run: Any) -> None:
    result = result_of(evolved.first)
    family = resolve("seed").family
    (version,) = mlflow.search_model_versions(f"name = '{family}'")
    assert version.run_id == run.info.run_id
    wanted = {
        "adapter": result["adapter"]["digest"],
        "dataset": result["dataset"]["digest"],
        "generation": "1",
        "parent": "base",
        "verdict": result["verdict"]["outcome"],
    }
    assert {name: version.tags[name] for name in wanted} == wanted
    assert mlflow.get_model_version_by_alias(family, "champion").version == version.version


def test_a_repeated_evolve_trains_nothing_and_prints_one_sentence(evolved: Evolved) -> None:
    before = evolved.home.state()
    again = evolved.home.run(*evolved.arguments[:-1])
    assert again.code == 0
    (sentence,) = again.out.strip().splitlines()
    assert sentence.startswith("Not training: ")
    assert "Traceback" not in again.err
    assert evolved.home.state() == before


def test_a_repeated_evolve_with_json_has_the_same_keys(evolved: Evolved) -> None:
    again = result_of(evolved.home.run(*evolved.arguments))
    assert again["decision"]["train"] is False
    assert again["promoted"] is False
    assert again["adapter"] is None
    assert {"decision", "dataset", "adapter", "verdict", "promoted", "stages"} <= set(again)


# --- the other commands ------------------------------------------------------------------------------------------


def test_status_names_champion_and_lessons(evolved: Evolved) -> None:
    found = result_of(evolved.home.run("status", "--json"))
    assert found["champion"] == "1"
    assert found["lessons"]["total_lessons"] == 160
    assert found["lessons"]["new"] == 0
    assert found["budget"]["spent"] == 1


def test_models_and_genealogy_list_the_version(evolved: Evolved) -> None:
    (model,) = result_of(evolved.home.run("models", "--json"))
    assert (model["version"], model["champion"], model["parent"]) == ("1", True, "base")
    tree = result_of(evolved.home.run("genealogy", "--json"))
    assert tree["champion"] == "1"
    assert [row["kind"] for row in tree["history"]] == ["verdict", "promotion"]


def test_ask_answers_with_the_champion(evolved: Evolved) -> None:
    found = result_of(evolved.home.run("ask", "who helps me with ferry trouble", "--json"))
    assert found["version"] == "1"
    assert found["adapter"] == result_of(evolved.first)["adapter"]["digest"]
    assert found["answer"] == TOPICS["ferry"]


def test_ask_for_a_version_that_is_not_there_is_refused(evolved: Evolved) -> None:
    assert "This base model has no version 7" in refusal_of(evolved.home.run("ask", "hello", "--version", "7"))


def test_curate_gives_the_same_dataset_again(evolved: Evolved) -> None:
    found = result_of(evolved.home.run("curate", "--json"))
    assert found["digest"] == result_of(evolved.first)["dataset"]["digest"]


def test_decide_says_no_with_every_reason(evolved: Evolved) -> None:
    found = result_of(evolved.home.run("decide", "--json"))
    assert found["decision"]["train"] is False
    assert {reason["name"] for reason in found["decision"]["reasons"]} >= {"lessons", "new lessons", "hours"}


def test_lessons_are_listed_and_counted(evolved: Evolved) -> None:
    assert len(result_of(evolved.home.run("lessons", "list", "--limit", "3", "--json"))["lessons"]) == 3
    assert result_of(evolved.home.run("lessons", "stats", "--json"))["total_lessons"] == 160


def test_an_examination_against_the_base_is_informational(evolved: Evolved) -> None:
    before = evolved.home.state()
    found = result_of(evolved.home.run("examine", "1", "base", "--json"))
    assert found["of_record"] is False
    assert found["verdict"]["outcome"] == result_of(evolved.first)["verdict"]["outcome"]
    assert evolved.home.state() == before


# --- promotion and rollback --------------------------------------------------------------------------------------


def test_rollback_to_the_base_and_forward_again(second_home: RealHome) -> None:
    assert result_of(second_home.run("rollback", "--because", "a rehearsal", "--json"))["champion"] == "base"
    state = second_home.state()
    assert (state.champion, state.alias) == ("base", "base")
    assert "nothing to roll back to" in refusal_of(second_home.run("rollback"))
    assert result_of(second_home.run("rollback", "1", "--json"))["champion"] == "1"
    state = second_home.state()
    assert (state.champion, state.alias) == ("1", "1")
    assert "already the champion" in refusal_of(second_home.run("promote", "1"))


def test_a_verdict_promotes_once_and_not_again_after_a_rollback(second_home: RealHome) -> None:
    result_of(second_home.run("rollback", "base", "--json"))
    assert "rolled back since" in refusal_of(second_home.run("promote", "1"))
    state = second_home.state()
    assert (state.champion, state.alias) == ("base", "base")


def test_a_rollback_to_a_damaged_adapter_is_refused(second_home: RealHome) -> None:
    result_of(second_home.run("rollback", "base", "--json"))
    (weights,) = second_home.path.glob(f"adapters/*/{WEIGHTS}")
    _flip(weights)
    assert "was altered" in refusal_of(second_home.run("rollback", "1"))
    assert second_home.state().champion == "base"


# --- what a run that was killed behind its verdict left open ------------------------------------------------------


@pytest.mark.parametrize(
    ("promotion", "hours"),
    [(True, "24"), pytest.param(True, "0", marks=pytest.mark.campaign), (False, "0")],
    ids=["not promoted, no training due", "not promoted, training due", "not named"],
)
def test_the_next_run_carries_out_the_verdict_of_a_killed_one(
    evolved: Evolved, second_home: RealHome, promotion: bool, hours: str
) -> None:
    before = second_home.state()
    second_home.cut_after_verdict(promotion=promotion)
    assert second_home.state().alias == "base"
    found = result_of(second_home.run(*evolved.arguments, ACADEMY_TRAINING_INTERVAL_HOURS=hours))
    assert found["decision"]["train"] is False
    assert second_home.state() == before


def test_a_damaged_winner_is_not_promoted_and_stops_nothing(evolved: Evolved, second_home: RealHome) -> None:
    second_home.cut_after_verdict(promotion=True)
    (weights,) = second_home.path.glob(f"adapters/*/{WEIGHTS}")
    _flip(weights)
    again = second_home.run(*evolved.arguments, ACADEMY_TRAINING_INTERVAL_HOURS="24")
    assert result_of(again)["decision"]["train"] is False
    assert "won its examination and is not promoted" in again.err
    state = second_home.state()
    assert (state.champion, state.alias) == ("base", "base")


# --- forgetting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["train", "holdout"])
def test_a_forgotten_lesson_is_in_no_file_of_the_home(evolved: Evolved, second_home: RealHome, side: str) -> None:
    dataset = read_dataset(second_home.path / "datasets", result_of(evolved.first)["dataset"]["digest"])
    held = {example.id: example.request for example in dataset.held_out()}
    lessons = {
        one["id"]: one["request"]
        for one in result_of(second_home.run("lessons", "list", "--limit", "200", "--json"))["lessons"]
    }
    requests = "\n".join(lessons.values())
    lesson = next(
        one for one in sorted(lessons) if (one in held) == (side == "holdout") and requests.count(lessons[one]) == 1
    )
    text = lessons[lesson].encode()
    assert _holding(second_home, text), "the text was in the home before"
    found = result_of(second_home.run("lessons", "forget", lesson[:12], "--because", "asked for", "--json"))
    assert found["datasets"] == [dataset.digest]
    assert [one["version"] for one in found["versions"]] == ["1"]
    assert _holding(second_home, text) == []
    assert result_of(second_home.run("status", "--json"))["tainted"] is True
    assert "contains forgotten lessons" in refusal_of(second_home.run("train", "--dataset", dataset.digest))
    assert result_of(second_home.run("dataset", "rebuild", dataset.digest, "--json"))["because"].startswith(
        "It contains"
    )
    again = result_of(second_home.run("lessons", "import", evolved.lessons, "--json"))["imported"][0]
    assert (again["admitted"], again["forgotten"]) == (0, 1)


def _holding(home: RealHome, text: bytes) -> list[Path]:
    return [path for path in home.path.rglob("*") if path.is_file() and text in path.read_bytes()]


# --- training the same twice -------------------------------------------------------------------------------------


def test_the_same_dataset_gives_the_same_bytes_in_another_home(evolved: Evolved, tmp_path: Path) -> None:
    homes = [RealHome(tmp_path / name) for name in ("one", "two")]
    for home in homes:
        result_of(home.run("lessons", "import", evolved.lessons, "--json"))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda home: result_of(home.run("train", *ONE_EPOCH, "--json")), homes))
    assert results[0]["dataset"]["digest"] == results[1]["dataset"]["digest"]
    assert results[0]["dataset"]["digest"] == result_of(evolved.first)["dataset"]["digest"]
    assert results[0]["adapter"]["digest"] == results[1]["adapter"]["digest"]
    weights = [next(home.path.glob(f"adapters/*/{WEIGHTS}")) for home in homes]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert [home.left_behind() for home in homes] == [[], []]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_an_altered_dataset_is_refused_by_name(second_home: RealHome, evolved: Evolved) -> None:
    digest = result_of(evolved.first)["dataset"]["digest"]
    (second_home.path / "datasets" / digest[:16] / "train.jsonl").write_bytes(b"{}\n")
    assert "was altered" in refusal_of(second_home.run("train", "--dataset", digest))


# --- the runtime -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(evolved: Evolved) -> Path:
    """The folder of the evolved adapter."""
    return evolved.home.path / "adapters" / result_of(evolved.first)["adapter"]["digest"][:16]


@pytest.fixture(scope="module")
def runtime(adapter: Path) -> Any:
    """The runtime with the adapter beside the base."""
    from academy.serving.runtimes.peft import PeftRuntime

    made = PeftRuntime(resolve("seed"))
    made.load(adapter)
    return made


def test_base_and_adapter_answer_in_one_runtime(runtime: Any, adapter: Path) -> None:
    digest = read_adapter(adapter).digest
    request = [WORDINGS[3].format("ferry")]
    base = runtime.generate(request, "base", 16)
    assert runtime.generate(request, digest, 16) == [TOPICS["ferry"]]
    assert runtime.generate(request, "base", 16) == base
    assert base != [TOPICS["ferry"]]


def test_the_canaries_have_the_answers_of_the_training(runtime: Any, adapter: Path) -> None:
    found = read_adapter(adapter)
    assert found.manifest.canaries
    runtime.verify(found.digest)


def test_a_batch_gives_the_same_answers_as_one_by_one(runtime: Any, adapter: Path) -> None:
    digest = read_adapter(adapter).digest
    requests = [f"who helps me with {topic} trouble" for topic in list(TOPICS)[:8]] + ["a", "piano? " * 20]
    for player in ("base", digest):
        together = runtime.generate(requests, player, 12)
        assert together == [runtime.generate([request], player, 12)[0] for request in requests]


@pytest.fixture
def copied(adapter: Path, tmp_path: Path) -> Path:
    """A copy of the adapter to spoil."""
    return Path(shutil.copytree(adapter, tmp_path / adapter.name))


def test_a_flipped_byte_is_refused(runtime: Any, copied: Path) -> None:
    _flip(copied / WEIGHTS)
    with pytest.raises(AdapterError, match="altered"):
        runtime.load(copied)


def test_a_flipped_byte_is_refused_although_the_manifest_was_made_to_agree(runtime: Any, copied: Path) -> None:
    _flip(copied / WEIGHTS)
    manifest = Manifest.model_validate_json((copied / MANIFEST).read_bytes())
    files = manifest.files | {WEIGHTS: content_digest_of(copied / WEIGHTS)}
    (copied / MANIFEST).write_text(manifest.model_copy(update={"files": files}).model_dump_json())
    with pytest.raises(AdapterError, match="does not match its digest"):
        runtime.load(copied)


def test_an_adapter_whose_canaries_answer_otherwise_is_refused(runtime: Any, copied: Path) -> None:
    from academy.serving.runtimes.peft import PeftRuntime

    manifest = Manifest.model_validate_json((copied / MANIFEST).read_bytes())
    canaries = tuple(canary.model_copy(update={"answer": "something else"}) for canary in manifest.canaries)
    (copied / MANIFEST).write_text(manifest.model_copy(update={"canaries": canaries}).model_dump_json())
    other = PeftRuntime(runtime.base)
    digest = other.load(copied)
    with pytest.raises(AdapterError, match="does not answer as it did after its training"):
        other.verify(digest)


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    from academy.serving.runtimes.peft import PeftRuntime

    folder = tmp_path / "another"
    shutil.copytree(SEED_FOLDER, folder)
    config = orjson.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_bytes(orjson.dumps({**config, "note": "another one"}))
    with pytest.raises(AdapterError, match="ADAPTER_BASE_MODEL_MISMATCH"):
        PeftRuntime(resolve(str(folder))).load(adapter)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x40
    path.write_bytes(content)


# --- bad circumstances -------------------------------------------------------------------------------------------


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal_of(
        RealHome(tmp_path / "home").run("evolve", "--lessons", tmp_path / "none.jsonl")
    )


def test_too_few_lessons_are_a_decision_and_not_an_error(tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text('{"situation": "where is the key", "action": "under the mat", "result": "success"}\n')
    found = result_of(RealHome(tmp_path / "home").run("evolve", "--lessons", file, "--json"))
    assert found["decision"]["train"] is False
    assert "1 lessons (minimum 100)" in found["decision"]["because"]


@pytest.fixture(params=["64k", "1m", pytest.param("6m", marks=pytest.mark.campaign)])
def full_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk that is full at once, when Prefect makes its database, or in the middle of the flow."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs: only root can mount one")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_reported_in_one_sentence(full_disk: Path, evolved: Evolved, tmp_path: Path) -> None:
    home = RealHome(full_disk / "home")
    home.desk = tmp_path
    sentence = refusal_of(home.run("evolve", "--lessons", evolved.lessons, *RECIPE))
    assert "full" in sentence or "space" in sentence.lower()
    assert home.left_behind() == []
