"""Verifies versions: their files and records without running them, and the answers that their names give.

Each check sees what the other one cannot: an engine may convert sound files wrongly, and a correct answer says nothing
about a signature.
"""

from __future__ import annotations

from collections.abc import Sequence

from academy.errors import AcademyError, AdapterError, InputError, ServingError
from academy.genealogy.versions import Version
from academy.lifecycle.gate import Verification, verify_version
from academy.loop.home import Home
from academy.records import Record
from academy.serving.gateway.adapter_pool import CHAMPION
from academy.serving.gateway.client import GatewayClient, IdentityReport
from academy.store.ledger import BASE

NOT_SERVED = "not served"
"""The reason in the report of a name that the gateway refuses."""


class ServingVerification(Record):
    """The result of a verification of files and answers."""

    files: tuple[Verification, ...]
    answers: tuple[IdentityReport, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is verified."""
        return all(version.ok for version in self.files) and all(answer.holds for answer in self.answers)

    @property
    def failure(self) -> str:
        """The first failure as one sentence; empty if there is none."""
        for version in self.files:
            for check in version.checks:
                if not check.ok:
                    return f"v{version.version} is not verified: {check.name}. {check.sentence}"
        for answer in self.answers:
            if not answer.holds:
                return f"{answer.version} does not answer as {answer.name}: {answer.reason}. {answer.sentence}"
        return ""


def verify_files(home: Home, names: Sequence[str], *, all_of_them: bool = False) -> tuple[Verification, ...]:
    """Verify versions without a network or a server; the champion if no name is given.

    `all_of_them` omits the base model under a name, which has no files. Raises InputError for the base model otherwise.
    """
    champion = home.ledger.champion()
    if all_of_them:
        versions = [version for version in home.versions.newest(champion) if not _is_base(version)][::-1]
    elif names:
        versions = [home.versions.get(name) for name in names]
    elif champion.version != BASE:
        versions = [home.versions.get(champion.version)]
    else:
        raise InputError(
            "The champion is the base model, which has no files to verify.",
            "Name a version; `academy models` lists them.",
        )
    if (named := next(filter(_is_base, versions), None)) is not None:
        raise InputError(
            f"{named.name} is the base model under a name, which has no files to verify.",
            "Name a version with an adapter; `academy models` lists them.",
        )
    return tuple(verify_version(home.gate, version, home.datasets) for version in versions)


def _is_base(version: Version) -> bool:
    """Whether it is the base model under a name. A version that a training made has a run, which no tag can hide."""
    return version.adapter == BASE and not version.run


def verify_answers(home: Home, names: Sequence[str]) -> tuple[IdentityReport, ...]:
    """Verify the running gateway's answers as `champion` and as the given versions.

    Raises ServingError if no gateway runs in this home.
    """
    gateway = GatewayClient.find(home.settings, home.base.digest)
    if gateway is None:
        raise ServingError(
            f"No gateway of this home serves {home.base.family}, so no answer can be verified.",
            "Start it with `academy serve`, or omit --live.",
        )
    return tuple(_identify(gateway, name) for name in (CHAMPION, *names))


def verify_serving(home: Home, names: Sequence[str], *, live: bool = True) -> ServingVerification:
    """Verify files, and answers if `live`, of the champion and of versions.

    Raises AdapterError for the first failure, and ServingError without a gateway.
    """
    champion = home.ledger.champion().version
    versions = [name for name in (champion, *names) if name != BASE]
    verification = ServingVerification(
        files=verify_files(home, versions) if versions else (), answers=verify_answers(home, names) if live else ()
    )
    if not verification.ok:
        raise AdapterError(
            verification.failure,
            "`academy verify` shows every check; `academy rollback` rolls back to another champion.",
        )
    return verification


def _identify(gateway: GatewayClient, name: str) -> IdentityReport:
    try:
        return gateway.identify(name)
    except (AdapterError, ServingError) as problem:
        gateway.status()  # raises if the gateway is gone, which is not the adapter's fault
        return _refusal(name, problem)


def _refusal(name: str, problem: AcademyError) -> IdentityReport:
    return IdentityReport(name=name, version=name, adapter="", holds=False, reason=NOT_SERVED, sentence=str(problem))
