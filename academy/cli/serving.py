"""`academy serve`."""

from __future__ import annotations

import asyncio
import re
from functools import partial

from academy.cli.output import listen, say
from academy.errors import InputError
from academy.lifecycle.gate import AdmissionMonitor, admit_adapter, refusal
from academy.loop.home import Home
from academy.serving.export.export import merged_file
from academy.serving.gateway.adapter_pool import AdapterHooks
from academy.serving.gateway.gateway import Gateway
from academy.serving.gateway.server import serve as serve_gateway
from academy.serving.identity import Identity, check_identity
from academy.serving.runtimes.remote import is_loopback
from academy.serving.runtimes.table import make_runtime
from academy.system.processes import person


def serve(port: int, host: str, name: str, base_model: str | None, engine: str, url: str, seen_as: str) -> None:
    """Answer users until Ctrl-C or SIGTERM."""
    listen()
    home = Home.open(base_model)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name):
        raise InputError(f"'{name}' is no name for a gateway.", "Use up to 32 small letters, digits and dashes.")
    if not is_loopback(host) and not home.settings.serve_key.get_secret_value():
        raise InputError(
            f"At {host} others than this machine can ask, and no key is set.",
            "Set ACADEMY_SERVE_KEY, or leave --host away.",
        )
    watch = AdmissionMonitor(home.gate)
    runtime = make_runtime(
        home.settings, home.base, engine, url, watch.admit,
        partial(merged_file, base=home.base, cache=home.settings.folder("gguf")), seen_as,
    )  # fmt: skip

    async def look(adapter: str) -> Identity:
        opened = await asyncio.to_thread(admit_adapter, home.gate, adapter)
        return await check_identity(runtime, opened.adapter)

    hooks = AdapterHooks(
        check=look,
        restore=lambda adapter: home.restore_adapter(adapter, by=person(), because="it is asked for"),
        refusal=lambda adapter, versions: refusal(home.ledger, adapter, versions) or watch.reason_to_stop(adapter),
    )
    serve_gateway(
        home.settings,
        home.base,
        home.ledger,
        home.store,
        runtime,
        hooks,
        name=name,
        host=host,
        port=port,
        on_ready=_print_address,
    )


def _print_address(gateway: Gateway, url: str) -> None:
    champion = gateway.pool.champion
    say(f"{champion.name} of {gateway.base.family} answers at {url}/v1 (any OpenAI client; model: champion).")
    say("Ctrl-C ends it.")
