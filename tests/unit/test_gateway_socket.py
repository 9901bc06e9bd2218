"""The socket on which the gateway listens."""

from __future__ import annotations

import asyncio
import socket

from academy.serving.gateway.server import listening


def test_gateway_socket_disables_nagles_algorithm() -> None:
    """asyncio does this only for sockets that it knows to be TCP; otherwise each response's body waits 40 ms."""

    async def no_delay(listener: socket.socket) -> int:
        option: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            client_socket = writer.get_extra_info("socket")
            option.set_result(client_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=listener), asyncio.timeout(10):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await option

    with listening("127.0.0.1", 0) as (listener,):
        assert asyncio.run(no_delay(listener)) == 1
