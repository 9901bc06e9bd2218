"""The listening sockets of a home's servers.

The process that starts a server opens its sockets and keeps them while the server starts, runs and starts again: so at
no moment another account can take the address and get what clients send. `localhost` may mean ::1, so both are taken.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from academy.errors import InputError

ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What binding says on a machine without IPv6."""


def listen(port: int) -> list[socket.socket]:
    """Listen at a port of 127.0.0.1 and of ::1, where the machine has it. Raises InputError if one is in use.

    With port 0, at a free port of 127.0.0.1 only.
    """
    sockets: list[socket.socket] = []
    addresses = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    for family, host in addresses if port else addresses[:1]:
        try:
            sockets.append(_open(family, host, port))
        except OSError as problem:
            if problem.errno in ABSENT and family == socket.AF_INET6:
                continue
            for listener in sockets:
                listener.close()
            raise InputError(
                f"Port {port} of {host} is in use.", "Choose others with --port and --mlflow-port."
            ) from problem
    return sockets


def _open(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def numbers_of(sockets: Sequence[socket.socket]) -> str:
    """The sockets as an argument of a child process that inherits them."""
    return ",".join(str(listener.fileno()) for listener in sockets)


def inherited(numbers: str) -> list[socket.socket]:
    """The sockets that the parent passed."""
    return [socket.socket(fileno=int(number)) for number in numbers.split(",")]
