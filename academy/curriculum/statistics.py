"""What became of collected experience, by kind of reason, from a curation's funnel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from academy.records import Record

DROPPED = "dropped: "
MERGED = ("exact duplicate", "near duplicate")
LIMITS = ("over the limit of ", "over the quota of ", "over the share of ")
EXAMINED = (
    "held out already", "a later turn of a held-out", "near both a trained", "near a held-out",
    "retired from the hold-out", "overlap with an examination",
)  # fmt: skip
UNSUCCESSFUL = ("outcome ",)


class Removals(Record):
    """Numbers of examples that are not in the file. `low_quality` counts what the filters of quality dropped."""

    merged: int  # duplicates of another example
    over_limits: int  # quotas, caps and the largest number of lessons
    examined: int  # not trained on because an examination asks them, or something too close
    unsuccessful: int  # failed, or without a known outcome
    skipped: int  # not given by their source, such as merge commits
    low_quality: int
    reasons: dict[str, int]  # every reason with its number


def removals(funnel: Mapping[str, int], sources: Iterable[str]) -> Removals:
    """Sort a funnel's reasons. `sources` are the names of the sources that were collected."""
    kinds = {
        "merged": MERGED, "over_limits": LIMITS, "examined": EXAMINED, "unsuccessful": UNSUCCESSFUL,
        "skipped": tuple(f"{source}: " for source in sources),
    }  # fmt: skip
    reasons = {name.removeprefix(DROPPED): n for name, n in funnel.items() if name.startswith(DROPPED)}
    counts = {
        kind: sum(n for reason, n in reasons.items() if reason.startswith(beginnings))
        for kind, beginnings in kinds.items()
    }
    return Removals(**counts, low_quality=sum(reasons.values()) - sum(counts.values()), reasons=reasons)
