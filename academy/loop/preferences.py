"""What people think of answers: the preferences of a home, and how many are the champion's own answers."""

from __future__ import annotations

from academy.experience.preferences import Preferences, read_preferences
from academy.experience.ratings import Ratings
from academy.loop.home import Home
from academy.records import Record


class PreferencesReport(Record):
    """The preferences of a home; `on_policy` counts those that are about the champion's own answers only."""

    preferences: Preferences
    kinds: dict[str, int]  # those that weigh something, by kind
    waiting: int
    on_policy: int
    people: int
    requests: int


def preferences_of(home: Home) -> PreferencesReport:
    """The preferences in the gateway's ratings, and in imported conversations that are active or corrected."""
    lessons = [lesson for lesson in home.store.every("active", "superseded") if lesson.kind in ("conversation", "file")]
    preferences = read_preferences(Ratings(home.database).read(), lessons, home.settings.trusted_keys)
    champion = home.ledger.champion().adapter
    weighty = [signal for signal in preferences.signals if signal.weight]
    return PreferencesReport(
        preferences=preferences,
        kinds=preferences.kinds,
        waiting=len(preferences.signals) - len(weighty),
        on_policy=sum(signal.on_policy(champion) for signal in weighty),
        people=len({signal.source for signal in weighty}),
        requests=len({str(signal.messages) for signal in weighty}),
    )
