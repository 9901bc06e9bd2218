"""Serves the champion to users: builds the runtime and the gateway of a home, and runs them until a signal comes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial

from academy.access.user_keys import UserKeys
from academy.errors import InputError
from academy.lifecycle.gate import AdmissionMonitor, admit_adapter, refusal
from academy.loop.home import Home
from academy.records import Record
from academy.serving.export.export import merged_file
from academy.serving.gateway.adapter_pool import AdapterHooks
from academy.serving.gateway.server import serve as serve_gateway
from academy.serving.identity import Identity, check_identity
from academy.serving.runtimes.table import make_runtime
from academy.system.connections import is_loopback


class ServingGateway(Record):
    """A gateway that answers: whose answers, and where."""

    champion: str
    family: str
    url: str


def serve(
    home: Home,
    *,
    name: str,
    host: str,
    port: int,
    runtime: str,
    runtime_url: str,
    seen_as: str,
    by: str,
    started: Callable[[ServingGateway], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C; `started` is called once the port is open.

    Raises InputError for a name that cannot be used and for an address beyond this machine without a key.
    """
    home.settings.require_enabled()
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name):
        raise InputError(
            f"'{name}' is not a valid gateway name.", "Use up to 32 lower-case letters, digits and dashes."
        )
    has_key = home.settings.serve_key.get_secret_value() or UserKeys(home.database).all()
    if not is_loopback(host) and not has_key:
        raise InputError(
            f"At {host} other machines can send requests, and no key is set.",
            "Give each user a key (`academy keys add NAME`), set ACADEMY_SERVE_KEY, or omit --host.",
        )
    monitor = AdmissionMonitor(home.gate)
    engine = make_runtime(
        home.settings, home.base, runtime, runtime_url, monitor.admit,
        partial(merged_file, base=home.base, cache=home.settings.folder("gguf")), seen_as,
    )  # fmt: skip

    async def identify(adapter: str) -> Identity:
        candidate = await asyncio.to_thread(admit_adapter, home.gate, adapter)
        return await check_identity(engine, candidate.adapter)

    hooks = AdapterHooks(
        check=identify,
        restore=lambda adapter: home.restore_adapter(adapter, by=by, because="a request asks for it"),
        refusal=lambda adapter, versions: refusal(home.ledger, adapter, versions) or monitor.reason_to_stop(adapter),
    )
    serve_gateway(
        home.settings, home.base, home.ledger, home.store, engine, hooks, name=name, host=host, port=port,
        on_ready=lambda gateway, url: started(
            ServingGateway(champion=gateway.pool.champion.name, family=gateway.base.family, url=url)
        ),
    )  # fmt: skip
