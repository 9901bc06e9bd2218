"""Answers a request with the champion, or with another version, in this process."""

from __future__ import annotations

from academy.loop.home import Home
from academy.records import Record
from academy.store.ledger import BASE


class Answer(Record):
    """An answer, and the version that gave it."""

    request: str
    answer: str
    version: str  # its number, or "base"
    adapter: str  # digest, or "base"


def ask(home: Home, request: str, version: str | None = None, *, max_new_tokens: int, by: str) -> Answer:
    """Answer a request; without a version the champion answers. The adapter's canaries are replayed first.

    An archived adapter is restored, and the ledger records that `by` did it. Raises InputError for an unknown version,
    AdapterError for one that may not be served.
    """
    champion = home.ledger.champion()
    number, adapter = champion.version, champion.adapter
    if version == BASE:
        number = adapter = BASE
    elif version is not None:
        target = home.versions.get(version)
        number, adapter = target.version, target.adapter
    if adapter != BASE:
        home.runtime.load(home.use_adapter(adapter, by=by))
        home.runtime.verify(adapter)
    answer = home.runtime.generate([request], adapter, max_new_tokens)[0]
    return Answer(request=request, answer=answer, version=number, adapter=adapter)
