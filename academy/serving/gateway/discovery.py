"""The note that a gateway leaves in its home. A module of its own: who only asks a gateway loads no web server."""

from __future__ import annotations

from academy.records import Record

FOLDER = "serving"


class DiscoveryFile(Record):
    """Where a gateway is to be found by those who may read its home; `token` opens its admin endpoints."""

    name: str
    url: str
    token: str
    pid: int
    family: str  # the base model's digest
