"""A client of the gateway that runs in this home, for promotions and checks.

The gateway is on this machine, so requests never use a proxy of the environment, which would see the token.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import httpx
from pydantic import ValidationError

from academy.access.peers import is_own_listener
from academy.errors import AdapterError, ServingError, SignatureError
from academy.models.chat_template import Message
from academy.records import Record
from academy.serving.gateway.discovery import FOLDER, DiscoveryFile
from academy.settings import Settings

PATIENCE = 10.0
"""Limit in seconds for a status request."""
REFUSALS = (AdapterError.__name__, SignatureError.__name__, "adapter_refused", "champion_refused")
"""Error codes of the gateway that concern an adapter."""
LONG = 900.0
"""Limit in seconds for requests that load and check an adapter."""


class ServedChampion(Record):
    """The champion, as reported by a gateway."""

    version: str  # `v7` or `base`
    adapter: str
    generation: int
    row: int  # number of the ledger row


class Status(Record):
    """A gateway's state. `because` is its problem in one sentence, or empty."""

    status: str  # ready | degraded | ending
    because: str
    champion: ServedChampion
    loaded: tuple[str, ...]
    in_flight: dict[str, int]
    swaps: int


class Answer(Record):
    """An answer, and the adapter and version that made it."""

    text: str
    adapter: str
    version: str


class IdentityReport(Record):
    """Which adapter answers by a name, as academy.serving.identity reports it."""

    name: str  # as requested
    version: str
    adapter: str
    runtime: str = ""
    holds: bool
    reason: str
    sentence: str
    asked: int = 0  # canaries
    same: int = 0
    difference: float | None = None


class GatewayClient:
    """A client of one running gateway."""

    def __init__(self, discovery: DiscoveryFile, key: str = "") -> None:
        self.discovery = discovery
        self._key = key

    @classmethod
    def find(cls, settings: Settings, family: str) -> GatewayClient | None:
        """The gateway of this home and base model (its digest), or None where none runs.

        Ignores files of killed gateways. Raises ServingError where a running gateway does not answer.
        """
        for path in sorted(settings.folder(FOLDER).glob("*.json")):
            try:
                discovery = DiscoveryFile.model_validate_json(path.read_bytes())
            except (FileNotFoundError, ValidationError):
                continue  # the gateway ended just now, or the file is not a discovery file
            if discovery.family != family:
                continue
            gateway = cls(discovery, settings.serve_key.get_secret_value())
            if gateway._answers():
                return gateway
        return None

    def status(self) -> Status:
        """The gateway's state and champion. Raises ServingError."""
        return _status(self._admin("GET", "status", PATIENCE))

    def load(self, adapter: str) -> Status:
        """Load and check an adapter beside the champion. Raises AdapterError where the gateway does not serve it."""
        return _status(self._admin("POST", "load", LONG, {"adapter": adapter}))

    def follow(self) -> Status:
        """Make the gateway read the ledger now; returns when the champion has changed, or why not in `because`."""
        return _status(self._admin("POST", "follow", LONG))

    def identify(self, model: str) -> IdentityReport:
        """Replay the canaries of the adapter behind a name. Raises AdapterError where it is not admitted."""
        return IdentityReport.model_validate({"name": model, **self._admin("POST", "verify", LONG, {"model": model})})

    def verify(self, model: str = "champion") -> None:
        """Replay the canaries of the adapter behind a name. Raises AdapterError where they do not hold."""
        report = self.identify(model)
        if not report.holds:
            raise AdapterError(f"{report.version} does not answer as itself: {report.reason}. {report.sentence}")

    def ask(self, messages: Sequence[Message], model: str = "champion", max_tokens: int = 256) -> Answer:
        """One greedy answer, as a user gets it. Raises ServingError."""
        body = {"model": model, "messages": list(messages), "max_tokens": max_tokens, "temperature": 0}
        response = self._send("POST", "/v1/chat/completions", self._key, LONG, body)
        choice = response.json()["choices"][0]
        return Answer(
            text=choice["message"]["content"],
            adapter=response.headers["x-academy-adapter"],
            version=response.headers["x-academy-version"],
        )

    def _answers(self) -> bool:
        if not self._is_own():
            return False  # it was killed; who listens there now must not see its token
        try:
            response = httpx.get(
                f"{self.discovery.url}/admin/status",
                headers=_bearer(self.discovery.token),
                timeout=PATIENCE,
                trust_env=False,
            )
        except httpx.TimeoutException as problem:
            raise ServingError(
                f"The gateway '{self.discovery.name}' (process {self.discovery.pid}) does not answer.",
                "Stop it and start it again.",
            ) from problem
        except httpx.TransportError:
            return False  # it was killed and left its discovery file
        return response.status_code == httpx.codes.OK  # otherwise another program has its port now

    def _admin(self, method: str, verb: str, seconds: float, body: dict[str, Any] | None = None) -> dict[str, Any]:
        content: dict[str, Any] = self._send(method, f"/admin/{verb}", self.discovery.token, seconds, body).json()
        return content

    def _is_own(self) -> bool:
        return is_own_listener(self.discovery.url, os.geteuid())

    def _send(self, method: str, path: str, token: str, seconds: float, body: Any) -> httpx.Response:
        if not self._is_own():
            raise ServingError(
                f"The gateway '{self.discovery.name}' has ended, or another account has its address.",
                "Start it again.",
            )
        try:
            response = httpx.request(
                method, self.discovery.url + path, headers=_bearer(token), timeout=seconds, json=body, trust_env=False
            )
        except httpx.TransportError as problem:
            raise ServingError(
                f"The gateway '{self.discovery.name}' did not answer ({type(problem).__name__}).",
                "Check whether it still runs.",
            ) from problem
        if response.is_error:
            error = _error(response)
            refusal = AdapterError if error.get("code") in REFUSALS else ServingError
            raise refusal(str(error.get("message") or f"The gateway refused with {response.status_code}."))
        return response


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def _error(response: httpx.Response) -> dict[str, Any]:
    try:
        error = response.json()["error"]
    except (ValueError, LookupError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _status(content: dict[str, Any]) -> Status:
    return Status.model_validate({name: content[name] for name in Status.model_fields})
