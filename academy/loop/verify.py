"""What can be verified of versions: their files and records without running them, and who answers by their names.

The two see different things. Files that are sound may be served by an engine that turned them wrongly; an answer that
is right says nothing of a signature.
"""

from __future__ import annotations

from collections.abc import Sequence

from academy.errors import AcademyError, AdapterError, InputError, ServingError
from academy.lifecycle.gate import Verification, verify_version
from academy.loop.home import Home
from academy.records import Record
from academy.serving.gateway.adapter_pool import CHAMPION
from academy.serving.gateway.client import GatewayClient, IdentityReport
from academy.store.ledger import BASE

NOT_SERVED = "not served"
"""The reason of a proof that was not even asked for: the gateway refuses the name."""


class Verified(Record):
    """What was verified at one time."""

    files: tuple[Verification, ...]
    answers: tuple[IdentityReport, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(one.ok for one in self.files) and all(one.holds for one in self.answers)

    @property
    def failure(self) -> str:
        """The first thing that failed, as one sentence; empty where nothing did."""
        for one in self.files:
            for check in one.checks:
                if not check.ok:
                    return f"v{one.version} is not verified: {check.name}. {check.sentence}"
        for proof in self.answers:
            if not proof.holds:
                return f"The name {proof.name} is not answered by {proof.version}: {proof.reason}. {proof.sentence}"
        return ""


def verify_files(home: Home, names: Sequence[str], *, all_of_them: bool = False) -> tuple[Verification, ...]:
    """Versions, without a network or a server; without a name the champion. Raises InputError where it is the base."""
    champion = home.ledger.champion()
    if all_of_them:
        versions = list(home.versions.newest(champion))[::-1]
    elif names:
        versions = [home.versions.get(name) for name in names]
    elif champion.version != BASE:
        versions = [home.versions.get(champion.version)]
    else:
        raise InputError("The base model is the champion, and no version was named.", "`academy models` lists them.")
    return tuple(verify_version(home.gate, one, home.datasets) for one in versions)


def verify_answers(home: Home, names: Sequence[str]) -> tuple[IdentityReport, ...]:
    """The champion by the name `champion`, and versions by their own names, as the running gateway answers them.

    Raises ServingError where none runs in this home.
    """
    gateway = GatewayClient.find(home.settings, home.base.digest)
    if gateway is None:
        raise ServingError(
            f"No gateway of this home serves {home.base.family}, so nobody can be asked.",
            "Start it with `academy serve`, or leave --live away.",
        )
    return tuple(_proof(gateway, name) for name in (CHAMPION, *names))


def verify_serving(home: Home, names: Sequence[str], *, live: bool = True) -> Verified:
    """Both, for the champion and for versions. Raises AdapterError for what failed, ServingError without a gateway."""
    champion = home.ledger.champion().version
    wanted = [one for one in (champion, *names) if one != BASE]
    files = verify_files(home, wanted) if wanted else ()
    found = Verified(files=files, answers=verify_answers(home, names) if live else ())
    if not found.ok:
        raise AdapterError(found.failure, "`academy verify` tells more; `academy rollback` goes back to another one.")
    return found


def _proof(gateway: GatewayClient, name: str) -> IdentityReport:
    try:
        return gateway.identify(name)
    except (AdapterError, ServingError) as problem:
        gateway.status()  # raises where it is not the adapter's fault: the gateway is gone
        return _refusal(name, problem)


def _refusal(name: str, problem: AcademyError) -> IdentityReport:
    return IdentityReport(name=name, version=name, adapter="", holds=False, reason=NOT_SERVED, sentence=str(problem))
