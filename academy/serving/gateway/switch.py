"""How serving follows a change of the champion: by the running gateway, or without one in this process only."""

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
    """Without a gateway: the canaries are replayed in this process, and the next gateway reads the ledger."""

    def __init__(self, runtime: Callable[[], Runtime], folder: Callable[[str], Path]) -> None:
        """`runtime` is called only when an adapter must be loaded; `folder` returns the folder of a digest."""
        self._runtime = runtime
        self._folder = folder

    def prepare(self, adapter: str, *, again: bool = False) -> None:
        """Load an adapter here and replay its canaries. An earlier champion (`again`) is not checked again."""
        if adapter != BASE and not again:
            runtime = self._runtime()
            runtime.verify(runtime.load(self._folder(adapter)))

    def follow(self) -> None:
        """Do nothing: no gateway answers."""


class GatewaySwitch:
    """With a running gateway, which answers users during the change."""

    def __init__(self, gateway: GatewayClient, ledger: Ledger) -> None:
        self._gateway = gateway
        self._ledger = ledger

    def prepare(self, adapter: str, *, again: bool = False) -> None:  # noqa: ARG002
        """Load an adapter in the gateway, beside the champion, and replay its canaries by its own name."""
        if adapter != BASE:
            self._gateway.load(adapter)

    def follow(self) -> None:
        """Switch the name `champion` to the ledger's champion, and replay its canaries by that name.

        A gateway that ends during the change does not undo it: the next gateway starts with the ledger's champion.
        """
        try:
            status = self._gateway.follow()
            champion = self._ledger.champion()
            if status.champion.adapter != champion.adapter:
                raise AdapterError(status.because or f"The gateway still answers with {status.champion.version}.")
            self._gateway.verify()
        except ServingError as problem:
            log.warning("The gateway did not follow the change; it will when it answers again: %s", problem)
