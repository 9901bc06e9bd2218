"""Who vouches for an adapter: ed25519 keys of this home, and public keys of others that it trusts.

    keys/<id>.pub      a public key that is trusted here; the id is the first 16 hexadecimal digits of its sha256
    keys/<id>.key      its private half, where it is this home's own; nobody else can read it
    keys/<id>.revoked  what it signed is refused from now on
    keys/current       the id of the key that signs

Signatures show what was altered by somebody who cannot read the home's private key: in a folder that is shared, in a
copy, by a container. Whoever can act as the home's own user can sign as well.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from academy.errors import HomeError, InputError, SignatureError
from academy.records import Record, digest_of_bytes
from academy.store.files import explain_disk_errors, plain_folder, read_plain, write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "ed25519"
ID_DIGITS = 16
LONGEST_FILE = 4096
SIGNATURE = re.compile(rf"{ALGORITHM}:(?P<key>[0-9a-f]{{{ID_DIGITS}}}):(?P<bytes>[A-Za-z0-9+/=]{{88}})")
CURRENT, PUBLIC, PRIVATE, REVOKED = "current", ".pub", ".key", ".revoked"


class Key(Record):
    """A key as people see it."""

    id: str
    own: bool  # this home made it
    current: bool  # it signs
    revoked: bool
    because: str = ""  # why it was revoked


class Keys:
    """The keys of one home. Any number of processes may use them at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Key]:
        """Every key that is or was trusted here, by id."""
        current = self._current()
        return [
            Key(
                id=path.stem,
                own=path.with_suffix(PRIVATE).is_file(),
                current=path.stem == current,
                revoked=self.is_revoked(path.stem),
                because=self._because(path.stem),
            )
            for path in sorted(self.folder.glob(f"*{PUBLIC}"))
        ]

    def sign(self, body: bytes) -> str:
        """`ed25519:<key id>:<base64>`, by the present key, which is made where there is none. Raises HomeError."""
        key = self._current() or self._make_first()
        signature = self._private(key).sign(body)
        return f"{ALGORITHM}:{key}:{base64.b64encode(signature).decode()}"

    def check(self, body: bytes, signature: str, what: str) -> str:
        """The id of the trusted key that signed; `what` begins the refusal. Raises SignatureError."""
        key = self.signer(body, signature, what)
        if self.is_revoked(key):
            raise SignatureError(
                f"{what} was signed by the key {key}, which was revoked.",
                "`academy keys resign` signs it again, if you still trust it; or train again.",
            )
        return key

    def signer(self, body: bytes, signature: str, what: str) -> str:
        """The id of the key that signed, be it revoked or not. Raises SignatureError."""
        from cryptography.exceptions import InvalidSignature

        if not signature:
            raise SignatureError(
                f"{what} is not signed.", "If you know where it comes from: `academy keys resign VERSION`."
            )
        match = SIGNATURE.fullmatch(signature)
        if match is None:
            raise SignatureError(f"{what} has a signature that cannot be read.", "The adapter is refused; train again.")
        key = match["key"]
        try:
            self._public(key).verify(base64.b64decode(match["bytes"], validate=True), body)
        except FileNotFoundError:
            raise SignatureError(
                f"{what} was signed by the key {key}, which this home does not trust.",
                "If you know whose it is: `academy keys trust FILE`.",
            ) from None
        except (InvalidSignature, binascii.Error):
            raise SignatureError(
                f"{what} was altered after it was signed.",
                "The adapter is refused. Take its folder away and train again: on processors the same bytes come out.",
            ) from None
        return key

    def is_revoked(self, key: str) -> bool:
        """Whether what a key signed is refused."""
        return os.path.lexists(self._path(key, REVOKED))

    def rotate(self) -> str:
        """Sign with a new key from now on; what the old one signed stays valid. Returns the new id."""
        key = self._make()
        write_file(self.folder / CURRENT, key.encode())
        return key

    def revoke(self, beginning: str, because: str) -> str:
        """Refuse from now on what a key signed; a new key signs where it was the present one. Returns its id."""
        key = self._find(beginning)
        if key == self._current():
            self.rotate()
        write_file(self._path(key, REVOKED), because.encode())
        self._path(key, PRIVATE).unlink(missing_ok=True)  # it signs nothing any more
        return key

    def trust(self, file: Path) -> str:
        """Trust the public key in a file of another home. Returns its id. Raises InputError."""
        from cryptography.hazmat.primitives import serialization

        try:
            with plain_folder(file.absolute().parent) as folder:
                content, _ = read_plain(folder, file.name, LONGEST_FILE)
            public = _ed25519(bytes(content))
        except OSError as problem:
            raise InputError(f"{file} cannot be read ({problem.strerror}).", "Check the path.") from problem
        except ValueError as problem:
            raise InputError(
                f"{file} holds no public key of {ALGORITHM}.", "`academy keys export FILE` writes one."
            ) from problem
        key = _id(public)
        if self.is_revoked(key):
            raise InputError(f"The key {key} was revoked here.", "Ask its home for the key that came after it.")
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self._prepare()
        write_file(self._path(key, PUBLIC), public.public_bytes(*form))
        return key

    def export(self, file: Path) -> str:
        """Write the present public key to a file, for other homes to trust. Returns its id."""
        key = self._current() or self._make_first()
        write_file(file, self._path(key, PUBLIC).read_bytes())
        return key

    def _find(self, beginning: str) -> str:
        found = [one.id for one in self.all() if beginning and one.id.startswith(beginning)]
        if len(found) != 1:
            many = "More than one key begins" if found else "There is no key that begins"
            raise InputError(f"{many} with {beginning}.", "`academy keys` lists them.")
        return found[0]

    def _current(self) -> str:
        try:
            found = (self.folder / CURRENT).read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return ""
        if not re.fullmatch(f"[0-9a-f]{{{ID_DIGITS}}}", found):
            raise HomeError(f"{self.folder / CURRENT} names no key.", "`academy keys rotate` makes a new one.")
        return found

    def _make_first(self) -> str:
        """The home's first key. Of processes that make one at once all take the one that came first."""
        key = self._make()
        mine = write_file(self.folder / f"{CURRENT}.{key}", key.encode())
        try:
            (self.folder / CURRENT).hardlink_to(mine)
        except FileExistsError:
            self._path(key, PRIVATE).unlink()
            self._path(key, PUBLIC).unlink()
        finally:
            mine.unlink()
        return self._current()

    def _make(self) -> str:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._prepare()
        private = Ed25519PrivateKey.generate()
        public = private.public_key()
        key, pem = _id(public), serialization.Encoding.PEM
        secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_file(self._path(key, PRIVATE), secret, mode=0o600)
        write_file(
            self._path(key, PUBLIC), public.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        )  # fmt: skip
        return key

    def _prepare(self) -> None:
        with explain_disk_errors(self.folder.parent):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _private(self, key: str) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        path = self._path(key, PRIVATE)
        try:
            with suppress(FileNotFoundError):
                if stat.S_IMODE(os.lstat(path).st_mode) & 0o077:
                    raise HomeError(
                        f"The private key {path} can be read by others.",
                        f"Take that right away (chmod 600), or `academy keys revoke {key}` if it was read.",
                    )
            found = serialization.load_pem_private_key(self._read(key, PRIVATE), password=None)
        except (OSError, ValueError) as problem:
            raise HomeError(
                f"The private key {path} cannot be read.", "`academy keys rotate` makes a new one."
            ) from problem
        if not isinstance(found, Ed25519PrivateKey) or _id(found.public_key()) != key:
            raise HomeError(f"{path} holds another key than its name says.", "`academy keys rotate` makes a new one.")
        return found

    def _public(self, key: str) -> Ed25519PublicKey:
        """Raises FileNotFoundError where it is not trusted; a file that holds another key is not trusted either."""
        try:
            found = _ed25519(self._read(key, PUBLIC))
        except (OSError, ValueError):
            raise FileNotFoundError(key) from None
        if _id(found) != key:
            raise FileNotFoundError(key)
        return found

    def _read(self, key: str, kind: str) -> bytes:
        with plain_folder(self.folder) as folder:
            return bytes(read_plain(folder, f"{key}{kind}", LONGEST_FILE)[0])

    def _because(self, key: str) -> str:
        path = self._path(key, REVOKED)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def _path(self, key: str, kind: str) -> Path:
        return self.folder / f"{key}{kind}"


def _ed25519(content: bytes) -> Ed25519PublicKey:
    """Raises ValueError for anything else."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        found = serialization.load_pem_public_key(content)
    except UnsupportedAlgorithm as problem:
        raise ValueError(str(problem)) from problem
    if not isinstance(found, Ed25519PublicKey):
        raise ValueError("It is a key of another kind.")  # noqa: TRY004  the caller asks for the content
    return found


def _id(public: Ed25519PublicKey) -> str:
    return digest_of_bytes(public.public_bytes_raw())[:ID_DIGITS]
