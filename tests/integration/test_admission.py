"""The gate from outside: what `academy` serves, promotes and verifies after files were altered."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from academy.adapters.adapter import CONFIG, MANIFEST, WEIGHTS, AdapterFiles, open_adapter
from academy.models.base_model import SEED_FOLDER, resolve
from tests.conftest import Evolved
from tests.homes import RealHome, result_of
from tests.refusals import refusal_of

ASKED = ("ask", "who helps me with ferry trouble", "--json")


def adapter_of(home: RealHome) -> Path:
    """The folder of the only adapter."""
    (folder,) = (path for path in (home.path / "adapters").iterdir() if not path.name.startswith("."))
    return folder


def failing(home: RealHome) -> set[str]:
    """The names of what `academy verify` says against the champion."""
    ended = home.run("verify", "--json")
    (version,) = ended.json["versions"]
    found = {check["name"] for check in version["checks"] if not check["ok"]}
    assert (ended.code, ended.json["ok"]) == ((2, False) if found else (0, True))
    return found


def test_adapter_of_an_evolution_is_signed_and_verified(evolved: Evolved) -> None:
    found = result_of(evolved.home.run("verify", "--all", "--json"))
    (version,) = found["versions"]
    names = ["files", "signature", "base model", "configuration", "tensors", "numbers", "template", "registry",
             "ledger", "refusals", "dataset"]  # fmt: skip
    assert [(check["name"], check["ok"]) for check in version["checks"]] == [(name, True) for name in names]
    (key,) = result_of(evolved.home.run("keys", "--json"))
    assert (key["own"], key["current"], key["revoked"]) == (True, True, False)
    shown = evolved.home.run("verify", "v1")
    assert shown.code == 0
    assert shown.out.count("✓") == len(names)


def test_adapter_without_a_signature_is_not_served_until_it_is_signed_again(second_home: RealHome) -> None:
    manifest = orjson.loads((adapter_of(second_home) / MANIFEST).read_bytes())
    (adapter_of(second_home) / MANIFEST).write_bytes(orjson.dumps({**manifest, "signature": ""}))
    assert "is not signed" in refusal_of(second_home.run(*ASKED))
    assert failing(second_home) == {"signature"}
    assert result_of(second_home.run("keys", "resign", "--all", "--json"))["signed"] == []
    assert result_of(second_home.run("keys", "resign", "v1", "--json"))["signed"] == ["1"]
    assert result_of(second_home.run(*ASKED))["version"] == "1"


def test_adapter_of_a_revoked_key_is_served_after_it_is_signed_again(second_home: RealHome) -> None:
    (key,) = result_of(second_home.run("keys", "--json"))
    result_of(second_home.run("keys", "revoke", key["id"], "--because", "lost", "--json"))
    assert "was revoked" in refusal_of(second_home.run(*ASKED))
    assert result_of(second_home.run("keys", "resign", "--all", "--json"))["signed"] == ["1"]
    assert result_of(second_home.run(*ASKED))["version"] == "1"
    assert failing(second_home) == set()


def test_refused_champion_does_not_answer_until_it_is_readmitted(second_home: RealHome) -> None:
    found = result_of(second_home.run("models", "refuse", "1", "--because", "it lies", "--json"))
    assert found["champion_refused"] is True
    assert "v1 was refused" in refusal_of(second_home.run(*ASKED))
    assert "it lies" in result_of(second_home.run("status", "--json"))["refused"]
    assert failing(second_home) == {"refusals"}
    assert result_of(second_home.run("rollback", "base", "--json"))["champion"] == "base"
    assert "v1 was refused" in refusal_of(second_home.run("rollback", "1"))
    assert "v1 must not be served (it lies)" in second_home.run("genealogy").out
    result_of(second_home.run("models", "readmit", "1", "--because", "it does not", "--json"))
    assert result_of(second_home.run("rollback", "1", "--json"))["champion"] == "1"


@pytest.mark.parametrize("version", ["../1", "/etc/passwd", "1/../../2", "", "1; DROP TABLE ledger"])
def test_path_as_a_version_is_an_error(evolved: Evolved, version: str) -> None:
    for command in (
        ("verify", version),
        ("ask", "a", "--version", version),
        ("models", "refuse", version, "--because", "x"),
    ):
        assert "This base model has no version" in refusal_of(evolved.home.run(*command))


def test_configuration_that_would_run_code_fails_verification(second_home: RealHome) -> None:
    path = adapter_of(second_home) / CONFIG
    config = orjson.loads(path.read_bytes())
    path.write_bytes(orjson.dumps({**config, "auto_mapping": {"base_model_class": "X", "parent_library": "os"}}))
    assert "was altered" in refusal_of(second_home.run(*ASKED))
    assert {"files", "configuration"} <= failing(second_home)


def test_truncated_weights_fail_verification(second_home: RealHome) -> None:
    path = adapter_of(second_home) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-8])
    assert {"files", "tensors"} <= failing(second_home)


@pytest.mark.campaign
def test_training_again_restores_the_bytes_of_a_damaged_adapter(evolved: Evolved, second_home: RealHome) -> None:
    folder = adapter_of(second_home)
    right = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(b"")
    dataset, recipe = (result_of(evolved.first)[name] for name in ("dataset", "recipe"))
    assert recipe["epochs"] == 10
    result_of(second_home.run("train", "--dataset", dataset["digest"], "--epochs", "10", "--learning-rate", "5e-3",
                         "--batch-size", "16", "--json"))  # fmt: skip
    assert (adapter_of(second_home) / WEIGHTS).read_bytes() == right
    assert failing(second_home) == set()


def test_missing_base_model_is_an_error_in_one_sentence(second_home: RealHome, tmp_path: Path) -> None:
    gone = tmp_path / "base"
    assert "The base model folder" in refusal_of(second_home.run("verify", "--base-model", gone))
    shutil.copytree(SEED_FOLDER, gone)
    (gone / "config.json").write_bytes((SEED_FOLDER / "config.json").read_bytes() + b"\n")  # another digest
    assert "This base model has no version" in refusal_of(second_home.run("verify", "1", "--base-model", gone))


def test_forgetting_a_lesson_that_a_canary_quotes_leaves_a_signed_adapter(
    evolved: Evolved, second_home: RealHome
) -> None:
    before = orjson.loads((adapter_of(second_home) / MANIFEST).read_bytes())
    quoted = {canary["prompt"] for canary in before["canaries"]}
    lessons = result_of(second_home.run("lessons", "list", "--limit", "200", "--json"))["lessons"]
    lesson = next(one for one in lessons if one["request"] in quoted)
    result_of(second_home.run("lessons", "forget", lesson["id"], "--json"))
    manifest = orjson.loads((adapter_of(second_home) / MANIFEST).read_bytes())
    assert len(manifest["canaries"]) == len(before["canaries"]) - 1
    assert manifest["signature"] != before["signature"]
    assert failing(second_home) == set()
    assert result_of(second_home.run(*ASKED))["version"] == "1"


# --- the runtimes --------------------------------------------------------------------------------------------------


def swapping(colours: dict[str, Path], place: Path) -> tuple[Path, Callable[[Path], AdapterFiles]]:
    """A folder that holds blue until it was checked, and red before it is loaded."""
    folder = Path(shutil.copytree(colours["blue"], place / colours["blue"].name))

    def admit(asked: Path) -> AdapterFiles:
        opened = open_adapter(asked)
        for path in colours["red"].iterdir():
            shutil.copyfile(path, asked / path.name)  # in place, so that a mapped file would change too
        return opened

    return folder, admit


def test_swap_between_check_and_load_changes_no_answer_of_the_offline_runtime(
    colours: dict[str, Path], tmp_path: Path
) -> None:
    from academy.serving.runtimes.peft import PeftRuntime
    from tests.colours import QUESTIONS, says

    folder, admit = swapping(colours, tmp_path)
    runtime = PeftRuntime(resolve("seed"), admit)
    digest = runtime.load(folder)
    assert digest.startswith(colours["blue"].name)
    assert set(runtime.generate(QUESTIONS, digest, 16)) == {says("blue")}
    assert set(runtime.generate(QUESTIONS, runtime.load(folder), 16)) == {says("red")}  # its own name now


def test_swap_between_check_and_load_changes_no_answer_of_the_live_runtime(
    colours: dict[str, Path], tmp_path: Path
) -> None:
    from academy.serving.runtimes.base import Turn
    from academy.serving.runtimes.peft_live import PeftLive
    from tests.colours import QUESTIONS, says

    folder, admit = swapping(colours, tmp_path)

    async def served() -> set[str]:
        runtime = PeftLive(resolve("seed"), admit)
        await runtime.start()
        try:
            digest = await runtime.load(folder)
            turns = [Turn(messages=({"role": "user", "content": text},), max_new_tokens=16) for text in QUESTIONS]
            return {"".join([piece.text async for piece in runtime.chat(turn, digest)]).strip() for turn in turns}
        finally:
            await runtime.close()

    assert asyncio.run(served()) == {says("blue")}
