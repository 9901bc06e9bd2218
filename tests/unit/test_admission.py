"""The gate: unsigned, altered, swapped or refused adapters, and those of another base model, are not admitted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from academy.adapters.adapter import FILES, MANIFEST, WEIGHTS, digest_of_adapter, read_adapter, sign_adapter
from academy.errors import AcademyError, AdapterError, PromotionError, SignatureError
from academy.lifecycle.gate import (
    AdmissionMonitor,
    admit_adapter,
    readmit_adapter,
    refusal,
    refuse_adapter,
    resign_adapter,
    verify_version,
)
from academy.store.files import digest_of_file
from academy.store.ledger import Ledger
from academy.store.signing import Keys
from tests.adapters import publish
from tests.registry import House


def rewrite(folder: Path, **changes: Any) -> None:
    """Change values of a manifest; the signature stays."""
    manifest = orjson.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_bytes(orjson.dumps({**manifest, **changes}))


def failing(house: House, version: Any) -> dict[str, str]:
    """The failing checks of `academy verify`, without the dataset check: these versions have no dataset."""
    checks = verify_version(house.gate, version, house.home / "datasets").checks
    return {check.name: check.sentence for check in checks if not check.ok and check.name != "dataset"}


def test_signed_registered_adapter_is_admitted_by_digest_and_by_folder(house: House) -> None:
    version = house.train(1.0)
    assert admit_adapter(house.gate, version.adapter, version).adapter.digest == version.adapter
    opened = admit_adapter(house.gate, house.folder(version))
    assert all(tensor.eq(1).all() for tensor in opened.tensors.values())
    assert failing(house, version) == {}


def test_unsigned_adapter_is_refused_until_a_person_vouches_for_it(house: House) -> None:
    version = house.train(1.0, keys=None)
    with pytest.raises(SignatureError, match="is not signed"):
        admit_adapter(house.gate, version.adapter)
    with pytest.raises(SignatureError):
        house.make_champion(version)
    assert list(failing(house, version)) == ["signature"]
    assert resign_adapter(house.gate, version, house.home / "mlartifacts", unsigned=False) is False
    assert resign_adapter(house.gate, version, house.home / "mlartifacts", unsigned=True) is True
    house.make_champion(version)


@pytest.mark.parametrize(
    "changes", [{"examples": 51}, {"canaries": []}, {"dataset": "e"}, {"order": "another"}, {"template": "0" * 64}]
)
def test_manifest_altered_after_signing_is_refused(house: House, changes: dict[str, Any]) -> None:
    version = house.train(1.0)
    rewrite(house.folder(version), **changes)
    with pytest.raises(SignatureError, match="was altered after it was signed"):
        admit_adapter(house.gate, version.adapter)
    with pytest.raises(SignatureError, match="was altered after it was signed"):
        resign_adapter(house.gate, version, house.home, unsigned=True)
    with pytest.raises(SignatureError):  # nor by repeating the training
        sign_adapter(house.folder(version), house.keys, base_digest=house.ledger.family, digest=version.adapter)
    assert "signature" in failing(house, version)


def test_manifest_with_other_white_space_and_order_is_admitted(house: House) -> None:
    folder = house.folder(version := house.train(1.0))
    manifest = orjson.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_bytes(orjson.dumps(dict(reversed(manifest.items())), option=orjson.OPT_INDENT_2))
    admit_adapter(house.gate, version.adapter)


def test_manifest_signed_before_a_field_existed_is_admitted(house: House) -> None:
    manifest = read_adapter(house.folder(house.train(1.0))).manifest
    assert manifest.canaries[0].logprobs == ()  # not in the file
    admit_adapter(house.gate, manifest.adapter)


def test_signature_of_another_home_is_valid_once_its_key_is_trusted(house: House, tmp_path: Path) -> None:
    other = Keys(tmp_path / "other")
    version = house.train(1.0, keys=other)
    with pytest.raises(SignatureError, match="which this home does not trust"):
        admit_adapter(house.gate, version.adapter)
    other.export(tmp_path / "key.pub")
    house.keys.trust(tmp_path / "key.pub")
    admit_adapter(house.gate, version.adapter)


def test_signature_of_another_adapter_is_refused(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    rewrite(house.folder(first), signature=read_adapter(house.folder(second)).manifest.signature)
    with pytest.raises(SignatureError, match="was altered"):
        admit_adapter(house.gate, first.adapter)


def test_adapter_signed_by_a_revoked_key_is_refused_until_signed_again(house: House, tmp_path: Path) -> None:
    version = house.train(1.0)
    house.make_champion(version)
    copy = shutil.copytree(house.folder(version), house.home / "mlartifacts" / "1" / "adapter")
    house.keys.revoke(house.keys.all()[0].id, "lost")
    with pytest.raises(SignatureError, match="was revoked"):
        admit_adapter(house.gate, version.adapter)
    house.make_champion(house.train(2.0))
    with pytest.raises(SignatureError):
        house.rollback()
    assert resign_adapter(house.gate, version, house.home / "mlartifacts", unsigned=False) is True
    assert resign_adapter(house.gate, version, house.home / "mlartifacts", unsigned=False) is False
    assert (copy / MANIFEST).read_bytes() == (house.folder(version) / MANIFEST).read_bytes()
    assert house.rollback() == version.name


def test_altered_adapter_is_not_signed_again_after_its_key_was_revoked(house: House) -> None:
    version = house.train(1.0)
    house.keys.revoke(house.keys.all()[0].id, "lost")
    rewrite(house.folder(version), examples=51)
    with pytest.raises(SignatureError, match="was altered"):
        resign_adapter(house.gate, version, house.home, unsigned=True)


# --- the argument -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../adapters", "/etc/passwd", "..", "", "a" * 16, "A" * 64, "a" * 63 + "\n", "\0" * 64, "../" * 21 + "a"]
)
def test_path_instead_of_a_digest_is_refused(house: House, name: str) -> None:
    with pytest.raises(AdapterError, match="is not the digest of an adapter"):
        admit_adapter(house.gate, name)


def test_folder_outside_of_the_home_is_refused(house: House, tmp_path: Path) -> None:
    version = house.train(1.0)
    elsewhere = shutil.copytree(house.folder(version), tmp_path / "elsewhere" / version.adapter[:16])
    for folder in (elsewhere, house.adapters / ".." / "elsewhere" / version.adapter[:16]):
        with pytest.raises(AdapterError, match="is not in this home's folder of adapters"):
            admit_adapter(house.gate, folder)


def test_adapter_in_a_folder_with_another_name_is_refused(house: House) -> None:
    version = house.train(1.0)
    moved = house.folder(version).rename(house.adapters / ("0" * 16))
    with pytest.raises(AdapterError, match="does not match the folder's name"):
        admit_adapter(house.gate, moved)
    with pytest.raises(AdapterError, match="does not contain an adapter"):
        admit_adapter(house.gate, version.adapter)
    moved.joinpath("x").symlink_to("/etc")
    house.folder(version).symlink_to(moved)
    with pytest.raises(AdapterError, match="Links are not followed"):
        admit_adapter(house.gate, version.adapter)


def test_swapped_folders_are_refused(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    aside = house.folder(first).rename(house.home / "aside")
    house.folder(second).rename(house.folder(first))
    aside.rename(house.folder(second))
    for version in (first, second):
        with pytest.raises(AdapterError, match="does not match its digest"):
            admit_adapter(house.gate, version.adapter)
        assert "files" in failing(house, version)


# --- registry and ledger ---------------------------------------------------------------------------


def test_adapters_swapped_in_the_registry_are_refused(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    house.tag(first, adapter=second.adapter)
    swapped = house.versions.get(first.version)
    for version in (swapped, None):
        with pytest.raises(AdapterError, match="does not agree with the adapter"):
            admit_adapter(house.gate, second.adapter, version)
    with pytest.raises(AdapterError):
        house.make_champion(swapped)
    assert "registry" in failing(house, swapped)


def test_versions_swapped_after_an_examination_are_refused(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    verdict = house.examine(first)
    house.tag(first, adapter=second.adapter, order=second.order, dataset=second.dataset)
    swapped = house.versions.get(first.version)
    with pytest.raises(AdapterError, match=r"The verdict of .* names another adapter for v1"):
        admit_adapter(house.gate, second.adapter, swapped)
    with pytest.raises(PromotionError):
        house.promote(swapped, verdict)
    assert "ledger" in failing(house, swapped)


def test_unregistered_adapter_is_refused(house: House) -> None:
    folder = publish(house.adapters, 3.0, keys=house.keys, base_digest=house.ledger.family)
    with pytest.raises(AdapterError, match="No version has the adapter"):
        admit_adapter(house.gate, folder)


def test_adapter_of_another_base_model_is_refused(house: House) -> None:
    version = house.train(1.0, base_digest="c" * 64)
    with pytest.raises(AdapterError, match="ADAPTER_BASE_MODEL_MISMATCH"):
        admit_adapter(house.gate, version.adapter)
    assert "base model" in failing(house, version)


def test_modules_missing_in_the_base_model_are_refused(house: House) -> None:
    version = house.train(1.0)
    gate = type(house.gate)(**{**vars(house.gate), "modules": frozenset(["c_attn"])})
    with pytest.raises(AdapterError, match="q_proj, which the base model does not have"):
        admit_adapter(gate, version.adapter)


def test_other_template_than_in_training_is_refused(house: House) -> None:
    version = house.train(1.0, template=b"{{ messages }}", special_tokens={"eos_token": "<other>"})
    with pytest.raises(AdapterError, match="another chat template"):
        admit_adapter(house.gate, version.adapter)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_refused_version_is_neither_promoted_nor_restored(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    house.make_champion(first)
    house.make_champion(second)
    refuse_adapter(house.ledger, first, "it leaks secrets")
    with pytest.raises(AdapterError, match=r"v1 was refused on .* \(it leaks secrets\)") as refused:
        house.rollback()
    assert refused.value.remedy == "If it may be served after all, run `academy models readmit v1`."
    admit_adapter(house.gate, second.adapter)
    assert house.rollback("base") == "base"
    assert list(failing(house, first)) == ["refusals"]
    readmit_adapter(house.ledger, first, "it does not")
    assert house.rollback("1") == "v1"


def test_refusal_of_older_versions_is_permanent(house: House) -> None:
    versions = [house.train(value) for value in (1.0, 2.0, 3.0)]
    refuse_adapter(house.ledger, versions[2], "old bug", older=True)
    refuse_adapter(house.ledger, versions[0], "", older=True)  # a lower number does not withdraw it
    readmit_adapter(house.ledger, versions[1], "not this way")
    for version in versions[:2]:
        with pytest.raises(AdapterError, match="Versions before v3 were refused") as refused:
            admit_adapter(house.gate, version.adapter)
        assert refused.value.remedy == "Use a newer version; `academy models` lists them."
        assert list(failing(house, version)) == ["refusals"]
    admit_adapter(house.gate, versions[2].adapter)


def test_admitted_adapter_must_stop_after_a_refusal_or_a_revoked_key(house: House) -> None:
    first, second, champion = house.train(1.0), house.train(2.0), house.train(3.0)
    for version in (first, second, champion):
        house.examine(version)
    monitor = AdmissionMonitor(house.gate)
    for version in (first, second, champion):
        monitor.admit(house.folder(version))
    assert not monitor.reason_to_stop(first.adapter)
    refuse_adapter(house.ledger, first, "it lies")
    assert "it lies" in monitor.reason_to_stop(first.adapter)
    assert not monitor.reason_to_stop(second.adapter)
    readmit_adapter(house.ledger, first, "it does not")
    assert not monitor.reason_to_stop(first.adapter)
    refuse_adapter(house.ledger, champion, "too old", older=True)
    assert [bool(monitor.reason_to_stop(version.adapter)) for version in (first, second, champion)] == [
        True,
        True,
        False,
    ]
    house.keys.revoke(house.keys.all()[0].id, "stolen")
    assert "revoked" in monitor.reason_to_stop(champion.adapter)


def test_refusals_apply_to_one_family_only(house: House) -> None:
    version = house.train(1.0)
    refuse_adapter(Ledger(house.ledger.database, "e" * 64), version, "there")
    assert refusal(house.ledger, version.adapter, [version.version]) == ""
    admit_adapter(house.gate, version.adapter)


# --- verification ---------------------------------------------------------------------------------------------------


def test_verification_reports_all_failures_at_once(house: House) -> None:
    version = house.train(1.0, keys=None, base_digest="c" * 64)
    house.tag(version, order="another")
    version = house.versions.get(version.version)
    refuse_adapter(house.ledger, version, "tried")
    assert set(failing(house, version)) == {"signature", "base model", "registry", "refusals"}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-3]), Path.touch])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_verification_reports_a_damaged_adapter_without_raising(
    house: House, name: str, damage: Callable[[Path], object]
) -> None:
    version = house.train(1.0)
    damage(house.folder(version) / name)
    assert bool(failing(house, version)) is (damage is not Path.touch)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from((*FILES, MANIFEST)), data=st.data())
def test_any_changed_byte_is_refused_or_changes_nothing(house: House, name: str, data: st.DataObject) -> None:
    version = next(house.versions.newest(), None) or house.train(1.0)
    folder = house.folder(version)
    if not house.home.joinpath("sound").exists():
        shutil.copytree(folder, house.home / "sound")
    sound = (house.home / "sound" / name).read_bytes()
    place = data.draw(st.integers(0, len(sound) - 1))
    byte = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(sound[:place] + bytes([byte]) + sound[place + 1 :])
    try:
        opened = admit_adapter(house.gate, version.adapter)
    except AcademyError:
        pass
    else:
        assert opened.adapter.manifest == read_adapter(house.home / "sound").manifest
        assert name == MANIFEST or byte == sound[place]
    (folder / name).write_bytes(sound)


def test_trained_adapter_is_signed_once(house: House) -> None:
    folder = publish(house.adapters, 1.0, base_digest=house.ledger.family)
    facts = {"base_digest": house.ledger.family, "digest": digest_of_adapter(folder)}
    assert sign_adapter(folder, house.keys, **facts).manifest.signature
    written = digest_of_file(folder / MANIFEST)
    house.keys.rotate()
    sign_adapter(folder, house.keys, **facts)
    assert digest_of_file(folder / MANIFEST) == written
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(AdapterError):
        sign_adapter(folder, house.keys, **facts)


def test_refused_champion_is_rolled_back(house: House) -> None:
    champion = house.train(1.0)
    house.make_champion(champion)
    refuse_adapter(house.ledger, champion, "")
    with pytest.raises(AdapterError) as refused:
        admit_adapter(house.gate, champion.adapter)
    assert refused.value.remedy == "`academy rollback` restores another champion."


def test_version_without_a_dataset_says_so_and_an_unverified_one_says_only_why(house: House) -> None:
    version = house.train(1.0, dataset="")
    checks = {check.name: check for check in verify_version(house.gate, version, house.home / "datasets").checks}
    assert checks["dataset"].sentence.startswith("It names no dataset.")
    unverified = house.versions.register_unverified(
        "seed", {"unverified": "its files are missing"}, house.adapters.as_uri(), parent="base", generation=0
    )
    report = verify_version(house.gate, unverified, house.home / "datasets")
    assert [check.name for check in report.checks if not check.ok] == ["files"]
    assert "its files are missing" in report.checks[0].sentence
