"""Which adapters may be served and promoted: one gate, and no way around it.

An adapter is admitted that this home, or one it trusts, has signed; whose files are those that were signed; that is
safe to load; that was trained on this base model; of which folder, registry and ledger tell the same; and that nobody
has refused. What `admit_adapter` returns is in memory: whoever loads that loads what was checked.

`verify_version` goes through the same steps, and tells all that fail instead of the first. It needs no network, no
server and no model in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from academy.adapters.adapter import MANIFEST, Opened, signed_manifest, signed_part
from academy.adapters.tensors import strict_json
from academy.curriculum.dataset import FORGOTTEN, find_dataset, read_dataset
from academy.errors import AcademyError, AdapterError, InputError
from academy.genealogy.versions import Version, Versions
from academy.models.chat_template import digest_of_template
from academy.records import Record
from academy.store.files import write_file
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
FOLDER_DIGITS = 16
"""An adapter's folder is called by so many digits of its digest."""
Step = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class Gate:
    """What an adapter is held against."""

    ledger: Ledger
    keys: Keys
    adapters: Path  # holds each adapter's folder
    versions: Callable[[], Versions]  # the registry is opened when it is first asked
    modules: frozenset[str]  # last parts of the names of the base model's layers


class Check(Record):
    """One thing that was verified; the sentence says what is wrong, or what to know."""

    name: str
    ok: bool
    sentence: str = ""


class Verification(Record):
    """What was verified of a version."""

    version: str
    adapter: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.ok for check in self.checks)


def admit_adapter(gate: Gate, adapter: str | Path, version: Version | None = None, *, registry: bool = True) -> Opened:
    """Read an adapter by its digest or its folder, and return it if it may be served.

    With a version it must be that one's. Without the `registry` one that the ledger knows as a champion is not looked
    up there. Raises AdapterError, SignatureError where it is not signed by a trusted key.
    """
    if isinstance(adapter, Path):
        digest, name = None, adapter.name
        if adapter.absolute().parent != gate.adapters.absolute():
            raise AdapterError(f"{adapter} is none of this home's adapters.", "`academy models` lists the versions.")
    else:
        digest, name = adapter, adapter[:FOLDER_DIGITS]
        if not DIGEST.fullmatch(adapter):
            raise AdapterError(f"{ascii(adapter)[:80]} is no digest of an adapter.", "`academy models` lists them.")
    opened = Opened(gate.adapters / name)
    digest = digest or opened.adapter.digest
    known = not registry and _was_champion(gate.ledger, digest)
    for name, step in _steps(gate, opened, digest, version):
        if not (name == "registry" and known):
            step()
    return opened


class AdmissionMonitor:
    """The gate, for whoever keeps adapters loaded: of what it let in it says later whether that still holds."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._signers: dict[str, str] = {}
        self._refused: dict[tuple[str, int], str] = {}

    def admit(self, adapter: Path) -> Opened:
        """As `admit_adapter`."""
        opened = admit_adapter(self._gate, adapter)
        self._signers[opened.adapter.digest] = opened.check_signature(self._gate.keys)
        return opened

    def reason_to_stop(self, digest: str) -> str:
        """Why what was let in would not be now: refused since, or its key revoked. Empty where it would; reads no file
        of the adapter, and of the ledger one row where nobody was refused since the last time."""
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
    """Everything about a version that can be shown without running it, each told."""
    checks: list[Check] = []
    try:
        if not DIGEST.fullmatch(version.adapter):
            raise AdapterError(f"{version.name} names no adapter by its digest.", "Its registry was altered.")
        opened = Opened(gate.adapters / version.adapter[:FOLDER_DIGITS])
        steps: Iterable[Step] = _steps(gate, opened, version.adapter, version)
    except AcademyError as problem:
        checks.append(Check(name="files", ok=False, sentence=str(problem)))
        steps = _steps_of_record(gate, version.adapter, (version,))
    for name, step in (*steps, ("dataset", lambda: _check_dataset(version, datasets))):
        try:
            note = step()
            checks.append(Check(name=name, ok=True, sentence=note if isinstance(note, str) else ""))
        except AcademyError as problem:
            checks.append(Check(name=name, ok=False, sentence=str(problem)))
    return Verification(version=version.version, adapter=version.adapter, checks=tuple(checks))


def resign_adapter(gate: Gate, version: Version, copies: Path, *, unsigned: bool) -> bool:
    """Sign a version's adapter with the present key; its copies (any depth below `copies`) with it. True where it did.

    Only what else would be admitted: with the signature of a key that was revoked, or with none where `unsigned` says
    that a person vouches for it. Raises AdapterError, SignatureError for one that was altered after it was signed.
    """
    opened = Opened(gate.adapters / version.adapter[:FOLDER_DIGITS])
    what = f"The adapter of {version.name}"
    body, signature = signed_part(opened.written), opened.adapter.manifest.signature
    if signature and not gate.keys.is_revoked(gate.keys.signer(body, signature, what)):
        return False
    if not signature and not unsigned:
        return False
    for name, step in _steps(gate, opened, version.adapter, version):
        if name != "signature":
            step()
    content = signed_manifest(opened.written, gate.keys)
    for path in (opened.folder / MANIFEST, *copies.rglob(MANIFEST)):
        if path.parent == opened.folder or _is_copy(path, body):
            write_file(path, content)
    return True


def refuse_adapter(ledger: Ledger, version: Version, because: str, *, older: bool = False) -> Row[RefusalEntry]:
    """Refuse a version from now on, or with `older` all versions before it; that cannot be taken back.

    Raises InputError for a version without an adapter: the base model is nobody's to refuse.
    """
    if not older and not DIGEST.fullmatch(version.adapter):
        raise InputError(f"{version.name} has no adapter.", "There is nothing to refuse.")
    if older:
        return _append(ledger, RefusalEntry(older_than=int(version.version), because=because))
    return _append(
        ledger, RefusalEntry(adapter=version.adapter, version=version.version, refused=True, because=because)
    )


def readmit_adapter(ledger: Ledger, version: Version, because: str) -> Row[RefusalEntry]:
    """Take back that a version itself was refused."""
    return _append(
        ledger, RefusalEntry(adapter=version.adapter, version=version.version, refused=False, because=because)
    )


def refusal(ledger: Ledger, digest: str, versions: Iterable[str]) -> str:
    """Why an adapter with these version numbers must not be served, as one sentence; empty where it may.

    One query: `AdmissionMonitor` asks it again of adapters that stay loaded.
    """
    newest = max((int(one) for one in versions), default=0)
    found = ""
    for row in ledger.rows(RefusalEntry):
        why = f" ({row.body.because})" if row.body.because else ""
        if newest < (row.body.older_than or 0):
            return f"Versions before v{row.body.older_than} were refused on {row.at[:10]}{why}."
        if row.body.adapter == digest:  # the last word on it counts
            found = f"v{row.body.version} was refused on {row.at[:10]}{why}." if row.body.refused else ""
    return found


def _is_copy(path: Path, body: bytes) -> bool:
    try:
        return signed_part(strict_json(path.read_bytes(), MANIFEST)) == body
    except (AdapterError, AttributeError):  # a manifest of something else, or none
        return False


def _append(ledger: Ledger, entry: RefusalEntry) -> Row[RefusalEntry]:
    return ledger.append(f"refuse:{ledger.family}:{sum(1 for _ in ledger.rows(RefusalEntry))}", entry)


def _steps(gate: Gate, opened: Opened, digest: str, version: Version | None) -> Iterator[Step]:
    """What is checked, in the order in which it is told."""
    yield "files", lambda: _check_name(opened, digest)
    yield "signature", lambda: f"key {opened.check_signature(gate.keys)}"
    yield "base model", lambda: opened.check_base(gate.ledger.family)
    yield "configuration", lambda: _check_modules(opened, gate.modules)
    yield "tensors", lambda: f"{len(opened.layout)} tensors, rank {opened.config['r']}"
    yield "numbers", opened.check_finite
    yield "template", lambda: _check_template(opened)
    named = [version] if version else []  # or those that the registry names, as soon as it was asked
    yield "registry", lambda: named.extend(one for one in _registered(gate, opened, version) if one != version)
    yield from _steps_of_record(gate, digest, named)


def _steps_of_record(gate: Gate, digest: str, versions: Iterable[Version]) -> Iterator[Step]:
    yield "ledger", lambda: _check_ledger(gate.ledger, digest, versions)
    yield "refusals", lambda: _check_refusal(gate.ledger, digest, versions)


def _check_name(opened: Opened, digest: str) -> None:
    opened.check_files(digest)
    if opened.folder.name != digest[:FOLDER_DIGITS]:
        raise AdapterError(
            f"{opened.folder} holds another adapter than its name says.", "The adapter is refused; train again."
        )


def _check_modules(opened: Opened, modules: frozenset[str]) -> None:
    for target in opened.config["target_modules"]:
        if target.rpartition(".")[2] not in modules:
            raise AdapterError(
                f"The adapter changes {target}, which the base model does not have.", "Train it on this base model."
            )


def _check_template(opened: Opened) -> None:
    manifest = opened.adapter.manifest
    if digest_of_template(opened.template, manifest.special_tokens) != manifest.template:
        raise AdapterError(
            "The adapter was trained with another chat template than it brings.", "The adapter is refused; train again."
        )


def _registered(gate: Gate, opened: Opened, version: Version | None) -> list[Version]:
    """The versions that name it. Each must tell what the manifest tells."""
    manifest = opened.adapter.manifest
    found = [version] if version else gate.versions().of_adapter(manifest.adapter)
    if not found and _was_champion(gate.ledger, manifest.adapter):
        return []  # people may delete a version in MLflow; what was promoted stays promoted
    if not found:
        raise AdapterError(
            f"The adapter {manifest.adapter[:12]} is registered as no version.", "Train again: that registers it."
        )
    for one in found:
        if (one.adapter, one.order, one.dataset) != (manifest.adapter, manifest.order, manifest.dataset):
            raise AdapterError(
                f"The registry's {one.name} and the adapter {manifest.adapter[:12]} tell different things.",
                "One of them was altered: `academy verify` tells more. Neither is served.",
            )
    return found


def _was_champion(ledger: Ledger, digest: str) -> bool:
    return any(row.body.adapter == digest for row in ledger.rows(PromotionEntry, RollbackEntry))


def _check_ledger(ledger: Ledger, digest: str, versions: Iterable[Version]) -> None:
    """No verdict, promotion or rollback knows one of these versions by another adapter."""
    numbers = {one.version for one in versions}
    for row in ledger.rows(VerdictEntry, PromotionEntry, RollbackEntry):
        if row.body.version in numbers and row.body.digest != digest:
            raise AdapterError(
                f"The {row.kind} of {row.at[:10]} knows v{row.body.version} as another adapter.",
                "The registry was altered; it is not served.",
            )


def _check_refusal(ledger: Ledger, digest: str, versions: Iterable[Version]) -> None:
    numbers = {one.version for one in versions} | {
        row.body.version for row in ledger.rows(PromotionEntry) if row.body.adapter == digest
    }
    if sentence := refusal(ledger, digest, numbers):
        raise AdapterError(sentence, "`academy rollback` goes back to another champion.")


def _check_dataset(version: Version, datasets: Path) -> str:
    """The dataset is there and unaltered; returns what to know of it."""
    if (find_dataset(datasets, version.dataset).path / FORGOTTEN).is_file():
        return "lessons in it were forgotten since"
    found = read_dataset(datasets, version.dataset)
    return f"{found.examples} examples"
