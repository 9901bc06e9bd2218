"""Signatures of adapters: the ed25519 keys of this home, and public keys of other homes that it trusts.

    keys/<id>.pub      a trusted public key; the id is the first 16 hexadecimal digits of its sha256
    keys/<id>.key      its private key, if it belongs to this home; readable by the owner only
    keys/<id>.revoked  adapters with this signature are refused; the file holds the reason
    keys/current       the id of the key that signs

A signature detects changes by anyone who cannot read the home's private key: in a shared folder, in a copy, by a
container. The home's own user can sign as well.
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
from academy.store.files import explain_disk_errors, open_folder, read_regular_file, write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "ed25519"
ID_DIGITS = 16
MAX_FILE_BYTES = 4096
SIGNATURE = re.compile(rf"{ALGORITHM}:(?P<key>[0-9a-f]{{{ID_DIGITS}}}):(?P<bytes>[A-Za-z0-9+/=]{{88}})")
CURRENT, PUBLIC, PRIVATE, REVOKED = "current", ".pub", ".key", ".revoked"


class Key(Record):
    """A key as the commands show it."""

    id: str
    own: bool  # this home made it
    current: bool  # it signs
    revoked: bool
    because: str = ""  # why it was revoked


class Keys:
    """The keys of one home. Several processes may use them at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Key]:
        """All keys that are or were trusted here, sorted by id."""
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
        """`ed25519:<key id>:<base64>` by the current key; the first call creates one. Raises HomeError."""
        key = self._current() or self._make_first()
        signature = self._private(key).sign(body)
        return f"{ALGORITHM}:{key}:{base64.b64encode(signature).decode()}"

    def check(self, body: bytes, signature: str, what: str) -> str:
        """The id of the trusted key that signed. `what` starts the error message. Raises SignatureError."""
        key = self.signer(body, signature, what)
        if self.is_revoked(key):
            raise SignatureError(
                f"{what} was signed by the key {key}, which was revoked.",
                "If you still trust it, sign it again with `academy keys resign`. Otherwise train again.",
            )
        return key

    def signer(self, body: bytes, signature: str, what: str) -> str:
        """The id of the key that signed, revoked or not. Raises SignatureError."""
        from cryptography.exceptions import InvalidSignature

        if not signature:
            raise SignatureError(f"{what} is not signed.", "If you know its origin, run `academy keys resign VERSION`.")
        match = SIGNATURE.fullmatch(signature)
        if match is None:
            raise SignatureError(f"{what} has an unreadable signature.", "The adapter is refused. Train again.")
        key = match["key"]
        try:
            self._public(key).verify(base64.b64decode(match["bytes"], validate=True), body)
        except FileNotFoundError:
            raise SignatureError(
                f"{what} was signed by the key {key}, which this home does not trust.",
                "If you know the owner, run `academy keys trust FILE`.",
            ) from None
        except (InvalidSignature, binascii.Error):
            raise SignatureError(
                f"{what} was altered after it was signed.",
                "The adapter is refused. Remove its folder and train again: on CPUs the bytes are the same.",
            ) from None
        return key

    def is_revoked(self, key: str) -> bool:
        """Whether adapters that this key signed are refused."""
        return os.path.lexists(self._path(key, REVOKED))

    def rotate(self) -> str:
        """Sign with a new key from now on. Earlier signatures stay valid. Returns the new key's id."""
        key = self._make()
        write_file(self.folder / CURRENT, key.encode())
        return key

    def revoke(self, beginning: str, because: str) -> str:
        """Refuse everything that a key signed; a new key replaces the current one. Returns the revoked key's id."""
        key = self._find(beginning)
        if key == self._current():
            self.rotate()
        write_file(self._path(key, REVOKED), because.encode())
        self._path(key, PRIVATE).unlink(missing_ok=True)  # it must not sign again
        return key

    def trust(self, file: Path) -> str:
        """Trust the public key of another home, from a file. Returns its id. Raises InputError."""
        from cryptography.hazmat.primitives import serialization

        try:
            with open_folder(file.absolute().parent) as folder:
                content, _ = read_regular_file(folder, file.name, MAX_FILE_BYTES)
            public = _ed25519(bytes(content))
        except OSError as problem:
            raise InputError(f"{file} cannot be read ({problem.strerror}).", "Check the path.") from problem
        except ValueError as problem:
            raise InputError(
                f"{file} does not contain an {ALGORITHM} public key.", "`academy keys export FILE` writes one."
            ) from problem
        key = _id(public)
        if self.is_revoked(key):
            raise InputError(f"The key {key} was revoked here.", "Ask its owner for the key that replaced it.")
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self._prepare()
        write_file(self._path(key, PUBLIC), public.public_bytes(*form))
        return key

    def export(self, file: Path) -> str:
        """Write the current public key to a file, so that other homes can trust it. Returns its id."""
        key = self._current() or self._make_first()
        write_file(file, self._path(key, PUBLIC).read_bytes(), mode=0o644)  # other accounts are to read it
        return key

    def _find(self, beginning: str) -> str:
        matches = [key.id for key in self.all() if beginning and key.id.startswith(beginning)]
        if len(matches) != 1:
            many = "More than one key id starts" if matches else "No key id starts"
            raise InputError(f"{many} with '{beginning}'.", "`academy keys` lists them.")
        return matches[0]

    def _current(self) -> str:
        try:
            key = (self.folder / CURRENT).read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return ""
        if not re.fullmatch(f"[0-9a-f]{{{ID_DIGITS}}}", key):
            raise HomeError(
                f"{self.folder / CURRENT} does not contain a key id.", "`academy keys rotate` creates a new key."
            )
        return key

    def _make_first(self) -> str:
        """Create the home's first key. Processes that do so at once all use the key that was first."""
        key = self._make()
        candidate = write_file(self.folder / f"{CURRENT}.{key}", key.encode())
        try:
            (self.folder / CURRENT).hardlink_to(candidate)
        except FileExistsError:
            self._path(key, PRIVATE).unlink()
            self._path(key, PUBLIC).unlink()
        finally:
            candidate.unlink()
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
                        f"Other users can read the private key {path}.",
                        f"Run chmod 600 on it. If someone read it, run `academy keys revoke {key}`.",
                    )
            private = serialization.load_pem_private_key(self._read(key, PRIVATE), password=None)
        except (OSError, ValueError) as problem:
            raise HomeError(
                f"The private key {path} cannot be read.", "`academy keys rotate` creates a new key."
            ) from problem
        if not isinstance(private, Ed25519PrivateKey) or _id(private.public_key()) != key:
            raise HomeError(
                f"The key in {path} does not match the file's name.", "`academy keys rotate` creates a new key."
            )
        return private

    def _public(self, key: str) -> Ed25519PublicKey:
        """Raises FileNotFoundError if the key is not trusted, or its file contains another key."""
        try:
            public = _ed25519(self._read(key, PUBLIC))
        except (OSError, ValueError):
            raise FileNotFoundError(key) from None
        if _id(public) != key:
            raise FileNotFoundError(key)
        return public

    def _read(self, key: str, kind: str) -> bytes:
        with open_folder(self.folder) as folder:
            return bytes(read_regular_file(folder, f"{key}{kind}", MAX_FILE_BYTES)[0])

    def _because(self, key: str) -> str:
        path = self._path(key, REVOKED)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def _path(self, key: str, kind: str) -> Path:
        return self.folder / f"{key}{kind}"


def _ed25519(content: bytes) -> Ed25519PublicKey:
    """The ed25519 public key in PEM form. Raises ValueError for anything else."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = serialization.load_pem_public_key(content)
    except UnsupportedAlgorithm as problem:
        raise ValueError(str(problem)) from problem
    if not isinstance(public, Ed25519PublicKey):
        raise ValueError("The key has another type.")  # noqa: TRY004  the content is wrong, not the argument's type
    return public


def _id(public: Ed25519PublicKey) -> str:
    return digest_of_bytes(public.public_bytes_raw())[:ID_DIGITS]
