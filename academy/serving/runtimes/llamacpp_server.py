"""`python -m academy.serving.runtimes.llamacpp_server PARENT`: llama.cpp's HTTP server, while its parent lives.

It reads what to serve from one line of JSON on stdin (`ServerOptions`). Once it answers, it writes its address as one
line on stdout.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from academy.records import Record
from academy.system.processes import die_with_parent


class ServerOptions(Record):
    """What a server is started with."""

    model: Path
    adapters: tuple[Path, ...] = ()
    slots: int  # turns that are answered at once
    context: int  # tokens of one slot
    threads: int
    exact: bool  # attention as it is written, keys and values in 32 bits: twice the memory of a slot
    key: str  # what every request must bring: other users of this machine reach the port as well


HTTP_THREADS = 64
"""A streamed answer holds one; the library's own number follows the processors."""


def main() -> None:
    """Serve until the parent ends."""
    die_with_parent(int(sys.argv[1]))
    order = ServerOptions.model_validate_json(sys.stdin.readline())
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(order.model)
    settings.n_parallel = order.slots
    settings.n_ctx = order.slots * order.context
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = order.threads
    settings.n_threads_http = HTTP_THREADS
    settings.api_keys = [order.key]
    settings.cache_ram_mib = 0  # a cache of prompts beside the slots knows nothing of adapters
    if order.exact:  # measured: 2e-5 from transformers for the worst token of the vocabulary, instead of 7e-3
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.ui = settings.endpoint_slots = False
    settings.use_jinja = settings.enable_chat_template = False  # prompts come as token ids
    settings.lora_adapters = [_adapter(xllamacpp.CommonAdapterLoraInfo(), path) for path in order.adapters]
    server = xllamacpp.Server(settings)
    os.write(sys.stdout.fileno(), f"{server.listening_address}\n".encode())
    while True:
        signal.pause()


def _adapter(info: object, path: Path) -> object:
    info.path, info.scale = str(path), 0.0  # type: ignore[attr-defined]
    return info


if __name__ == "__main__":
    main()
