"""A change of the champion, as those who answer go along with it: a running gateway, or nobody but this process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from academy.errors import AdapterError, ServingError
from academy.serving.gateway.client import GatewayClient
from academy.serving.runtimes.base import Runtime
from academy.store.ledger import BASE, Ledger

log = logging.getLogger("academy")


class InProcessSwitch:
    """No gateway runs: the canaries are replayed in this process, and whoever answers next asks the ledger."""

    def __init__(self, runtime: Callable[[], Runtime], folder: Callable[[str], Path]) -> None:
        """`runtime` is asked for when an adapter (in the folder that its digest has) must be loaded."""
        self._runtime = runtime
        self._folder = folder

    def prepare(self, adapter: str, *, again: bool = False) -> None:
        """Load an adapter here and replay its canaries; not one that was champion before: nobody waits for it."""
        if adapter != BASE and not again:
            runtime = self._runtime()
            runtime.verify(runtime.load(self._folder(adapter)))

    def follow(self) -> None:
        """Nobody is answering."""


class GatewaySwitch:
    """A gateway answers users now."""

    def __init__(self, gateway: GatewayClient, ledger: Ledger) -> None:
        self._gateway = gateway
        self._ledger = ledger

    def prepare(self, adapter: str, *, again: bool = False) -> None:  # noqa: ARG002
        """Have it loaded there, beside the champion, and its canaries replayed by its own name."""
        if adapter != BASE:
            self._gateway.load(adapter)

    def follow(self) -> None:
        """Have the name `champion` mean the ledger's, and its canaries replayed through that name.

        A gateway that ends in the middle is no reason to go back: the next one starts with the ledger's champion.
        """
        try:
            status = self._gateway.follow()
            champion = self._ledger.champion()
            if status.champion.adapter != champion.adapter:
                raise AdapterError(status.because or f"The gateway still answers with {status.champion.version}.")
            self._gateway.verify()
        except ServingError as problem:
            log.warning("the gateway did not follow, and will when it answers again: %s", problem)
