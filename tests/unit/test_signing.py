"""Keys of a home: created once, private, rotated, revoked; keys of other homes are trusted only by hand."""

from __future__ import annotations

import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from academy.errors import HomeError, InputError, SignatureError
from academy.store.signing import CURRENT, PRIVATE, PUBLIC, Keys

BODY = b"what is signed"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def sign_in(folder: Path) -> str:
    return Keys(folder).sign(BODY)


def test_first_signature_creates_a_private_key(keys: Keys) -> None:
    assert keys.all() == []
    signature = keys.sign(BODY)
    (key,) = keys.all()
    assert (key.own, key.current, key.revoked) == (True, True, False)
    assert signature.startswith(f"ed25519:{key.id}:")
    assert keys.check(BODY, signature, "It") == key.id
    assert stat.S_IMODE((keys.folder / f"{key.id}{PRIVATE}").stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700


@pytest.mark.slow
def test_concurrent_first_signatures_create_one_key(keys: Keys) -> None:
    with ProcessPoolExecutor(6, mp_context=get_context("spawn")) as pool:
        signatures = list(pool.map(sign_in, [keys.folder] * 24))
    (key,) = keys.all()
    assert {signature.split(":")[1] for signature in signatures} == {key.id}
    assert sorted(path.name for path in keys.folder.iterdir()) == sorted([CURRENT, key.id + PRIVATE, key.id + PUBLIC])


@pytest.mark.parametrize("body", [b"", b"what is signed.", b"What is signed"])
def test_signature_of_another_body_is_refused(keys: Keys, body: bytes) -> None:
    with pytest.raises(SignatureError, match="was altered after it was signed"):
        keys.check(body, keys.sign(BODY), "It")


def test_altered_unreadable_or_missing_signature_is_refused(keys: Keys) -> None:
    signature = keys.sign(BODY)
    other = "A" if signature[30] != "A" else "B"
    with pytest.raises(SignatureError, match="was altered"):
        keys.check(BODY, signature[:30] + other + signature[31:], "It")
    with pytest.raises(SignatureError, match="is not signed"):
        keys.check(BODY, "", "It")
    for bad in ("x", signature[:-1], f"{signature}\n", signature.replace("ed25519", "none"), "ed25519:../../etc:AAAA"):
        with pytest.raises(SignatureError, match="unreadable signature"):
            keys.check(BODY, bad, "It")


def test_rotation_signs_with_a_new_key_and_still_trusts_the_old_one(keys: Keys) -> None:
    before = keys.sign(BODY)
    new = keys.rotate()
    assert keys.sign(BODY).split(":")[1] == new != before.split(":")[1]
    assert keys.check(BODY, before, "It") == before.split(":")[1]


def test_revoked_key_s_signatures_are_refused_and_a_new_key_signs(keys: Keys) -> None:
    signature = keys.sign(BODY)
    key = signature.split(":")[1]
    assert keys.revoke(key[:6], "it was lost") == key
    with pytest.raises(SignatureError, match=f"the key {key}, which was revoked"):
        keys.check(BODY, signature, "It")
    assert keys.check(BODY, keys.sign(BODY), "It") != key
    assert {listed.id: listed.because for listed in keys.all()}[key] == "it was lost"
    assert not (keys.folder / f"{key}{PRIVATE}").exists()
    with pytest.raises(InputError, match="No key id starts"):
        keys.revoke("zz", "")


def test_other_home_s_key_is_trusted_only_by_hand(keys: Keys, tmp_path: Path) -> None:
    other = Keys(tmp_path / "other")
    signature = other.sign(BODY)
    with pytest.raises(SignatureError, match="which this home does not trust"):
        keys.check(BODY, signature, "It")
    key = other.export(tmp_path / "key.pub")
    assert keys.trust(tmp_path / "key.pub") == key == keys.check(BODY, signature, "It")
    assert keys.sign(BODY).split(":")[1] != key
    keys.revoke(key, "")
    with pytest.raises(InputError, match="was revoked here"):
        keys.trust(tmp_path / "key.pub")


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
def test_file_without_a_public_key_is_not_trusted(keys: Keys, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key.pub"
    file.write_bytes(content)
    with pytest.raises(InputError, match="does not contain an ed25519 public key"):
        keys.trust(file)
    with pytest.raises(InputError, match="cannot be read"):
        keys.trust(tmp_path / "none")
    assert keys.all() == []


def test_private_keys_and_keys_of_another_type_are_not_trusted(keys: Keys, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    other = generate_private_key(SECP256R1()).public_key()
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(other.public_bytes(*form))
    with pytest.raises(InputError, match="does not contain an ed25519 public key"):
        keys.trust(tmp_path / "key.pub")
    key = keys.sign(BODY).split(":")[1]
    with pytest.raises(InputError, match="does not contain an ed25519 public key"):
        Keys(tmp_path / "other").trust(keys.folder / f"{key}{PRIVATE}")


def test_public_key_under_another_key_s_name_is_not_trusted(keys: Keys, tmp_path: Path) -> None:
    signature = keys.sign(BODY)
    key = signature.split(":")[1]
    other = Keys(tmp_path / "other")
    other.export(keys.folder / f"{key}{PUBLIC}")
    with pytest.raises(SignatureError, match="does not trust"):
        keys.check(BODY, signature, "It")


def test_private_key_that_other_users_can_read_does_not_sign(keys: Keys) -> None:
    key = keys.sign(BODY).split(":")[1]
    (keys.folder / f"{key}{PRIVATE}").chmod(0o644)
    with pytest.raises(HomeError, match="Other users can read the private key"):
        keys.sign(BODY)


def test_missing_or_damaged_private_key_is_reported(keys: Keys) -> None:
    key = keys.sign(BODY).split(":")[1]
    path = keys.folder / f"{key}{PRIVATE}"
    path.write_bytes(b"x")
    path.chmod(0o600)
    with pytest.raises(HomeError, match="cannot be read"):
        keys.sign(BODY)
    path.unlink()
    with pytest.raises(HomeError, match="cannot be read"):
        keys.sign(BODY)
    keys.rotate()
    keys.sign(BODY)
