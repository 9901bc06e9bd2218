"""`python -m academy.serving.runtimes.llamacpp_server PARENT`: llama.cpp's HTTP server, while its parent lives.

It reads what to serve from one line of JSON on stdin (`ServerOptions`). Once it answers, it writes its address as one
line on stdout.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from academy.home.private import be_private
from academy.records import Record
from academy.system.processes import die_with_parent


class ServerOptions(Record):
    """What a server starts with."""

    model: Path
    adapters: tuple[Path, ...] = ()
    slots: int  # turns answered at the same time
    context: int  # tokens of one slot
    threads: int
    exact: bool  # plain attention, keys and values in 32 bits; doubles the memory of a slot
    key: str  # bearer token of every request, because other users of this machine reach the port


HTTP_THREADS = 64
"""Each streamed answer occupies one; the library's default depends on the number of CPUs."""


def main() -> None:
    """Serve until the parent ends."""
    be_private()
    die_with_parent(int(sys.argv[1]))
    options = ServerOptions.model_validate_json(sys.stdin.readline())
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(options.model)
    settings.n_parallel = options.slots
    settings.n_ctx = options.slots * options.context
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = options.threads
    settings.n_threads_http = HTTP_THREADS
    settings.api_keys = [options.key]
    settings.cache_ram_mib = 0  # the prompt cache outside the slots ignores adapters
    if options.exact:  # worst token of the vocabulary, against transformers: 2e-5 instead of 7e-3
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.ui = settings.endpoint_slots = False
    settings.use_jinja = settings.enable_chat_template = False  # prompts come as token ids
    settings.lora_adapters = [_adapter(xllamacpp.CommonAdapterLoraInfo(), path) for path in options.adapters]
    server = xllamacpp.Server(settings)
    os.write(sys.stdout.fileno(), f"{server.listening_address}\n".encode())
    while True:
        signal.pause()


def _adapter(info: object, path: Path) -> object:
    info.path, info.scale = str(path), 0.0  # type: ignore[attr-defined]
    return info


if __name__ == "__main__":
    main()
