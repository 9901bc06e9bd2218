"""The account at the other end of a connection on loopback, and the account that listens there.

The kernel lists the sockets of this machine in /proc/net with the account that created each. Linux only.
"""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = 0
Address = tuple[str, int]
"""Host and port."""
READS = 4
"""How often the table is read at most: an entry may be missing from one reading while other sockets come and go."""
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_ESTABLISHED, _LISTEN = b"01", b"0A"
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
    for _ in range(READS):
        account = _only(_accounts(client, server, _ESTABLISHED))
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
