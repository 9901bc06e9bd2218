"""A client of another account on this machine, for tests of who may connect."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NOBODY = 65534
ROOT = 0
AS_ROOT = os.geteuid() == ROOT
"""Only root can start a program as another account. Without it this account is the stranger (see `owners`)."""
_PROGRAM = """
import socket, sys
host, port, after = sys.argv[1], int(sys.argv[2]), sys.argv[3]
client = socket.create_connection((host, port), timeout=20)
client.sendall(sys.stdin.buffer.read())
if after == "close":
    client.close()
    sys.exit()
if after == "half":
    client.shutdown(socket.SHUT_WR)
while part := client.recv(65536):
    sys.stdout.buffer.write(part)
"""


def owners() -> frozenset[int]:
    """Accounts that need no token in a test with a stranger."""
    return frozenset({ROOT, os.getuid()}) if AS_ROOT else frozenset({ROOT})


def send_as_stranger(host: str, port: int, request: bytes, after: str = "read") -> bytes:
    """Send bytes from another account and return the answer. `after`: read, half (close one direction) or close."""
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else shutil.which("python3") or sys.executable
    process = subprocess.run(
        [python, "-I", "-c", _PROGRAM, host, str(port), after], input=request, capture_output=True, check=False,
        timeout=60, cwd="/", env={}, **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if AS_ROOT else {}),
    )  # fmt: skip
    assert process.returncode == 0, process.stderr.decode()
    return process.stdout


def request_bytes(
    path: str = "/",
    *,
    host: str = "127.0.0.1",
    method: str = "GET",
    body: bytes = b"",
    close: bool = True,
    **headers: str,
) -> bytes:
    """A request as it goes over the wire; `_` in names of headers stands for `-`."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += ["connection: close"] * close
    return "\r\n".join([*lines, "", ""]).encode() + body
