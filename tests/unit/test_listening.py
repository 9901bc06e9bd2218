"""The socket on which the gateway listens."""

from __future__ import annotations

import asyncio
import socket

from academy.serving.gateway.server import listening


def test_what_the_gateway_writes_is_sent_at_once() -> None:
    """asyncio turns Nagle's algorithm off for sockets that it knows to be TCP: else each reply's body waits 40 ms."""

    async def asked(opened: socket.socket) -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=opened), asyncio.timeout(10):
            _, writer = await asyncio.open_connection(*opened.getsockname())
            writer.close()
            return await found

    with listening("127.0.0.1", 0) as opened:
        assert asyncio.run(asked(opened)) == 1
