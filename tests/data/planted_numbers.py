"""Numbers of persons, accounts and machines with valid check digits, made by a seeded generator."""

from __future__ import annotations

import ipaddress
import random

DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("0123456789", k=count))


def grouped(text: str, size: int, gap: str = " ") -> str:
    return gap.join(text[i : i + size] for i in range(0, len(text), size))


def luhn(body: str) -> str:
    """The check digit that makes `body` pass Luhn's test."""
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(reversed(body)))
    return str(-total % 10)


def weighted(body: str, weights: tuple[int, ...]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True))


def phone_pl(rng: random.Random) -> str:
    number = rng.choice("567") + digits(rng, 8)
    return rng.choice(
        (f"+48 {grouped(number, 3)}", f"0048{number}", f"{grouped(number, 3, '-')}", f"tel. {grouped(number, 3)}")
    )


def phone_de(rng: random.Random) -> str:
    number = "0406" + digits(rng, 4)
    return rng.choice((f"+49 176 {number}", f"+49 (0)176 {number}", f"0176/{number}", f"0176 {grouped(number, 4)}"))


def phone_uk(rng: random.Random) -> str:
    end = digits(rng, 3)
    return rng.choice((f"+44 7700 900{end}", f"07700 900 {end}", f"+44 (0)7700 900{end}"))


def phone_us(rng: random.Random) -> str:
    area, end = rng.choice(("212", "415", "312", "646")), digits(rng, 2)
    return rng.choice((f"({area}) 555-01{end}", f"+1 {area}-555-01{end}", f"{area}.555.01{end}", f"+1{area}55501{end}"))


def phone_fr(rng: random.Random) -> str:
    end = digits(rng, 4)
    return rng.choice(
        (f"06 39 98 {grouped(end, 2)}", f"+33 6 39 98 {grouped(end, 2)}", f"+336.39.98.{grouped(end, 2, '.')}")
    )


def card(rng: random.Random) -> str:
    prefix, length = rng.choice((("4", 16), ("52", 16), ("55", 16), ("37", 15), ("6011", 16)))
    body = prefix + digits(rng, length - 1 - len(prefix))
    return body + luhn(body)


def card_with_gaps(rng: random.Random) -> str:
    body = rng.choice(("4", "5")) + rng.choice("12345") + digits(rng, 13)
    return grouped(body + luhn(body), 4, rng.choice((" ", "-")))


def iban(rng: random.Random) -> str:
    country, body = rng.choice((
        ("PL", digits(rng, 24)), ("DE", digits(rng, 18)), ("GB", "NWBK" + digits(rng, 14)),
        ("NL", "INGB" + digits(rng, 10)), ("CZ", digits(rng, 20)), ("NO", digits(rng, 11)),
    ))  # fmt: skip
    number = int("".join(str(int(sign, 36)) for sign in body + country + "00"))
    return f"{country}{98 - number % 97:02d}{body}"


def iban_with_gaps(rng: random.Random) -> str:
    return grouped(iban(rng), 4)


def account_pl(rng: random.Random) -> str:
    """A Polish account as it is written at home: 26 digits, no PL."""
    body = digits(rng, 24)
    check = 98 - int(body + "252100") % 97
    return f"{check:02d} {grouped(body, 4)}"


def ipv4(rng: random.Random) -> str:
    return (
        f"{rng.choice((31, 83, 91, 145, 178))}.{rng.randrange(1, 250)}.{rng.randrange(1, 250)}.{rng.randrange(1, 250)}"
    )


def ipv6(rng: random.Random) -> str:
    parts = ["2a02", *(f"{rng.randrange(4096, 65536):x}" for _ in range(7))]
    return ":".join(parts)


def ipv6_short(rng: random.Random) -> str:
    address = ipaddress.IPv6Address((0x2A01 << 112) | (rng.getrandbits(32) << 80) | rng.getrandbits(16))
    return address.compressed


def pesel(rng: random.Random) -> str:
    body = f"{rng.randrange(50, 99)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}{digits(rng, 4)}"
    return body + str(-weighted(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10)


def nip(rng: random.Random) -> str:
    while True:
        body = rng.choice("5678") + digits(rng, 8)
        check = weighted(body, (6, 5, 7, 2, 3, 4, 5, 6, 7)) % 11
        if check < 10:
            return rng.choice((body + str(check), f"{body[:3]}-{body[3:6]}-{body[6:8]}-{body[8:]}{check}"))


def steuer_id(rng: random.Random) -> str:
    """Ten digits of which one comes twice, and the check digit of ISO 7064 MOD 11,10."""
    order = rng.sample("0123456789", 9)
    while order[0] == "0":
        rng.shuffle(order)
    order.insert(rng.randrange(2, 9), order[0])
    product = 10
    for digit in order:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return "".join(order) + str((11 - product) % 10)


def bsn(rng: random.Random) -> str:
    while True:
        body = rng.choice("12345") + digits(rng, 7)
        check = weighted(body, (9, 8, 7, 6, 5, 4, 3, 2)) % 11
        if check < 10:
            return body + str(check)


def dni(rng: random.Random) -> str:
    body = digits(rng, 8)
    return body + DNI_LETTERS[int(body) % 23]


def nir(rng: random.Random) -> str:
    body = f"{rng.choice('12')}{rng.randrange(50, 99)}{rng.randrange(1, 13):02d}{rng.randrange(10, 95)}{digits(rng, 6)}"
    return f"{body}{97 - int(body) % 97:02d}"


def personnummer(rng: random.Random) -> str:
    body = f"{rng.randrange(50, 99)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}{digits(rng, 3)}"
    return f"{body[:6]}-{body[6:]}{luhn(body)}"


def ssn(rng: random.Random) -> str:
    return f"{rng.randrange(101, 660):03d}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}"


def cpf(rng: random.Random) -> str:
    body = digits(rng, 9)
    for _ in range(2):
        total = sum(int(digit) * weight for digit, weight in zip(body, range(len(body) + 1, 1, -1), strict=True))
        body += str(total * 10 % 11 % 10)
    return f"{body[:3]}.{body[3:6]}.{body[6:9]}-{body[9:]}"


def aadhaar(rng: random.Random) -> str:
    """Twelve digits, the last by Verhoeff's scheme (the dihedral group of the pentagon)."""
    body = rng.choice("23456789") + digits(rng, 10)
    return grouped(body + verhoeff(body), 4)


def _times(a: int, b: int) -> int:
    """The product of two elements of the dihedral group D5."""
    if a < 5:
        return (a + b) % 5 if b < 5 else (a + b - 5) % 5 + 5
    return (a - 5 - b) % 5 + 5 if b < 5 else (a - b) % 5


def verhoeff(body: str) -> str:
    """Verhoeff's check digit."""
    permutation = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    check = 0
    for place, sign in enumerate(reversed(body), start=1):
        digit = int(sign)
        for _ in range(place % 8):
            digit = permutation[digit]
        check = _times(check, digit)
    return str(next(n for n in range(10) if _times(check, n) == 0))
