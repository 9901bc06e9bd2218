"""A running gateway as promotions see it: found by its home, told what to load and when to look at the ledger.

It is on this machine: no proxy of the environment is asked, which would be told the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
from pydantic import ValidationError

from academy.errors import AdapterError, ServingError, SignatureError
from academy.models.chat_template import Message
from academy.records import Record
from academy.serving.gateway.discovery import FOLDER, DiscoveryFile
from academy.settings import Settings

PATIENCE = 10.0
"""Seconds for an answer about its state."""
REFUSALS = (AdapterError.__name__, SignatureError.__name__, "adapter_refused", "champion_refused")
"""Codes of a gateway's errors that speak of an adapter."""
LONG = 900.0
"""Seconds for what loads and checks an adapter."""


class ServedChampion(Record):
    """Who a gateway says is champion."""

    version: str  # `v7` or `base`
    adapter: str
    generation: int
    row: int  # of the ledger


class Status(Record):
    """What a gateway says of itself. `because` is its trouble in one sentence, empty where it has none."""

    status: str  # ready | degraded | ending
    because: str
    champion: ServedChampion
    loaded: tuple[str, ...]
    in_flight: dict[str, int]
    swaps: int


class Answer(Record):
    """An answer, and who made it."""

    text: str
    adapter: str
    version: str


class IdentityReport(Record):
    """Who answers by a name, as academy.serving.identity tells it."""

    name: str  # as it was asked for
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
    """A gateway of this home that answers."""

    def __init__(self, discovery: DiscoveryFile, key: str = "") -> None:
        self.discovery = discovery
        self._key = key

    @classmethod
    def find(cls, settings: Settings, family: str) -> GatewayClient | None:
        """The gateway of this home and base model (its digest), or None where none runs.

        A note that a killed gateway left is none. Raises ServingError for one that is there and does not answer.
        """
        for path in sorted(settings.folder(FOLDER).glob("*.json")):
            try:
                discovery = DiscoveryFile.model_validate_json(path.read_bytes())
            except (FileNotFoundError, ValidationError):
                continue  # it ended this moment, or is no note
            if discovery.family != family:
                continue
            found = cls(discovery, settings.serve_key.get_secret_value())
            if found._answers():
                return found
        return None

    def status(self) -> Status:
        """Who answers, and whether all is well. Raises ServingError."""
        return _status(self._admin("GET", "status", PATIENCE))

    def load(self, adapter: str) -> Status:
        """Have an adapter loaded and checked beside the champion. Raises AdapterError where it is not served."""
        return _status(self._admin("POST", "load", LONG, {"adapter": adapter}))

    def follow(self) -> Status:
        """Have it look at the ledger now; returns when the champion has changed, or `because` says why not."""
        return _status(self._admin("POST", "follow", LONG))

    def identify(self, model: str) -> IdentityReport:
        """Replay the canaries of whoever a name means to users. Raises AdapterError where it is not admitted."""
        return IdentityReport.model_validate({"name": model, **self._admin("POST", "verify", LONG, {"model": model})})

    def verify(self, model: str = "champion") -> None:
        """The same. Raises AdapterError where they do not hold."""
        found = self.identify(model)
        if not found.holds:
            raise AdapterError(f"{found.version} does not answer as itself: {found.reason}. {found.sentence}")

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
                "End it and start it again.",
            ) from problem
        except httpx.TransportError:
            return False  # killed, and its note is left
        return response.status_code == httpx.codes.OK  # else somebody else has its port now

    def _admin(self, method: str, verb: str, seconds: float, body: dict[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self._send(method, f"/admin/{verb}", self.discovery.token, seconds, body).json()
        return found

    def _send(self, method: str, path: str, token: str, seconds: float, body: Any) -> httpx.Response:
        try:
            response = httpx.request(
                method, self.discovery.url + path, headers=_bearer(token), timeout=seconds, json=body, trust_env=False
            )
        except httpx.TransportError as problem:
            raise ServingError(
                f"The gateway '{self.discovery.name}' gave no answer ({type(problem).__name__}).",
                "Look whether it still runs.",
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


def _status(found: dict[str, Any]) -> Status:
    return Status.model_validate({name: found[name] for name in Status.model_fields})
