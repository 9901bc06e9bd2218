"""The discovery file of a running gateway, in its home. A separate module, so that clients load no web server."""

from __future__ import annotations

from academy.records import Record

FOLDER = "serving"


class DiscoveryFile(Record):
    """The address of a gateway, for anyone who may read its home; `token` is the key of the admin endpoints."""

    name: str
    url: str
    token: str
    pid: int
    family: str  # the base model's digest
