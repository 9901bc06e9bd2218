"""`academy serve`."""

from __future__ import annotations

import asyncio
import re
from functools import partial

from academy.admission import Watch, admit_adapter, refusal
from academy.commands.output import listen, say
from academy.errors import InputError
from academy.export import merged_file
from academy.processes import person
from academy.serving.gateway import Gateway
from academy.serving.identity import Identity, check
from academy.serving.pinning import House
from academy.serving.remote import is_loopback
from academy.serving.runtimes import make_runtime
from academy.serving.server import serve as serve_gateway
from academy.workplace import Workplace


def serve(port: int, host: str, name: str, base_model: str | None, engine: str, url: str, seen_as: str) -> None:
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
        partial(merged_file, base=work.base, cache=work.settings.folder("gguf")), seen_as,
    )  # fmt: skip

    async def look(adapter: str) -> Identity:
        opened = await asyncio.to_thread(admit_adapter, work.gate, adapter)
        return await check(runtime, opened.adapter)

    house = House(
        check=look,
        restore=lambda adapter: work.restore_adapter(adapter, by=person(), because="it is asked for"),
        refusal=lambda adapter, versions: refusal(work.ledger, adapter, versions) or watch.withdrawn(adapter),
    )
    serve_gateway(
        work.settings, work.base, work.ledger, work.store, runtime, house, name=name, host=host, port=port, told=_told
    )


def _told(gateway: Gateway, url: str) -> None:
    champion = gateway.pinning.champion
    say(f"{champion.name} of {gateway.base.family} answers at {url}/v1 (any OpenAI client; model: champion).")
    say("Ctrl-C ends it.")
