"""The gate: which adapters may be served and promoted. Every adapter passes it.

The gate admits an adapter if this home or a trusted home signed it, its files are the signed ones and safe to load, it
was trained on this base model, folder, registry and ledger agree about it, and no one refused it. `admit_adapter`
returns the checked bytes in memory, so a runtime loads exactly what was checked.

`verify_version` runs the same checks and reports all failures instead of the first. It needs no network, no server and
no model in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from academy.adapters.adapter import MANIFEST, AdapterFiles, signed_manifest, signed_part
from academy.adapters.tensors import strict_json
from academy.curriculum.dataset import FORGOTTEN, find_dataset, read_dataset
from academy.errors import AcademyError, AdapterError, InputError
from academy.genealogy.versions import Version, Versions
from academy.habitat.job_names import JOBS
from academy.models.chat_template import digest_of_template
from academy.models.template_day import names_of_day
from academy.records import Record
from academy.store.files import digest_of_file, write_file
from academy.store.ledger import Ledger
from academy.store.ledger_rows import (
    PromotionEntry,
    RefusalEntry,
    RollbackEntry,
    Row,
    VerdictEntry,
)
from academy.store.signing import Keys

DIGEST = re.compile(r"[0-9a-f]{64}")
OLDER = "Versions before"
"""How the refusal of all older versions begins; nothing withdraws it."""
FOLDER_DIGITS = 16
"""An adapter's folder is named by this many digits of its digest."""
Step = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class Gate:
    """What an adapter is checked against."""

    ledger: Ledger
    keys: Keys
    adapters: Path  # holds each adapter's folder
    versions: Callable[[], Versions]  # opens the registry on the first call
    modules: frozenset[str]  # last parts of the names of the base model's layers


class Check(Record):
    """One check with its result; the sentence is the problem, or a detail."""

    name: str
    ok: bool
    sentence: str = ""


class Verification(Record):
    """All checks of a version."""

    version: str
    adapter: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return all(check.ok for check in self.checks)


def admit_adapter(
    gate: Gate, adapter: str | Path, version: Version | None = None, *, registry: bool = True
) -> AdapterFiles:
    """Read an adapter by its digest or folder, and return it if it may be served.

    With a `version`, it must be that version's adapter. Without `registry`, a former champion is not looked up in
    MLflow. Raises AdapterError, and SignatureError if no trusted key signed it.
    """
    if isinstance(adapter, Path):
        digest, name = None, adapter.name
        if adapter.absolute().parent != gate.adapters.absolute():
            raise AdapterError(
                f"{adapter} is not in this home's folder of adapters.", "`academy models` lists the versions."
            )
    else:
        digest, name = adapter, adapter[:FOLDER_DIGITS]
        if not DIGEST.fullmatch(adapter):
            raise AdapterError(
                f"{ascii(adapter)[:80]} is not the digest of an adapter.", "`academy models` lists them."
            )
    files = AdapterFiles(gate.adapters / name)
    digest = digest or files.adapter.digest
    skip_registry = not registry and _was_champion(gate.ledger, digest)
    for name, step in _steps(gate, files, digest, version):
        if not (name == "registry" and skip_registry):
            step()
    return files


class AdmissionMonitor:
    """The gate for a server that keeps adapters loaded: it also reports later refusals of admitted adapters."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._signers: dict[str, str] = {}
        self._refused: dict[tuple[str, int], str] = {}

    def admit(self, adapter: Path) -> AdapterFiles:
        """As `admit_adapter`."""
        files = admit_adapter(self._gate, adapter)
        self._signers[files.adapter.digest] = files.check_signature(self._gate.keys)
        return files

    def reason_to_stop(self, digest: str) -> str:
        """Why an admitted adapter must not be served any longer: it was refused, or its key revoked. Else empty.

        Reads no file of the adapter, and only one ledger row if there was no refusal since the last call.
        """
        if (key := self._signers.get(digest)) is not None and self._gate.keys.is_revoked(key):
            return f"It was signed by the key {key}, which was revoked."
        for newest in self._gate.ledger.latest(RefusalEntry, limit=1):
            if (digest, newest.seq) not in self._refused:
                self._refused[digest, newest.seq] = refusal(self._gate.ledger, digest, self._numbers(digest))
            return self._refused[digest, newest.seq]
        return ""

    def _numbers(self, digest: str) -> set[str]:
        rows = self._gate.ledger.rows(VerdictEntry, PromotionEntry)
        return {row.body.version for row in rows if row.body.digest == digest}


def verify_version(gate: Gate, version: Version, datasets: Path) -> Verification:
    """Run all checks of a version that do not need the model."""
    checks: list[Check] = []
    try:
        if version.unverified:
            raise AdapterError(f"{version.name} is unverified: {version.unverified}")
        if not DIGEST.fullmatch(version.adapter):
            raise AdapterError(f"{version.name} does not name its adapter by a digest.", "The registry was altered.")
        files = AdapterFiles(gate.adapters / version.adapter[:FOLDER_DIGITS])
        steps: Iterable[Step] = _steps(gate, files, version.adapter, version)
    except AcademyError as problem:
        checks.append(Check(name="files", ok=False, sentence=str(problem)))
        steps = _record_steps(gate, version.adapter, (version,))
    if version.dataset or not version.unverified:  # the first line says it all of one that names no dataset
        steps = (*steps, ("dataset", lambda: _check_dataset(version, datasets)))
    for name, step in steps:
        try:
            detail = step()
            checks.append(Check(name=name, ok=True, sentence=detail if isinstance(detail, str) else ""))
        except AcademyError as problem:
            checks.append(Check(name=name, ok=False, sentence=str(problem)))
    return Verification(version=version.version, adapter=version.adapter, checks=tuple(checks))


def resign_adapter(gate: Gate, version: Version, copies: Path, *, unsigned: bool) -> bool:
    """Sign a version's adapter, and its copies below `copies`, with the current key. Returns whether it did.

    It signs an adapter whose key was revoked, and with `unsigned` one without a signature, because a person vouches for
    it. All other checks must pass. Raises AdapterError, and SignatureError for an adapter altered after it was signed.
    """
    files = AdapterFiles(gate.adapters / version.adapter[:FOLDER_DIGITS])
    subject = f"The adapter of {version.name}"
    body, signature = signed_part(files.written), files.adapter.manifest.signature
    if signature and not gate.keys.is_revoked(gate.keys.signer(body, signature, subject)):
        return False
    if not signature and not unsigned:
        return False
    for name, step in _steps(gate, files, version.adapter, version):
        if name != "signature":
            step()
    content = signed_manifest(files.written, gate.keys)
    for path in (files.folder / MANIFEST, *copies.rglob(MANIFEST)):
        if path.parent == files.folder or _is_copy(path, body):
            write_file(path, content)
    return True


def refuse_adapter(ledger: Ledger, version: Version, because: str, *, older: bool = False) -> Row[RefusalEntry]:
    """Refuse a version, or with `older` all versions before it. A refusal of older versions is permanent.

    Raises InputError for a version without an adapter: the base model cannot be refused.
    """
    if not older and not DIGEST.fullmatch(version.adapter):
        raise InputError(f"{version.name} has no adapter.", "There is nothing to refuse.")
    if older:
        return _append(ledger, RefusalEntry(older_than=int(version.version), because=because))
    return _append(
        ledger, RefusalEntry(adapter=version.adapter, version=version.version, refused=True, because=because)
    )


def readmit_adapter(ledger: Ledger, version: Version, because: str) -> Row[RefusalEntry]:
    """Withdraw the refusal of a version."""
    return _append(
        ledger, RefusalEntry(adapter=version.adapter, version=version.version, refused=False, because=because)
    )


def refusal(ledger: Ledger, digest: str, versions: Iterable[str]) -> str:
    """Why an adapter with these version numbers must not be served, as one sentence; empty if it may be served.

    One query: `AdmissionMonitor` repeats it for loaded adapters.
    """
    newest = max((int(number) for number in versions), default=0)
    sentence = ""
    for row in ledger.rows(RefusalEntry):
        why = f" ({row.body.because})" if row.body.because else ""
        if newest < (row.body.older_than or 0):
            return f"{OLDER} v{row.body.older_than} were refused on {row.at[:10]}{why}."
        if row.body.adapter == digest:  # the last refusal or readmission counts
            sentence = f"v{row.body.version} was refused on {row.at[:10]}{why}." if row.body.refused else ""
    return sentence


def _is_copy(path: Path, body: bytes) -> bool:
    try:
        return signed_part(strict_json(path.read_bytes(), MANIFEST)) == body
    except (AdapterError, AttributeError):  # not a manifest
        return False


def _append(ledger: Ledger, entry: RefusalEntry) -> Row[RefusalEntry]:
    return ledger.append(f"refuse:{ledger.family}:{sum(1 for _ in ledger.rows(RefusalEntry))}", entry)


def _steps(gate: Gate, files: AdapterFiles, digest: str, version: Version | None) -> Iterator[Step]:
    """The checks in the order of the report."""
    yield "files", lambda: _check_name(files, digest)
    yield "signature", lambda: f"key {files.check_signature(gate.keys)}"
    yield "base model", lambda: files.check_base(gate.ledger.family)
    yield "configuration", lambda: _check_modules(files, gate.modules)
    yield "tensors", lambda: f"{len(files.layout)} tensors, rank {files.config['r']}"
    yield "numbers", files.check_finite
    yield "template", lambda: _check_template(files)
    rows = [version] if version else []  # or the versions in the registry, after its check
    yield "registry", lambda: rows.extend(row for row in _registered(gate, files, version) if row != version)
    yield from _record_steps(gate, digest, rows)


def _record_steps(gate: Gate, digest: str, versions: Iterable[Version]) -> Iterator[Step]:
    yield "ledger", lambda: _check_ledger(gate.ledger, digest, versions)
    yield "refusals", lambda: _check_refusal(gate.ledger, digest, versions)


def _check_name(files: AdapterFiles, digest: str) -> None:
    files.check_files(digest)
    if files.folder.name != digest[:FOLDER_DIGITS]:
        raise AdapterError(
            f"The adapter in {files.folder} does not match the folder's name.", "The adapter is refused. Train again."
        )


def _check_modules(files: AdapterFiles, modules: frozenset[str]) -> None:
    for target in files.config["target_modules"]:
        if target.rpartition(".")[2] not in modules:
            raise AdapterError(
                f"The adapter changes {target}, which the base model does not have.", "Train it on this base model."
            )


def _check_template(files: AdapterFiles) -> None:
    manifest = files.adapter.manifest
    if digest_of_template(files.template, manifest.special_tokens) != manifest.template:
        raise AdapterError(
            "The adapter was trained with another chat template than the one in its folder.",
            "The adapter is refused. Train again.",
        )
    if names_of_day(files.template, f"the adapter {manifest.adapter[:12]}"):
        raise AdapterError(
            "The adapter's chat template shows the current day, and the day of its training was not recorded.",
            "An earlier version trained it, and it would see another prompt each day. Train again.",
        )


def _registered(gate: Gate, files: AdapterFiles, version: Version | None) -> list[Version]:
    """The versions in the registry with this adapter. Each must agree with the manifest."""
    manifest = files.adapter.manifest
    rows = [version] if version else gate.versions().of_adapter(manifest.adapter)
    if not rows and _was_champion(gate.ledger, manifest.adapter):
        return []  # a promoted version stays promoted even if it was deleted in MLflow
    if not rows:
        raise AdapterError(
            f"No version has the adapter {manifest.adapter[:12]}.", "Train again: that registers a version."
        )
    for row in rows:
        if (row.adapter, row.order, row.dataset) != (manifest.adapter, manifest.order, manifest.dataset):
            raise AdapterError(
                f"{row.name} in the registry does not agree with the adapter {manifest.adapter[:12]}.",
                "One of them was altered. `academy verify` shows details. Neither is served.",
            )
    return rows


def _was_champion(ledger: Ledger, digest: str) -> bool:
    return any(row.body.adapter == digest for row in ledger.rows(PromotionEntry, RollbackEntry))


def _check_ledger(ledger: Ledger, digest: str, versions: Iterable[Version]) -> None:
    """No verdict, promotion or rollback names another adapter for one of these versions."""
    numbers = {version.version for version in versions}
    for row in ledger.rows(VerdictEntry, PromotionEntry, RollbackEntry):
        if row.body.version in numbers and row.body.digest != digest:
            raise AdapterError(
                f"The {row.kind} of {row.at[:10]} names another adapter for v{row.body.version}.",
                "The registry was altered. The version is not served.",
            )


def _check_refusal(ledger: Ledger, digest: str, versions: Iterable[Version]) -> None:
    numbers = {version.version for version in versions} | {
        row.body.version for row in ledger.rows(PromotionEntry) if row.body.adapter == digest
    }
    if sentence := refusal(ledger, digest, numbers):
        raise AdapterError(sentence, _refusal_remedy(ledger, digest, sentence, numbers))


def _refusal_remedy(ledger: Ledger, digest: str, sentence: str, numbers: Collection[str]) -> str:
    if ledger.champion().adapter == digest:
        return "`academy rollback` restores another champion."
    if sentence.startswith(OLDER):  # this refusal is permanent
        return "Use a newer version; `academy models` lists them."
    return f"If it may be served after all, run `academy models readmit v{max(numbers, key=int)}`."


def _check_dataset(version: Version, datasets: Path) -> str:
    """The dataset exists and is unaltered. Returns a detail for the report."""
    if not version.dataset:
        raise AdapterError("It names no dataset.", "Only versions that a training of the Academy made name one.")
    file = datasets.with_name(JOBS) / f"{version.dataset[:FOLDER_DIGITS]}.jsonl"
    if file.is_file() and digest_of_file(file) == version.dataset:
        return "a file that the Academy did not curate"
    if (find_dataset(datasets, version.dataset).path / FORGOTTEN).is_file():
        return "some of its lessons have been forgotten"
    return f"{read_dataset(datasets, version.dataset).examples} examples"
