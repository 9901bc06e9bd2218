"""The account at the other end of a connection on loopback, and the account that listens there.

The kernel shows the account that created a socket: of one socket by its addresses (sock_diag), or of all sockets of
this machine in /proc/net, which takes long where another account has opened many. Linux only.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

ROOT = 0
Address = tuple[str, int]
"""Host and port."""
READS = 4
"""How often the table is read at most: an entry may be missing from one reading while other sockets come and go."""
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_ESTABLISHED, _LISTEN = b"01", b"0A"
_OPEN = int(_ESTABLISHED, 16)
IPV4 = 4
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST = 4, 20, 1
KERNEL_SECONDS = 2.0
_HEAD = struct.Struct("=IHHII")  # of a netlink message: length, type, flags, number, port
_QUESTION = struct.Struct("=BBHI")  # inet_diag_req_v2: family, protocol, extensions, states
_PORTS = struct.Struct("!HH")
_ANY_INTERFACE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # and any cookie
_ANSWER = struct.Struct("=xBxx36s12x12xII")  # of inet_diag_msg: state, ports and addresses, account, inode
_MAPPED = bytes(10) + b"\xff\xff"


def is_loopback(host: str) -> bool:
    """Whether this is an IP address of loopback."""
    address = _parse(host)
    return address is not None and address.is_loopback


def account_of(client: Address, server: Address) -> int | None:
    """The uid that owns the client's socket of a connection; None if that is unknown.

    Two readings must agree. A socket that its process has closed belongs to no account, and the kernel may show
    root for it: so only an open socket with an inode counts, and not one that closes between two readings.
    """
    accounts: list[int | None] = []
    read = socket_account if _kernel_answers() else _listed_account
    for _ in range(READS):
        account = read(client, server)
        if account is not None and accounts and accounts[-1] == account:
            return account
        accounts.append(account)
    return None


def listener_account(server: Address) -> int | None:
    """The uid that listens at an address of this machine; None if that is unknown.

    The kernel prefers who listens at the address itself to who listens at all addresses.
    """
    host, port = server
    every = ["0.0.0.0", "::"] if "." in host else ["::"]  # noqa: S104  addresses, not bindings
    for name in (host, *every):
        if accounts := _accounts((name, port), None, _LISTEN):
            return _only(accounts)
    return None


def is_own_listener(url: str, owner: int) -> bool:
    """Whether this account or root listens at the address of a URL of this machine.

    The port of a server that was killed is free for every account, which then gets what clients send.
    """
    parts = urlsplit(url)
    try:
        return listener_account((parts.hostname or "", parts.port or 0)) in (ROOT, owner)
    except ValueError:  # not a port
        return False


def socket_account(local: Address, remote: Address) -> int | None:
    """The account of the open socket with these addresses, by one question to the kernel; None if it is unknown."""
    ends = [address for address in (_parse(local[0]), _parse(remote[0])) if address is not None]
    if len(ends) < len((local, remote)) or ends[0].version != ends[1].version:
        return None
    ports = _PORTS.pack(local[1], remote[1])
    place = ports + b"".join(end.packed.ljust(16, b"\0") for end in ends)
    mapped = ports + b"".join(_MAPPED + end.packed for end in ends)  # of a socket of IPv6 that uses IPv4
    family = socket.AF_INET if ends[0].version == IPV4 else socket.AF_INET6
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 1 << _OPEN) + place + _ANY_INTERFACE
    head = _HEAD.pack(_HEAD.size + len(question), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(KERNEL_SECONDS)
        kernel.sendto(head + question, (0, 0))
        answer = kernel.recv(4096)
    if _HEAD.unpack_from(answer)[1] != SOCK_DIAG_BY_FAMILY:
        return None  # there is no such socket
    state, its_place, account, inode = _ANSWER.unpack_from(answer, _HEAD.size)
    if state != _OPEN or inode == 0 or its_place not in (place, mapped):
        return None
    return None if account == _unmapped_account() else int(account)


@cache
def _kernel_answers() -> bool:
    """Whether the kernel knows the account of a connection of this process: some containers do not allow to ask."""
    try:
        with socket.socket() as client, socket.create_server(("127.0.0.1", 0)) as listener:
            client.connect(server := listener.getsockname())
            return socket_account(client.getsockname(), server) == os.geteuid()
    except (OSError, struct.error):
        return False


def _listed_account(local: Address, remote: Address) -> int | None:
    return _only(_accounts(local, remote, _ESTABLISHED))


def _accounts(local: Address, remote: Address | None, state: bytes) -> set[int | None]:
    """The accounts of the open sockets with these addresses; None stands for an unknown one."""
    local_names = set(_names(local))
    remote_names = set(_names(remote)) if remote else None
    accounts: set[int | None] = set()
    for table in _TABLES:
        try:
            lines = Path(table).read_bytes().splitlines()[1:]
        except OSError:
            continue  # a machine without IPv6
        for line in lines:
            fields = line.split()
            if fields[1] in local_names and (remote_names is None or fields[2] in remote_names):
                if remote_names is None and fields[3] != state:
                    continue  # a connection to the listener
                is_open = fields[3] == state and fields[9] != b"0"
                accounts.add(int(fields[7]) if is_open else None)
    return accounts


def _only(accounts: set[int | None]) -> int | None:
    """The account of the only socket; None where there are others, or none, or it is unknown here."""
    account = accounts.pop() if len(accounts) == 1 else None
    return None if account == _unmapped_account() else account


def _names(address: Address) -> list[bytes]:
    """How both tables write an address: in words of 32 bits in the machine's order of bytes."""
    host, port = address
    parsed = _parse(host)
    if parsed is None:
        return []
    packed = [parsed.packed, _MAPPED + parsed.packed] if parsed.version == 4 else [parsed.packed]
    return [f"{_words(octets)}:{port:04X}".encode() for octets in packed]


def _words(octets: bytes) -> str:
    return "".join(f"{int.from_bytes(octets[n : n + 4], sys.byteorder):08X}" for n in range(0, len(octets), 4))


def _parse(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _unmapped_account() -> int | None:
    """The uid that stands for every account unknown to this user namespace; None where all accounts are known."""
    lines = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    if lines[:3] == ["0", "0", str(2**32 - 1)]:
        return None
    return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
