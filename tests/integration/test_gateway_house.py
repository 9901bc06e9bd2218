"""The gateway and the house behind it: what is loaded stays on the disk, what is refused goes, what died comes back."""

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
def one(tmp_path: Path, runtime: Obedient) -> Iterator[Running]:
    with running(tmp_path / "home", runtime, serve_keep=1) as found:
        yield found


def refuse(one: Running, adapter: str, version: str, *, refused: bool = True) -> None:
    """A row as `academy models refuse` writes it."""
    entry = RefusalEntry(adapter=adapter, version=version, refused=refused, because="it is rude")
    one.ledger.append(f"refuse:{sum(1 for _ in one.ledger.rows(RefusalEntry))}", entry)


def promote(one: Running, *named: tuple[str, str]) -> None:
    for adapter, version in named:
        one.make_champion(adapter, version)
        assert one.client.follow().because == ""


def free(store: AdapterStore, adapter: str) -> bool:
    """Whether it could be archived now."""
    try:
        with store.exclusive(adapter):
            return True
    except AdapterError:
        return False


# What is loaded is in use


def test_what_is_loaded_is_not_archived_and_what_was_unloaded_is(one: Running) -> None:
    store = AdapterStore(one.adapters)
    promote(one, (A, "1"))
    assert (free(store, A), free(store, B)) == (False, True)
    promote(one, (B, "2"))
    until(lambda: free(store, A))
    assert not free(store, B)
    one.ask("count 0", "v1")
    assert not free(store, A), "a guest is in use as well"


def test_a_gateway_that_has_ended_uses_nothing(tmp_path: Path, runtime: Obedient) -> None:
    with running(tmp_path / "home", runtime) as found:
        promote(found, (A, "1"))
        store = AdapterStore(found.adapters)
        assert not free(store, A)
    assert free(store, A)


def test_an_archived_version_is_restored_when_it_is_named_and_when_it_is_followed_to(
    one: Running, runtime: Obedient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from academy.adapters.adapter import read_adapter

    digests = [read_adapter(publish(one.adapters, value)).digest for value in (1.0, 2.0)]

    async def load(adapter: Path) -> str:
        digest = read_adapter(adapter).digest  # of what is on the disk
        runtime.adapters.add(digest)
        return digest

    monkeypatch.setattr(runtime, "load", load)
    store = AdapterStore(one.adapters)
    promote(one, (digests[0], "1"), (digests[1], "2"))
    until(lambda: free(store, digests[0]))
    with store.exclusive(digests[0]):
        store.pack(digests[0])
        store.remove(digests[0])
    assert one.ask("count 0", "v1").headers["x-academy-adapter"] == digests[0]
    assert store.here(digests[0])
    one.make_champion(digests[0], "1", "rollback")
    one.client.follow()
    until(lambda: free(store, digests[1]))
    with store.exclusive(digests[1]):
        store.pack(digests[1])
        store.remove(digests[1])
    one.make_champion(digests[1], "2", "rollback")
    told = one.client.follow()
    assert (told.champion.adapter, told.because) == (digests[1], "")
    assert store.here(digests[1])


# Refusals


def test_a_refused_version_is_unloaded_and_not_answered_with(one: Running, runtime: Obedient) -> None:
    promote(one, (A, "1"), (B, "2"))
    one.ask("count 0", "v1")
    refuse(one, A, "1")
    until(lambda: A in runtime.unloaded and A not in one.health()["loaded"])
    for name in ("v1", A):
        with pytest.raises(openai.PermissionDeniedError, match=r"v1 was refused on .* \(it is rude\)") as problem:
            one.ask("count 0", name)
        assert problem.value.code == "adapter_refused"
    assert one.health()["status"] == "ready", "the champion is another one"
    with pytest.raises(AdapterError, match="was refused"):
        one.client.identify("v1")
    refuse(one, A, "1", refused=False)
    until(lambda: not one.health()["refused"])
    assert one.ask("count 0", "v1").headers["x-academy-adapter"] == A


def test_a_version_that_was_refused_before_anybody_loaded_it_is_not_loaded(one: Running, runtime: Obedient) -> None:
    promote(one, (A, "1"), (B, "2"), (C, "3"))
    until(lambda: A not in one.health()["loaded"])
    runtime.proved.clear()
    one.ledger.append("refuse:older", RefusalEntry(older_than=2, because=""))
    with pytest.raises(openai.PermissionDeniedError, match="Versions before v2 were refused"):
        one.ask("count 0", "v1")
    assert runtime.proved == []


def test_a_refused_champion_is_answered_by_nobody_until_the_rollback(one: Running, runtime: Obedient) -> None:
    promote(one, (A, "1"), (B, "2"))
    refuse(one, B, "2")
    until(lambda: B not in one.health()["loaded"])
    for name in ("champion", "v2"):
        with pytest.raises(openai.InternalServerError, match="academy rollback") as problem:
            one.ask("count 0", name)
        assert (problem.value.status_code, problem.value.code) == (503, "champion_refused")
    health = one.health()
    assert (health["status"], "The champion v2 is refused" in health["because"]) == ("degraded", True)
    assert one.ask("count 0", BASE).headers["x-academy-adapter"] == BASE
    assert one.ask("count 0", "v1").headers["x-academy-adapter"] == A
    one.make_champion(A, "1", "rollback")
    told = one.client.follow()
    assert (told.status, told.champion.adapter) == ("ready", A)
    assert one.ask("count 0").headers["x-academy-adapter"] == A


def test_what_was_begun_before_the_refusal_ends(one: Running, runtime: Obedient) -> None:
    import threading

    promote(one, (A, "1"))
    heard: list[Any] = []
    asking = threading.Thread(target=lambda: heard.append(one.ask("wait")))
    asking.start()
    until(lambda: runtime.answering == 1)
    refuse(one, A, "1")
    until(lambda: bool(one.health()["refused"]))
    assert A in one.health()["loaded"]
    runtime.release.set()
    asking.join()
    assert heard[0].headers["x-academy-adapter"] == A
    until(lambda: A not in one.health()["loaded"])


# Who answers


def test_who_answers_by_which_name_is_told(one: Running, runtime: Obedient) -> None:
    promote(one, (A, "1"), (B, "2"))
    found = one.client.identify("champion")
    assert (found.name, found.version, found.adapter, found.holds, found.reason) == ("champion", "v2", B, True, "holds")
    runtime.forged.add(A)
    with pytest.raises(AdapterError, match="answers like another one"):
        one.client.identify("v1")  # it is not loaded, and is not served
    runtime.forged = {B}
    found = one.client.identify("v2")
    assert (found.holds, found.reason, found.sentence) == (
        False, "another adapter", f"{B[:12]} answers like another one.",
    )  # fmt: skip
    with pytest.raises(AdapterError, match="v2 does not answer as itself: another adapter"):
        one.client.verify()
    one.make_champion(BASE, BASE, "rollback")
    one.client.follow()
    assert one.client.identify("champion").holds


# An engine that died


def test_an_engine_that_died_is_started_again_with_its_champion_checked(one: Running, runtime: Obedient) -> None:
    promote(one, (A, "1"))
    runtime.proved.clear()
    runtime.ended = runtime.mortal = True
    with pytest.raises(openai.InternalServerError, match="has died") as problem:
        one.ask("count 0")
    assert (problem.value.status_code, problem.value.response.headers["retry-after"]) == (503, "5")
    until(lambda: runtime.started == 2)
    assert one.health()["status"] == "degraded"
    runtime.mortal = False
    until(lambda: one.health()["status"] == "ready")
    assert runtime.started == 3, "after a pause it was tried again"
    assert runtime.proved[-1:] == [A]
    assert one.ask("count 0").headers["x-academy-adapter"] == A


# The engine's own name


def test_the_engine_s_own_name_follows_the_champion_and_its_failure_stops_nothing(
    one: Running, runtime: Obedient
) -> None:
    assert runtime.pointed == [BASE]
    promote(one, (A, "1"))
    assert runtime.pointed == [BASE, A]
    runtime.mute = True
    promote(one, (B, "2"))
    health = one.health()
    assert (health["status"], health["engine_name"]) == ("ready", "It hears nothing. Ask again.")
    assert one.ask("count 0").headers["x-academy-adapter"] == B
    runtime.mute = False
    until(lambda: runtime.pointed[-1] == B)
    until(lambda: one.health()["engine_name"] == "as the champion")
