"""200 planted secrets and personal data, each a `Planted(kind, text, secret)`; the harmless look-alikes: harmless.py.

Everything is made by a seeded generator and put together at run time: nothing here is or was a real secret, and no
scanner finds one in this file. Telephone numbers come from ranges kept free for fiction where a country has one.
Written without sight of the detection rules; the author of the rules does not read it, so the recall on it is a proof.
"""
# ruff: noqa: E501, S608, SIM905  the tables read best with one kind a line; no database is asked anything

from __future__ import annotations

import base64
import json
import random
import string
import uuid
from collections.abc import Callable
from typing import NamedTuple

from tests.data import planted_numbers as numbers

SEED = 20260921
LETTERS, DIGITS = string.ascii_letters, string.digits
WORD, HEX, BASE32 = LETTERS + DIGITS, "0123456789abcdef", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
BASE64 = WORD + "+/"
NAMES = ("kowalska", "m.brandt", "t.nowicki", "ines.ferraro", "j.oconnor", "lea.moreau", "s.lindqvist", "p.horvath")
HOSTS = ("db-prod-3.orlen-fracht.pl", "mq.hafenlogistik-nord.de", "cache.umbra-retail.io", "10.20.4.17")
DOMAINS = ("orlen-fracht.pl", "hafenlogistik-nord.de", "umbra-retail.io", "post.lindq.se")


class Planted(NamedTuple):
    """One text, the kind of what it hides, and that itself (empty in a harmless text). `secret in text` always."""

    kind: str
    text: str
    secret: str


Make = Callable[[random.Random], str]
Surround = Callable[[str, str, random.Random], str]


def pick(rng: random.Random, alphabet: str, count: int) -> str:
    """`count` characters."""
    return "".join(rng.choices(alphabet, k=count))


def token(prefix: str, alphabet: str, count: int, suffix: str = "") -> Make:
    """A prefix and as many characters."""
    return lambda rng: prefix + pick(rng, alphabet, count) + suffix


def password(rng: random.Random) -> str:
    """A password as people make them: some words and digits, some noise."""
    word = rng.choice(("Kangur", "Sommer", "Winter", "Drzewo", "Falcon", "Bernstein", "Zamek", "Harbour"))
    forms = (
        word + str(rng.randrange(1970, 2026)) + rng.choice("!#%&*?"),
        word.lower().replace("e", "3").replace("a", "4") + rng.choice("_-.") + pick(rng, DIGITS, 4),
        pick(rng, LETTERS, 1) + pick(rng, WORD + "!#%^*_-", 13) + pick(rng, DIGITS, 2),
        "-".join(pick(rng, WORD, 5) for _ in range(4)),
    )
    return rng.choice(forms)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def url_with_password(scheme: str, tail: str) -> Make:
    return lambda rng: (
        f"{scheme}://{rng.choice(('svc_app', 'root', 'billing'))}:{pick(rng, WORD + '_-', 14)}@{rng.choice(HOSTS)}{tail}"
    )


def jwt(rng: random.Random) -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": pick(rng, DIGITS, 8), "role": "admin", "exp": 1893456000})
    body = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return body + "." + pick(rng, WORD + "-_", 43)


def pem(kind: str, lines: int = 6) -> Make:
    def make(rng: random.Random) -> str:
        body = "\n".join(pick(rng, BASE64, 64) for _ in range(lines))
        return "-----" + f"BEGIN {kind}-----\n{body}\n-----" + f"END {kind}-----"

    return make


def mnemonic(rng: random.Random) -> str:
    words = (
        "abandon ability orbit canyon velvet jungle ribbon tissue gravity lemon oyster walnut pistol harvest".split()
    )
    return " ".join(rng.sample(words, 12))


def email(rng: random.Random) -> str:
    return f"{rng.choice(NAMES)}{rng.randrange(10, 99)}@{rng.choice(DOMAINS)}"


def odd_email(rng: random.Random) -> str:
    name, host = email(rng).split("@")
    left, right = host.rsplit(".", 1)
    return rng.choice((
        f"{name} (at) {host}", f"{name}[at]{left}[dot]{right}", f"{name} at {left} dot {right}", f"{name}＠{host}",
        f"{name}+faktury@{host}", f"{name.upper()}@{host.upper()}", f"{name} [małpa] {left} [kropka] {right}",
    ))  # fmt: skip


# What stands around it. `name` is what a person would call the value.
def in_env(name: str, value: str, rng: random.Random) -> str:
    return f"APP_ENV=production\nLOG_LEVEL=info\n{name.upper()}={value}\nPORT={rng.randrange(3000, 9000)}\n"


def in_yaml(name: str, value: str, rng: random.Random) -> str:
    return f"services:\n  worker:\n    image: registry/worker:1.{rng.randrange(40)}\n    environment:\n      {name}: '{value}'\n"


def in_json(name: str, value: str, rng: random.Random) -> str:
    return json.dumps({"region": "eu-central-1", "retries": rng.randrange(9), name: value, "debug": False}, indent=2)


def in_terraform(name: str, value: str, rng: random.Random) -> str:
    return f'resource "app_service" "main" {{\n  count = {rng.randrange(1, 5)}\n  {name} = "{value}"\n  tags = {{ env = "prod" }}\n}}\n'


def in_manifest(name: str, value: str, rng: random.Random) -> str:
    shown = "'" + value + "'"
    return (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: worker\nspec:\n  template:\n    spec:\n"
        f"      containers:\n      - name: w{rng.randrange(9)}\n        env:\n        - name: {name.upper()}\n          value: {shown}\n"
    )


def in_shell(name: str, value: str, rng: random.Random) -> str:
    return f"  {rng.randrange(400, 900)}  cd deploy\n  901  export {name.upper()}='{value}'\n  902  make release\n  903  history\n"


def in_diff(name: str, value: str, rng: random.Random) -> str:
    return (
        f"diff --git a/settings.py b/settings.py\n@@ -{rng.randrange(90)},3 +12,4 @@ DEBUG = False\n TIMEOUT = 30\n"
        f'-{name.upper()} = os.environ["{name.upper()}"]\n+{name.upper()} = "{value}"\n RETRIES = 3\n'
    )


def in_trace(name: str, value: str, rng: random.Random) -> str:
    return (
        f'Traceback (most recent call last):\n  File "/srv/app/client.py", line {rng.randrange(400)}, in connect\n'
        f"    self._login()\nConnectionError: rejected, {name}={value!r} after 3 attempts\n"
    )


def in_chat(name: str, value: str, rng: random.Random) -> str:
    return f"{rng.choice(('sure', 'ok, here you go', 'no problem'))}, for the staging box use {value} as the {name.replace('_', ' ')} and tell me whether it works"


def in_polish(name: str, value: str, rng: random.Random) -> str:
    return f"Cześć, wdrożenie nr {rng.randrange(90)} stoi, bo {name.replace('_', ' ')} się zmieniło. Nowe to {value} i proszę nie wklejać go do zgłoszenia."


def in_german(name: str, value: str, rng: random.Random) -> str:
    return f"Hallo zusammen, seit heute {rng.randrange(8, 18)} Uhr gilt: {name.replace('_', ' ')} ist {value}. Bitte im Wiki nachtragen."


def in_curl(_name: str, value: str, rng: random.Random) -> str:
    return f"curl -sS -X POST https://api.umbra-retail.io/v{rng.randrange(1, 5)}/jobs -H 'Authorization: Bearer {value}' -d '{{}}'"


def in_url(_name: str, value: str, rng: random.Random) -> str:
    return (
        f"GET https://api.umbra-retail.io/report?id={rng.randrange(999)}&access_token={value}&format=csv returned 200"
    )


def in_sql(name: str, value: str, rng: random.Random) -> str:
    return f"INSERT INTO credentials (id, {name}, created) VALUES ({rng.randrange(9999)}, '{value}', '2026-02-11 09:14:00');"


def alone(_name: str, value: str, rng: random.Random) -> str:
    return f"How do I rotate this? Build {rng.randrange(9999)} fails in CI.\n\n{value}\n\nThat is what the file holds."


def as_line(form: str) -> Surround:
    """A surrounding of its own: § stands for the secret, № for a number."""
    return lambda _name, value, rng: form.replace("§", value).replace("№", str(rng.randrange(10, 99)))


CONFIGS: tuple[Surround, ...] = (
    in_env,
    in_yaml,
    in_json,
    in_terraform,
    in_manifest,
    in_shell,
    in_diff,
    in_trace,
    in_sql,
)
ANYWHERE: tuple[Surround, ...] = (*CONFIGS, in_chat, in_polish, in_german, in_curl, in_url, alone)
PEOPLE: tuple[Surround, ...] = (
    as_line("Customer № asked to be called back; contact: §, then close the ticket."),
    as_line("Proszę o pilny kontakt: §. Zgłoszenie №, klient czeka od rana."),
    as_line("Der Kunde ist unter § zu erreichen, Vorgang № bitte heute abschließen."),
    as_line("INSERT INTO customers (id, city, contact) VALUES (№, 'Gdynia', '§');"),
    as_line('{"event": "signup", "plan": №, "contact": "§", "newsletter": true}'),
    as_line("2026-03-02T08:11:№Z WARN mailer: delivery failed for § (will retry)"),
    as_line("+# owner: §\n+# reviewed in №\n-# owner: unknown\n"),
)
NETWORK: tuple[Surround, ...] = (
    as_line("sshd[№]: Failed password for root from § port 51522 ssh2"),
    as_line('§ - - [02/Mar/2026:08:11:№] "GET /basket HTTP/1.1" 200 512'),
    as_line('{"user": №, "last_login_from": "§"}'),
    as_line("Klient łączy się z adresu § od № dni i ciągle dostaje 403."),
)
MONEY: tuple[Surround, ...] = (
    as_line("Please refund order № to § before Friday."),
    as_line("Zwrot za zamówienie № na rachunek §, proszę potwierdzić."),
    as_line("Bitte überweisen Sie № Euro auf §."),
    as_line('{"order": №, "paid_with": "§", "currency": "EUR"}'),
    as_line("INSERT INTO payments VALUES (№, '§', 'settled');"),
)


def identity(name: str) -> tuple[Surround, ...]:
    """Where a national number stands, under its own name."""
    return (
        as_line(f"{name}: §, wniosek №."),
        as_line(f"The applicant's {name} is § (file №)."),
        as_line(f"INSERT INTO persons (id, {name.lower().replace(' ', '_')}) VALUES (№, '§');"),
    )


# kind, how it is made, what people call it, where it stands
KINDS: tuple[tuple[str, Make, str, tuple[Surround, ...]], ...] = (
    ("aws key id", token("AK" + "IA", string.ascii_uppercase + "234567", 16), "aws_access_key_id", ANYWHERE),
    ("aws temporary key id", token("AS" + "IA", string.ascii_uppercase + "234567", 16), "aws_access_key_id", CONFIGS),
    ("aws secret key", token("", BASE64, 40), "aws_secret_access_key", CONFIGS),
    ("github", token("gh" + "p_", WORD, 36), "github_token", ANYWHERE),
    ("github app", token("gh" + "s_", WORD, 36), "token", ANYWHERE),
    ("github fine", token("github" + "_pat_11", WORD, 79), "gh_pat", ANYWHERE),
    ("gitlab", token("gl" + "pat-", WORD + "-_", 20), "ci_token", ANYWHERE),
    ("gitlab runner", token("gl" + "rt-", WORD + "-_", 20), "runner", CONFIGS),
    ("slack", lambda r: "xo" + f"xb-{pick(r, DIGITS, 12)}-{pick(r, DIGITS, 12)}-{pick(r, WORD, 24)}", "slack", ANYWHERE),
    ("slack hook", lambda r: "https://hooks.sl" + f"ack.com/services/T{pick(r, WORD.upper(), 8)}/B{pick(r, WORD.upper(), 8)}/{pick(r, WORD, 24)}", "hook", ANYWHERE),
    ("discord hook", lambda r: "https://disc" + f"ord.com/api/webhooks/{pick(r, DIGITS, 18)}/{pick(r, WORD + '-_', 68)}", "hook", ANYWHERE),
    ("telegram", lambda r: f"{r.randrange(10**8, 10**10)}:AA{pick(r, WORD + '-_', 33)}", "telegram_bot", ANYWHERE),
    ("stripe", token("sk" + "_live_", WORD, 24), "stripe", ANYWHERE),
    ("stripe restricted", token("rk" + "_live_", WORD, 32), "payments_key", ANYWHERE),
    ("sendgrid", lambda r: "S" + f"G.{pick(r, WORD + '-_', 22)}.{pick(r, WORD + '-_', 43)}", "mail_key", ANYWHERE),
    ("mailgun", token("key" + "-", HEX, 32), "mailgun", CONFIGS),
    ("twilio", token("S" + "K", HEX, 32), "twilio_api_key", CONFIGS),
    ("npm", token("np" + "m_", WORD, 36), "npm_token", ANYWHERE),
    ("npmrc", token("", HEX, 40), "", (as_line("//registry.npmjs.org/:_authToken=§\nfund=false\n"),)),
    ("pypi", token("py" + "pi-AgEIcHlwaS5vcmc", WORD + "-_", 90), "twine_password", ANYWHERE),
    ("docker hub", token("dc" + "kr_pat_", WORD + "-_", 27), "registry", ANYWHERE),
    ("digitalocean", token("do" + "p_v1_", HEX, 64), "do_token", ANYWHERE),
    ("doppler", token("dp.p" + "t.", WORD, 43), "doppler", CONFIGS),
    ("linear", token("lin" + "_api_", WORD, 40), "linear", ANYWHERE),
    ("notion", token("nt" + "n_", WORD, 46), "notion", CONFIGS),
    ("openai", token("sk" + "-proj-", WORD + "-_", 74), "openai", ANYWHERE),
    ("anthropic", token("sk" + "-ant-api03-", WORD + "-_", 93, "AA"), "model_key", ANYWHERE),
    ("hugging face", token("h" + "f_", LETTERS, 34), "hub", ANYWHERE),
    ("replicate", token("r" + "8_", WORD, 37), "replicate", ANYWHERE),
    ("groq", token("gs" + "k_", WORD, 52), "groq", ANYWHERE),
    ("google", token("AI" + "za", WORD + "-_", 35), "maps", ANYWHERE),
    ("google oauth", token("GOC" + "SPX-", WORD + "-_", 28), "client_secret", CONFIGS),
    ("shopify", token("sh" + "pat_", HEX, 32), "shop", ANYWHERE),
    ("databricks", token("da" + "pi", HEX, 32), "databricks_token", CONFIGS),
    ("vault", token("hv" + "s.", WORD + "-_", 92), "vault", ANYWHERE),
    ("terraform cloud", lambda r: pick(r, WORD, 14) + ".atlas" + "v1." + pick(r, WORD + "-_", 64), "tfc", ANYWHERE),
    ("grafana", lambda r: "gl" + f"sa_{pick(r, WORD, 32)}_{pick(r, HEX, 8)}", "grafana", ANYWHERE),
    ("new relic", token("NR" + "AK-", string.ascii_uppercase + DIGITS, 27), "newrelic", ANYWHERE),
    ("datadog", token("", HEX, 32), "dd_api_key", CONFIGS),
    ("postman", lambda r: "PM" + f"AK-{pick(r, HEX, 24)}-{pick(r, HEX, 34)}", "postman", CONFIGS),
    ("atlassian", token("ATA" + "TT3xFfGF0", WORD + "-_=", 60, "=" + "1A2B3C4D"), "jira", ANYWHERE),
    ("heroku", lambda r: str(uuid.UUID(int=r.getrandbits(128), version=4)), "heroku_api_key", CONFIGS),
    ("age", token("AGE-SECRET-" + "KEY-1", "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58), "age", ANYWHERE),
    ("azure storage", lambda r: "Account" + f"Key={b64(r.randbytes(64))}", "storage", (as_line("DefaultEndpointsProtocol=https;AccountName=depot№;§;EndpointSuffix=core.windows.net"),)),
    ("azure client", lambda r: f"{pick(r, WORD, 3)}8Q~{pick(r, WORD + '-_.', 34)}", "client_secret", CONFIGS),
    ("azure signature", lambda r: "si" + f"g={pick(r, WORD, 41)}%2B%3D", "", (as_line("https://depot.blob.core.windows.net/in/№.csv?sv=2024-08-04&se=2031-01-01&sp=r&§"),)),
    ("jwt", jwt, "session", ANYWHERE),
    ("rsa key", pem("RSA PRIVATE" + " KEY"), "", (alone, as_line("cat deploy№.pem\n§\n"))),
    ("ssh key", pem("OPENSSH PRIVATE" + " KEY", 4), "", (alone,)),
    ("pgp key", pem("PGP PRIVATE" + " KEY BLOCK", 5), "", (alone,)),
    ("key in one line", lambda r: pem("PRIVATE" + " KEY", 3)(r).replace("\n", "\\n"), "private_key", (in_env, in_manifest)),
    ("wireguard", lambda r: b64(r.randbytes(32)), "", (as_line("[Interface]\nAddress = 10.8.0.№/24\nPrivateKey = §\n"),)),
    ("wallet", lambda r: "0x" + pick(r, HEX, 64), "deployer_private_key", CONFIGS),
    ("seed phrase", mnemonic, "", (as_line("my wallet № shows zero, the recovery phrase is: §"), as_line("MNEMONIC=\"§\"\nCHAIN=№\n"))),
    ("otp", token("", BASE32, 32), "", (as_line("otpauth://totp/Umbra:ops№?secret=§&issuer=Umbra"),)),
    ("postgres url", url_with_password("postgres" + "ql", ":5432/billing"), "database_url", ANYWHERE[:-4]),
    ("mongo url", url_with_password("mongodb" + "+srv", "/app?w=majority"), "mongo", CONFIGS),
    ("redis url", lambda r: f"redis://:{pick(r, WORD, 18)}@{r.choice(HOSTS)}:6379/0", "broker", CONFIGS),
    ("amqp url", url_with_password("am" + "qps", "/jobs"), "broker", CONFIGS),
    ("git url", lambda r: f"https://oauth2:{pick(r, WORD, 22)}@git.umbra-retail.io/ops/infra.git", "remote", (as_line("git clone § && cd infra # №"),)),
    ("basic header", lambda r: b64(f"svc:{password(r)}".encode()), "", (as_line("curl -H 'Authorization: Basic §' https://api.umbra-retail.io/v№/me"),)),
    ("opaque bearer", token("", WORD + "-_", 43), "", (in_curl,)),
    ("curl user", password, "", (as_line("curl -u deploy:§ https://nexus.umbra-retail.io/repository/raw№/"),)),
    ("mysql option", token("", WORD, 12), "", (as_line("mysqldump -h db -u root -p§ shop > /tmp/shop№.sql"),)),
    ("sshpass", password, "", (as_line("sshpass -p '§' ssh root@10.1.2.№ uptime"),)),
    ("netrc", password, "", (as_line("machine git.umbra-retail.io\n  login bot№\n  password §\n"),)),
    ("pgpass", token("", WORD, 16), "", (as_line("db-№.umbra-retail.io:5432:billing:svc_app:§"),)),
    ("docker login", lambda r: b64(f"bot:{pick(r, WORD, 20)}".encode()), "", (as_line('{"auths": {"registry№.umbra-retail.io": {"auth": "§"}}}'),)),
    ("kubernetes secret", lambda r: b64(password(r).encode()), "", (as_line("apiVersion: v1\nkind: Secret\nmetadata:\n  name: db№\ndata:\n  password: §\n"),)),
    ("django key", token("django-" + "insecure-", WORD + "!@#%^&*(-_=+)", 50), "SECRET_KEY", (in_env, in_yaml, in_diff)),
    ("rails key", token("", HEX, 128), "secret_key_base", CONFIGS),
    ("signing secret", token("wh" + "sec_", WORD, 32), "webhook", CONFIGS),
    ("password in settings", password, "db_password", CONFIGS),
    ("passphrase in settings", password, "keystore_passphrase", CONFIGS),
    ("polish setting", password, "haslo_bazy", CONFIGS),
    ("password in prose", password, "", (as_line("The VPN moved to gate №, the password is § and it expires in May."), as_line("login: ops№ pass: § (do not share)"), as_line("you can log in as admin№ with § as your password"))),
    ("hasło w prozie", password, "", (as_line("Hasło do serwera № to §, zmień po zalogowaniu."), as_line("Zaloguj się jako admin№, hasło: §"))),
    ("Passwort im Text", password, "", (as_line("Das Passwort für Rechner № lautet §, bitte ändern."), as_line("Benutzer ops№, Kennwort: §"))),
    ("house token", lambda r: f"umb_{r.choice(('live', 'prod'))}_{pick(r, WORD, 28)}", "token", ANYWHERE),
    ("house header", token("", WORD, 32), "", (as_line("curl https://internal/v№/sync -H 'X-Internal-Token: §'"),)),
    ("house triple", lambda r: f"OFP.{pick(r, DIGITS, 6)}.{pick(r, WORD, 24)}.{pick(r, HEX, 8)}", "api_key", ANYWHERE),
    ("cookie", token("", HEX, 48), "", (as_line("curl -b 'sessionid=§' https://app.umbra-retail.io/admin/№"),)),
    ("email", email, "", PEOPLE),
    ("odd email", odd_email, "", PEOPLE[:3]),
    ("odd email again", odd_email, "", PEOPLE[:3]),
    ("phone pl", numbers.phone_pl, "", PEOPLE),
    ("phone de", numbers.phone_de, "", PEOPLE),
    ("phone uk", numbers.phone_uk, "", PEOPLE),
    ("phone us", numbers.phone_us, "", PEOPLE),
    ("phone fr", numbers.phone_fr, "", PEOPLE),
    ("card", numbers.card, "", MONEY),
    ("card with gaps", numbers.card_with_gaps, "", MONEY),
    ("iban", numbers.iban, "", MONEY),
    ("iban with gaps", numbers.iban_with_gaps, "", MONEY),
    ("account pl", numbers.account_pl, "", MONEY[1:2]),
    ("ipv4", numbers.ipv4, "", NETWORK),
    ("ipv6", numbers.ipv6, "", NETWORK),
    ("ipv6 short", numbers.ipv6_short, "", NETWORK),
    ("PESEL", numbers.pesel, "", identity("PESEL")),
    ("NIP", numbers.nip, "", identity("NIP")),
    ("Steuer-ID", numbers.steuer_id, "", identity("Steuer-ID")),
    ("BSN", numbers.bsn, "", identity("BSN")),
    ("DNI", numbers.dni, "", identity("DNI")),
    ("NIR", numbers.nir, "", identity("numéro de sécurité sociale")),
    ("personnummer", numbers.personnummer, "", identity("personnummer")),
    ("SSN", numbers.ssn, "", identity("SSN")),
    ("CPF", numbers.cpf, "", identity("CPF")),
    ("Aadhaar", numbers.aadhaar, "", identity("Aadhaar")),
)  # fmt: skip


def planted(count: int = 200, seed: int = SEED) -> list[Planted]:
    """Every kind in turn until there are `count`, each in a surrounding of its kind."""
    found = []
    for number in range(count):
        kind, make, name, surroundings = KINDS[number % len(KINDS)]
        rng = random.Random(f"{seed} {number}")
        secret = make(rng)
        surround = surroundings[(number * 7 + number // len(KINDS)) % len(surroundings)]
        found.append(Planted(kind, surround(name or "value", secret, rng), secret))
    return found
