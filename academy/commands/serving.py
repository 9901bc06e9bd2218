"""`academy serve`."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from functools import partial

from academy.admission import Watch, admit_adapter
from academy.commands.output import listen, say
from academy.errors import AdapterError, InputError
from academy.export import merged_file
from academy.ledger import BASE
from academy.serving.gateway import Gateway
from academy.serving.identity import check
from academy.serving.runtimes import make_runtime
from academy.serving.server import serve as serve_gateway
from academy.workplace import Workplace


def serve(port: int, host: str, name: str, base_model: str | None, engine: str, url: str) -> None:
    """Answer users until Ctrl-C or SIGTERM."""
    listen()
    work = Workplace.open(base_model)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name):
        raise InputError(f"'{name}' is no name for a gateway.", "Use up to 32 small letters, digits and dashes.")
    if not is_loopback(host) and not work.settings.serve_key.get_secret_value():
        raise InputError(
            f"At {host} others than this machine can ask, and no key is set.",
            "Set ACADEMY_SERVE_KEY, or leave --host away.",
        )
    watch = Watch(work.gate)
    runtime = make_runtime(
        work.settings, work.base, engine, url, watch.admit,
        partial(merged_file, base=work.base, cache=work.settings.folder("gguf")),
    )  # fmt: skip

    async def verify(adapter: str) -> None:
        if adapter == BASE:
            return
        opened = await asyncio.to_thread(admit_adapter, work.gate, adapter)
        found = await check(runtime, opened.adapter)
        if not found.holds:
            raise AdapterError(
                f"The adapter {adapter[:12]} is not served: {found.reason}. {found.sentence}",
                "`academy doctor` and the runtime's log may tell more; or train again.",
            )

    serve_gateway(
        work.settings, work.base, work.ledger, work.store, runtime, verify,
        name=name, host=host, port=port, withdrawn=watch.withdrawn, told=_told,
    )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _told(gateway: Gateway, url: str) -> None:
    champion = gateway.pinning.champion
    say(f"{champion.name} of {gateway.base.family} answers at {url}/v1 (any OpenAI client; model: champion).")
    say("Ctrl-C ends it.")
