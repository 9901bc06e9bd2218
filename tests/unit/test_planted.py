"""What is planted is what it claims to be: else the recall on it would mean nothing."""

from __future__ import annotations

from collections import Counter

from tests.data.harmless import harmless
from tests.data.planted import planted
from tests.data.planted_numbers import luhn, verhoeff


def test_there_are_two_hundred_of_each_and_no_text_twice() -> None:
    for made in (planted(), harmless()):
        assert len(made) == 200
        assert len({one.text for one in made}) == 200
    assert len({one.kind for one in planted()}) > 100


def test_each_secret_stands_in_its_text_once_and_is_made_the_same_each_time() -> None:
    assert planted() == planted()
    assert all(one.text.count(one.secret) == 1 for one in planted())
    assert planted(seed=1) != planted(seed=2)


def test_no_surrounding_is_worn_out() -> None:
    beginnings = Counter(one.text[:12] for one in planted())
    assert max(beginnings.values()) <= 20


def test_numbers_pass_their_own_checks() -> None:
    assert luhn("7992739871") == "3"
    assert verhoeff("236") == "3"
    for one in planted(400):
        plain = one.secret.replace(" ", "").replace("-", "")
        if one.kind.startswith("card"):
            assert luhn(plain[:-1]) == plain[-1]
        if one.kind.startswith("iban"):
            assert int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1
