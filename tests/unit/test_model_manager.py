"""ModelManager on a real registry and ledger: names, metrics, refusals.

Activation with a trained adapter is in tests/integration/test_genealogy.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from academy.adapters.adapter import FILES, MANIFEST, WEIGHTS
from academy.errors import AdapterError, InputError, PromotionError
from academy.loop.home import Home
from academy.loop.keys import resign
from academy.loop.named_versions import per_cent
from academy.loop.verify import verify_files
from academy.sdk.model_manager import ModelManager
from academy.store.ledger import BASE
from tests.registry import House


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelManager]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY",
                     "MLFLOW_LOGGING_LEVEL", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"):  # fmt: skip
            patch.setenv(name, "")  # opening MLflow sets these; the patch restores them
        work = Home.open(home=tmp_path_factory.mktemp("managed"))
        yield ModelManager(work, by="tester")
        work.database.engine.dispose()


@pytest.fixture
def house(manager: ModelManager, tmp_path: Path) -> House:
    """Makes tiny adapters of the seed model, elsewhere than in the home."""
    return House(manager.home.ledger, manager.home.versions, tmp_path / "elsewhere")


def test_the_base_model_can_have_a_name_and_is_activated_as_the_base(manager: ModelManager) -> None:
    version = manager.register_version("v0.9", "phi3:latest", performance_metrics={"accuracy": 0.5})
    assert (version.adapter, version.label, version.metrics) == (BASE, "v0.9", {"accuracy": 0.5})
    assert manager.register_version("v0.9", "phi3:latest", performance_metrics={"accuracy": 0.5}) == version
    assert manager.activate_version("v0.9").adapter == BASE
    assert manager.get_active_adapter_info() is None
    assert manager.deactivate_adapter() is False
    assert list(manager.home.ledger.rows()) == []


def test_the_base_model_under_a_name_has_nothing_to_verify_or_to_sign(manager: ModelManager) -> None:
    number = manager.register_version("plain", "phi3:latest").version
    assert number not in {verification.version for verification in verify_files(manager.home, (), all_of_them=True)}
    with pytest.raises(InputError, match=f"v{number} is the base model under a name"):
        verify_files(manager.home, ("plain",))
    assert number not in resign(manager.home, (), all_of_them=True).refused


def test_an_unverified_version_is_not_verified_for_its_reason(manager: ModelManager, tmp_path: Path) -> None:
    manager.register_version("hollow", adapter_path=tmp_path)
    (verification,) = verify_files(manager.home, ("hollow",))
    assert not verification.ok
    assert "is unverified" in verification.checks[0].sentence


def test_an_adapter_from_elsewhere_is_copied_and_registered_once(manager: ModelManager, house: House) -> None:
    folder = house.make(1.0, keys=manager.home.keys)
    version = manager.register_version("first", adapter_path=folder, performance_metrics={"f1": 1})
    kept = manager.home.adapter_store.folder(version.adapter)
    assert (kept / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert manager.register_version("first", adapter_path=folder).version == version.version
    assert manager.home.versions.get(version.order).version == version.version
    with pytest.raises(InputError, match="already has the name first"):
        manager.register_version("second", adapter_path=folder)
    with pytest.raises(InputError, match="already has the name first"):
        manager.register_version("first", adapter_path=house.make(2.0, keys=manager.home.keys))
    with pytest.raises(InputError, match="already has the name first"):
        manager.register_version("first")


def test_an_exported_adapter_is_registered_without_what_lies_beside_it(manager: ModelManager, house: House) -> None:
    folder = house.make(7.0, keys=manager.home.keys)
    for name in ("README.md", "tokenizer.json"):
        (folder / name).write_text("for other tools", encoding="utf-8")
    found = manager.register_version("exported", adapter_path=folder)
    assert not found.unverified
    kept = manager.home.adapter_store.folder(found.adapter)
    assert {path.name for path in kept.iterdir()} == {*FILES, MANIFEST}
    (folder / "x.py").write_text("", encoding="utf-8")
    assert "x.py, which does not belong" in manager.register_version("other", adapter_path=folder).unverified


def test_an_unreadable_adapter_is_unverified_until_it_is_registered_again(
    manager: ModelManager, house: House, tmp_path: Path
) -> None:
    found = manager.register_version("later", adapter_path=tmp_path / "nowhere")
    assert "does not contain an adapter" in found.unverified
    with pytest.raises(AdapterError, match="is unverified"):
        manager.activate_version("later")
    (tmp_path / "file").write_text("x")
    assert manager.register_version("later", adapter_path=tmp_path / "file").version == found.version
    verified = manager.register_version("later", adapter_path=house.make(3.0, keys=manager.home.keys))
    assert (verified.label, verified.unverified) == ("later", "")
    assert verified.version != found.version
    assert manager.home.versions.get("later") == verified


def test_an_unsigned_adapter_is_signed_where_it_lies_if_a_person_vouches_for_it(
    manager: ModelManager, house: House
) -> None:
    folder = house.make(9.0)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"signature": ""}))
    unverified = manager.register_version("vouched", adapter_path=folder, performance_metrics={"f1": 0.5})
    assert "is not signed" in unverified.unverified
    signed = resign(manager.home, ["vouched"], all_of_them=False)
    version = manager.home.versions.get("vouched")
    assert signed.signed == (version.version,)
    assert (version.unverified, version.metrics) == ("", {"f1": 0.5})
    assert version.version != unverified.version
    assert resign(manager.home, ["vouched"], all_of_them=False).signed == ()
    missing = manager.register_version("missing", adapter_path=house.home / "nowhere")
    assert (
        "does not contain an adapter" in resign(manager.home, ["missing"], all_of_them=False).refused[missing.version]
    )


def test_odd_arguments_get_a_sentence(manager: ModelManager) -> None:
    for name in ("v 1/0", "v3", "", None):
        with pytest.raises(InputError, match="is not a valid label"):
            manager.register_version(name)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be a dictionary"):
        manager.register_version("odd", performance_metrics=[1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no version None"):
        manager.activate_version(None)  # type: ignore[arg-type]


def test_a_version_without_an_adapter_cannot_be_used(manager: ModelManager) -> None:
    for adapter in ("", BASE, "../keys"):
        with pytest.raises(AdapterError, match="no usable adapter"):
            manager.home.use_adapter(adapter)


def test_an_adapter_of_another_base_model_is_unverified(manager: ModelManager, house: House) -> None:
    folder = house.make(4.0, base_digest="0" * 64, keys=manager.home.keys)
    assert "ADAPTER_BASE_MODEL_MISMATCH" in manager.register_version("foreign", adapter_path=folder).unverified


@pytest.mark.parametrize("name", ["7", "v7", "base", "champion", "a b", "x'", "", "a/b"])
def test_a_reserved_or_invalid_name_is_refused_before_anything_is_written(manager: ModelManager, name: str) -> None:
    before = len(manager.get_genealogy()["versions"])
    with pytest.raises(InputError, match="is not a valid label"):
        manager.register_version(name)
    assert len(manager.get_genealogy()["versions"]) == before


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "0.9"])
def test_metrics_that_are_not_finite_numbers_are_refused(manager: ModelManager, value: float) -> None:
    with pytest.raises(InputError, match="must be a finite number"):
        manager.register_version("figures", performance_metrics={"accuracy": value})


def test_a_comparison_defines_changes_from_zero(manager: ModelManager) -> None:
    manager.register_version("a", performance_metrics={"x": 0.85, "zero": 0, "up": 0, "down": 0, "loss": -2, "only": 1})
    manager.register_version("b", performance_metrics={"x": 0.92, "zero": 0, "up": 3, "down": -3, "loss": -1})
    found = manager.compare_versions("a", "b")
    changes = {name: one["diff_pct"] for name, one in found["metrics_diff"].items()}
    assert changes == {"x": pytest.approx(8.235294), "zero": 0.0, "up": math.inf, "down": -math.inf, "loss": 50.0}
    assert found["metrics_diff"]["x"] == {"a": 0.85, "b": 0.92, "diff": pytest.approx(0.07), "diff_pct": changes["x"]}
    assert found["only_in"] == {"a": ["only"], "b": []}
    assert f"{per_cent(0.0, 1.0):.1f}%" == "inf%"


def test_the_genealogy_is_read_in_pages(manager: ModelManager) -> None:
    newest = manager.get_genealogy(limit=1)
    assert len(newest["versions"]) == 1
    older = manager.get_genealogy(limit=200, before=newest["before"])
    numbers = [int(one["version"]) for page in (older, newest) for one in page["versions"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_version_trained_on_forgotten_lessons_is_not_activated(manager: ModelManager, house: House) -> None:
    version = manager.register_version("regretted", adapter_path=house.make(5.0, keys=manager.home.keys))
    manager.home.versions.set_tags(version.version, {"tainted": "yes"})
    with pytest.raises(PromotionError, match="forgotten"):
        manager.activate_version("regretted")
    assert manager.home.ledger.champion().adapter == BASE


def test_an_unknown_adapter_id_is_refused(manager: ModelManager) -> None:
    with pytest.raises(InputError, match="Unknown adapter training_20240101_120000"):
        manager.activate_adapter("training_20240101_120000")
