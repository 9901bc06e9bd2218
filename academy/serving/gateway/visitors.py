"""Who sends a request to the gateway. The access layer knows it by the key or the account, never by a field of it."""

from __future__ import annotations

from starlette.types import Scope

from academy.access.layer import ADMISSION
from academy.access.rules import Admission
from academy.access.user_keys import ANONYMOUS, OWNER
from academy.experience.ratings import Rater, network_of


def visitor_of(scope: Scope) -> Rater:
    """The name of the request's key, `owner` for this account on loopback without a key, `anonymous` for others.

    Who has a key that several people share (ACADEMY_SERVE_KEY, the home's secret) is anonymous, too.
    """
    admission = scope.get(ADMISSION)
    source = ANONYMOUS
    if isinstance(admission, Admission):
        source = admission.key or (OWNER if admission.by == "account" else ANONYMOUS)
    return Rater(source=source, address=network_of((scope.get("client") or ("",))[0]))


def has_own_key(scope: Scope) -> bool:
    """Whether the request has a user's key."""
    admission = scope.get(ADMISSION)
    return isinstance(admission, Admission) and bool(admission.key)
