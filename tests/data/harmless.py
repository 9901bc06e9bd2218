"""200 texts that look like secrets or personal data but are harmless: a finding in them is a false alarm."""
# ruff: noqa: E501  one kind per line

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable

from tests.data.planted import BASE64, HEX, WORD, Planted, b64, pick
from tests.data.planted_numbers import digits, luhn

SEED = 20260922
Text = Callable[[random.Random], str]


def sha(rng: random.Random, size: int = 64) -> str:
    return hashlib.sha512(rng.randbytes(8)).hexdigest()[:size]


def fails_luhn(rng: random.Random, length: int = 16) -> str:
    """A number that is not a valid card number."""
    body = rng.choice("123789") + digits(rng, length - 2)
    return body + str((int(luhn(body)) + rng.randrange(1, 10)) % 10)


def version(rng: random.Random) -> str:
    return f"{rng.randrange(30)}.{rng.randrange(30)}.{rng.randrange(30)}"


def private_ip(rng: random.Random) -> str:
    return rng.choice(("10.{}.{}.{}", "192.168.{0}.{1}", "172.20.{}.{}", "127.0.0.1", "0.0.0.0")).format(  # noqa: S104
        rng.randrange(250), rng.randrange(250), rng.randrange(1, 250)
    )


def picture(rng: random.Random) -> str:
    return b64(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + rng.randbytes(150))


PLACEHOLDERS = ("<your-password>", "changeme", "$PASSWORD", "${DB_PASSWORD}", "********", "xxxxxxxx", "{{ password }}", "", "null", "example")  # fmt: skip
KINDS: tuple[tuple[str, Text], ...] = (
    ("sha256", lambda r: f"sha256:{sha(r)}  dist/app-{version(r)}.tar.gz"),
    ("image digest", lambda r: f"image: ghcr.io/acme/worker@sha256:{sha(r)}"),
    ("md5", lambda r: f"{sha(r, 32)}  backup-{r.randrange(99)}.tar"),
    ("git sha", lambda r: f"Reverted in {sha(r, 40)}, see the log of main."),
    ("git index", lambda r: f"diff --git a/app.py b/app.py\nindex {sha(r, 10)}..{sha(r, 10)} 100644\n+++ b/app.py\n"),
    ("submodule", lambda r: f"-Subproject commit {sha(r, 40)}\n+Subproject commit {sha(r, 40)}"),
    ("uuid", lambda r: f"request_id={uuid.UUID(int=r.getrandbits(128), version=4)} took {r.randrange(900)} ms"),
    ("npm integrity", lambda r: f'"integrity": "sha512-{b64(r.randbytes(64))}",\n"license": "MIT"'),
    ("go.sum", lambda r: f"github.com/acme/mux v{version(r)} h1:{b64(r.randbytes(32))}"),
    ("cargo", lambda r: f'name = "serde"\nversion = "{version(r)}"\nchecksum = "{sha(r)}"'),
    ("poetry", lambda r: f'{{file = "rich-{version(r)}-py3-none-any.whl", hash = "sha256:{sha(r)}"}}'),
    ("pip hash", lambda r: f"requests=={version(r)} --hash=sha256:{sha(r)}"),
    ("nix", lambda r: f'rev = "{sha(r, 40)}"; hash = "sha256-{b64(r.randbytes(32))}";'),
    ("script integrity", lambda r: f'<script src="/app.js" integrity="sha384-{b64(r.randbytes(48))}"></script>'),
    ("versions", lambda r: f"Upgraded torch {version(r)} to {version(r)}; python {version(r)}."),
    ("four-part version", lambda r: f"Chrome version {version(r)}.{r.randrange(200)} is required."),
    ("private address", lambda r: f"upstream worker {{ server {private_ip(r)}:{r.randrange(3000, 9000)}; }}"),
    ("ipv6 loopback", lambda r: f"listen [::1]:{r.randrange(3000, 9000)}; allow fe80::1; deny all;"),
    ("documentation address", lambda r: f"For example 192.0.2.{r.randrange(250)} or 2001:db8::{r.randrange(99)}."),
    ("placeholder password", lambda r: f"DB_USER=app\nDB_PASSWORD={r.choice(PLACEHOLDERS)}\nDB_PORT={r.randrange(5000, 6000)}"),
    ("password from code", lambda r: f'password = os.environ["DB_PASSWORD_{r.randrange(999)}"]\nconnect(password=password)'),
    ("password field", lambda r: f'<input type="password" name="password" id="p{r.randrange(9999)}" required>'),
    ("password in words", lambda r: f"The password is checked on every login and expires after {r.randrange(30, 990)} days."),
    ("hasło w zdaniu", lambda r: f"Hasło jest wymagane, a po {r.randrange(3, 99)} próbach konto zostaje zablokowane."),
    ("Passwort im Satz", lambda r: f"Das Passwort ist abgelaufen und muss nach {r.randrange(30, 990)} Tagen erneuert werden."),
    ("example url", lambda r: f"postgresql://user:password@localhost:{r.randrange(5000, 6000)}/db"),
    ("url without password", lambda r: f"https://build@git.example.com/team/repo{r.randrange(99)}.git"),
    ("secret by reference", lambda r: f"valueFrom:\n  secretKeyRef:\n    name: db-{r.randrange(999)}\n    key: password"),
    ("vault path", lambda r: f"token = data.vault_generic_secret.app{r.randrange(999)}.data[\"token\"]"),
    ("ci secret", lambda r: f"env:\n  NPM_TOKEN: ${{{{ secrets.NPM_TOKEN_{r.randrange(999)} }}}}"),
    ("public key", lambda r: "-----BEGIN PUBLIC KEY-----\n" + pick(r, BASE64, 64) + "\n-----END PUBLIC KEY-----"),
    ("ssh public key", lambda r: f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA{pick(r, BASE64, 43)} deploy"),
    ("certificate", lambda r: "-----BEGIN CERTIFICATE-----\nMII" + pick(r, BASE64, 61) + "\n-----END CERTIFICATE-----"),
    ("example address", lambda r: f"Write to user{r.randrange(99)}@example.com or noreply@example.org."),
    ("git remote", lambda r: f"git remote add origin git@github.com:acme/app{r.randrange(99)}.git"),
    ("decorator", lambda r: f"@pytest.mark.parametrize\n@app.get('/v{r.randrange(999)}')\ndef handler(): ..."),
    ("package at version", lambda r: f"npx eslint@{version(r)} . && pnpm add @types/node@{version(r)}"),
    ("order number", lambda r: f"Order {fails_luhn(r)} was shipped on Tuesday."),
    ("tracking number", lambda r: f"Parcel {fails_luhn(r, 18)} is waiting in Poznań."),
    ("time in ms", lambda r: f'{{"ts": {1_700_000_000_000 + r.randrange(10**10)}, "event": "click"}}'),
    ("not an IBAN", lambda r: f"Ticket DE00{digits(r, 18)} is a made-up reference."),
    ("dates", lambda r: f"From 2026-0{r.randrange(1, 10)}-11 09:30:15 until 2026-12-24 18:00:00."),
    ("sizes", lambda r: f"Resized to 1920x1080, {r.randrange(10**6, 10**7)} bytes, offset 0x{sha(r, 8)}."),
    ("line numbers", lambda r: f"@@ -{r.randrange(999)},7 +{r.randrange(999)},9 @@ def main() -> None:"),
    ("coordinates", lambda r: f"POINT(18.{digits(r, 6)} 54.{digits(r, 6)}) is the harbour."),
    ("picture", lambda r: f"background: url(data:image/png;base64,{picture(r)});"),
    ("css", lambda r: f".btn {{ color: #{pick(r, HEX, 6)}; background: #{pick(r, HEX, 6)} }}"),
    ("long name", lambda r: f"class AbstractSingletonProxyFactoryBeanConfigurationV{r.randrange(999)}(BaseFactory): ..."),
    ("file path", lambda r: f"/usr/lib/python3.11/site-packages/transformers/models/llama{r.randrange(999)}/modeling_llama.py"),
    ("long url", lambda r: f"https://docs.example.com/guides/2026/how-to-rotate-tokens-and-keys?page={r.randrange(99)}#step-3"),
    ("token counts", lambda r: f"max_tokens={r.randrange(9999)}, tokens_per_second=83.{r.randrange(99)}, pad_token_id=0"),
    ("key names", lambda r: f"primary_key=True, sort_key='created', partition_key='user_{r.randrange(99)}'"),
    ("content hash in a name", lambda r: f"dist/assets/index-{pick(r, WORD, 8)}.js   {r.randrange(99)}.4 kB"),
    ("etag", lambda r: f'ETag: "{sha(r, 32)}"\nCache-Control: max-age=3600'),
    ("cache key", lambda r: f"key: npm-linux-{sha(r)}\nrestore-keys: npm-linux-"),
    ("terraform lock", lambda r: f'hashes = [\n  "h1:{b64(r.randbytes(32))}",\n  "zh:{sha(r)}",\n]'),
)  # fmt: skip


def harmless(count: int = 200, seed: int = SEED) -> list[Planted]:
    """Every kind in turn until there are `count`."""
    return [
        Planted(kind, make(random.Random(f"{seed} {number}")), "")
        for number in range(count)
        for kind, make in (KINDS[number % len(KINDS)],)
    ]
