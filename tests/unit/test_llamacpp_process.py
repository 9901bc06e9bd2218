"""The pipes of a llama.cpp child are read, however much it writes and however long its lines are."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from academy.errors import ServingError
from academy.serving.runtimes.llamacpp_process import LlamaCppServer
from academy.serving.runtimes.llamacpp_server import ServerOptions

OPTIONS = ServerOptions(model=Path("none"), slots=1, context=8, threads=1, exact=True, key="")
LONG_LINES = "import sys; sys.stderr.write('x' * 3_000_000 + '\\n' + 'y' * 3_000_000 + '\\nno memory\\n'); sys.exit(1)"


async def refusal_of(program: str) -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdin=pipe, stdout=pipe, stderr=pipe)
    server = LlamaCppServer("", (), process)
    try:
        async with asyncio.timeout(20):
            await server.begin(OPTIONS)
    except ServingError as problem:
        return str(problem)
    finally:
        await server.end()
    return ""


def test_long_lines_do_not_block_a_child() -> None:
    assert "Its last line: no memory" in asyncio.run(refusal_of(LONG_LINES))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_after_the_address_is_read(stream: str) -> None:
    address = "import sys; print('http://127.0.0.1:9', flush=True)"
    program = f"{address}; sys.{stream}.write('x' * 3_000_000); sys.{stream}.flush(); sys.exit(3)"
    assert "The llama.cpp server has ended." in asyncio.run(refusal_of(program))
