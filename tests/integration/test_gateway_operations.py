"""The gateway with archives, refusals and dead engines: leases, refused versions, restarts, the engine's alias."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from academy.adapters.archive import AdapterStore
from academy.errors import AdapterError
from academy.store.ledger import BASE
from academy.store.ledger_rows import RefusalEntry
from tests.adapters import publish
from tests.gateways import Obedient, Running, fake_digest, running
from tests.integration.test_gateway import until

A, B, C = (fake_digest(letter) for letter in "abc")


@pytest.fixture
def runtime() -> Obedient:
    return Obedient()


@pytest.fixture
def server(tmp_path: Path, runtime: Obedient) -> Iterator[Running]:
    with running(tmp_path / "home", runtime, serve_keep=1) as server:
        yield server


def refuse(server: Running, adapter: str, version: str, *, refused: bool = True) -> None:
    """A row as `academy models refuse` writes it."""
    entry = RefusalEntry(adapter=adapter, version=version, refused=refused, because="it is rude")
    server.ledger.append(f"refuse:{sum(1 for _ in server.ledger.rows(RefusalEntry))}", entry)


def promote(server: Running, *named: tuple[str, str]) -> None:
    for adapter, version in named:
        server.make_champion(adapter, version)
        assert server.client.follow().because == ""


def free(store: AdapterStore, adapter: str) -> bool:
    """Whether the adapter could be archived now."""
    try:
        with store.exclusive(adapter):
            return True
    except AdapterError:
        return False


# Leases


def test_loaded_adapter_cannot_be_archived_until_it_is_unloaded(server: Running) -> None:
    store = AdapterStore(server.adapters)
    promote(server, (A, "1"))
    assert (free(store, A), free(store, B)) == (False, True)
    promote(server, (B, "2"))
    until(lambda: free(store, A))
    assert not free(store, B)
    server.ask("count 0", "v1")
    assert not free(store, A), "a version loaded by name has no lease"


def test_gateway_releases_its_leases_at_shutdown(tmp_path: Path, runtime: Obedient) -> None:
    with running(tmp_path / "home", runtime) as server:
        promote(server, (A, "1"))
        store = AdapterStore(server.adapters)
        assert not free(store, A)
    assert free(store, A)


def test_archived_version_is_restored_for_requests_and_for_rollbacks(
    server: Running, runtime: Obedient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from academy.adapters.adapter import read_adapter

    digests = [read_adapter(publish(server.adapters, value)).digest for value in (1.0, 2.0)]

    async def load(adapter: Path) -> str:
        digest = read_adapter(adapter).digest  # of the files on the disk
        runtime.adapters.add(digest)
        return digest

    monkeypatch.setattr(runtime, "load", load)
    store = AdapterStore(server.adapters)
    promote(server, (digests[0], "1"), (digests[1], "2"))
    until(lambda: free(store, digests[0]))
    with store.exclusive(digests[0]):
        store.pack(digests[0])
        store.remove(digests[0])
    assert server.ask("count 0", "v1").headers["x-academy-adapter"] == digests[0]
    assert store.here(digests[0])
    server.make_champion(digests[0], "1", "rollback")
    server.client.follow()
    until(lambda: free(store, digests[1]))
    with store.exclusive(digests[1]):
        store.pack(digests[1])
        store.remove(digests[1])
    server.make_champion(digests[1], "2", "rollback")
    status = server.client.follow()
    assert (status.champion.adapter, status.because) == (digests[1], "")
    assert store.here(digests[1])


# Refusals


def test_refused_version_is_unloaded_and_not_served(server: Running, runtime: Obedient) -> None:
    promote(server, (A, "1"), (B, "2"))
    server.ask("count 0", "v1")
    refuse(server, A, "1")
    until(lambda: A in runtime.unloaded and A not in server.health()["loaded"])
    for name in ("v1", A):
        with pytest.raises(openai.PermissionDeniedError, match=r"v1 was refused on .* \(it is rude\)") as problem:
            server.ask("count 0", name)
        assert problem.value.code == "adapter_refused"
    assert server.health()["status"] == "ready", "the champion is not refused"
    with pytest.raises(AdapterError, match="was refused"):
        server.client.identify("v1")
    refuse(server, A, "1", refused=False)
    until(lambda: not server.health()["refused"])
    assert server.ask("count 0", "v1").headers["x-academy-adapter"] == A


def test_version_refused_before_its_loading_is_not_loaded(server: Running, runtime: Obedient) -> None:
    promote(server, (A, "1"), (B, "2"), (C, "3"))
    until(lambda: A not in server.health()["loaded"])
    runtime.proved.clear()
    server.ledger.append("refuse:older", RefusalEntry(older_than=2, because=""))
    with pytest.raises(openai.PermissionDeniedError, match="Versions before v2 were refused"):
        server.ask("count 0", "v1")
    assert runtime.proved == []


def test_refused_champion_is_unavailable_until_the_rollback(server: Running, runtime: Obedient) -> None:
    promote(server, (A, "1"), (B, "2"))
    refuse(server, B, "2")
    until(lambda: B not in server.health()["loaded"])
    for name in ("champion", "v2"):
        with pytest.raises(openai.InternalServerError, match="academy rollback") as problem:
            server.ask("count 0", name)
        assert (problem.value.status_code, problem.value.code) == (503, "champion_refused")
    health = server.health()
    assert (health["status"], "The champion v2 is refused" in health["because"]) == ("degraded", True)
    assert server.ask("count 0", BASE).headers["x-academy-adapter"] == BASE
    assert server.ask("count 0", "v1").headers["x-academy-adapter"] == A
    server.make_champion(A, "1", "rollback")
    status = server.client.follow()
    assert (status.status, status.champion.adapter) == ("ready", A)
    assert server.ask("count 0").headers["x-academy-adapter"] == A


def test_answer_that_began_before_the_refusal_ends(server: Running, runtime: Obedient) -> None:
    import threading

    promote(server, (A, "1"))
    responses: list[Any] = []
    asking = threading.Thread(target=lambda: responses.append(server.ask("wait")))
    asking.start()
    until(lambda: runtime.answering == 1)
    refuse(server, A, "1")
    until(lambda: bool(server.health()["refused"]))
    assert A in server.health()["loaded"]
    runtime.release.set()
    asking.join()
    assert responses[0].headers["x-academy-adapter"] == A
    until(lambda: A not in server.health()["loaded"])


# Identity


def test_identity_is_reported_by_name(server: Running, runtime: Obedient) -> None:
    promote(server, (A, "1"), (B, "2"))
    report = server.client.identify("champion")
    assert (report.name, report.version, report.adapter, report.holds, report.reason) == (
        "champion",
        "v2",
        B,
        True,
        "holds",
    )
    runtime.forged.add(A)
    with pytest.raises(AdapterError, match="answers like another one"):
        server.client.identify("v1")  # it is not loaded, so it is checked first
    runtime.forged = {B}
    report = server.client.identify("v2")
    assert (report.holds, report.reason, report.sentence) == (
        False, "another adapter", f"{B[:12]} answers like another one.",
    )  # fmt: skip
    with pytest.raises(AdapterError, match="v2 does not answer as itself: another adapter"):
        server.client.verify()
    server.make_champion(BASE, BASE, "rollback")
    server.client.follow()
    assert server.client.identify("champion").holds


# A dead engine


def test_dead_engine_is_restarted_and_its_champion_checked(server: Running, runtime: Obedient) -> None:
    promote(server, (A, "1"))
    runtime.proved.clear()
    runtime.ended = runtime.mortal = True
    with pytest.raises(openai.InternalServerError, match="has died") as problem:
        server.ask("count 0")
    assert (problem.value.status_code, problem.value.response.headers["retry-after"]) == (503, "5")
    until(lambda: runtime.started == 2)
    assert server.health()["status"] == "degraded"
    runtime.mortal = False
    until(lambda: server.health()["status"] == "ready")
    assert runtime.started == 3, "the engine was not restarted after a pause"
    assert runtime.proved[-1:] == [A]
    assert server.ask("count 0").headers["x-academy-adapter"] == A


# The engine's alias


def test_engine_alias_follows_the_champion_and_its_failure_is_only_reported(server: Running, runtime: Obedient) -> None:
    assert runtime.pointed == [BASE]
    promote(server, (A, "1"))
    assert runtime.pointed == [BASE, A]
    runtime.silent_alias = True
    promote(server, (B, "2"))
    health = server.health()
    assert (health["status"], health["engine_name"]) == ("ready", "The engine does not answer. Retry.")
    assert server.ask("count 0").headers["x-academy-adapter"] == B
    runtime.silent_alias = False
    until(lambda: runtime.pointed[-1] == B)
    until(lambda: server.health()["engine_name"] == "as the champion")
