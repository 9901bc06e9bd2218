"""What the campaign expects of the README's tutorial is expected of the commands that it means."""

from __future__ import annotations

from tests.campaign.tutorial import EXPECTED, commands


def test_each_expectation_meets_one_command() -> None:
    assert all(line.startswith(".venv/bin/academy ") for line in commands())
    assert {words: sum(key in line for line in commands()) for key, words in EXPECTED.items()} == dict.fromkeys(
        EXPECTED.values(), 1
    )
