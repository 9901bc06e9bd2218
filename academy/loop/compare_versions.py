"""Shows versions with their metrics: two beside each other, a page of them, or the one that answers."""

from __future__ import annotations

import math
from typing import Any

from academy.genealogy.history import history
from academy.genealogy.versions import Version
from academy.loop.home import Home
from academy.store.ledger import BASE

SCORE = "score"
"""The metric that an official examination adds: the share of the target's questions that were answered correctly."""


def compare_versions(home: Home, a: str, b: str) -> dict[str, Any]:
    """Compare the metrics of two versions: `["metrics_diff"][metric]` has both values, `diff` and `diff_pct`.

    `diff_pct` is the change from the first to the second in per cent of the first value's size: 0 if both are
    zero, plus or minus infinity (null in JSON) if only the first is. `only_in` has the metrics that one lacks.
    """
    first, second = home.versions.get(a), home.versions.get(b)
    metrics_a, metrics_b = metrics_of(first), metrics_of(second)
    return {
        "version_a": summarise_version(first),
        "version_b": summarise_version(second),
        "metrics_diff": {
            name: {
                "a": metrics_a[name],
                "b": metrics_b[name],
                "diff": metrics_b[name] - metrics_a[name],
                "diff_pct": per_cent(metrics_a[name], metrics_b[name]),
            }
            for name in sorted(metrics_a.keys() & metrics_b.keys())
        },
        "only_in": {a: sorted(metrics_a.keys() - metrics_b.keys()), b: sorted(metrics_b.keys() - metrics_a.keys())},
    }


def list_versions(home: Home, limit: int = 200, before: int | None = None) -> dict[str, Any]:
    """The newest `limit` versions, oldest first, each with its id, metrics, parent and whether it is active.

    Pass `before` of the answer to get the page before it. It is None on the first page.
    """
    champion = home.ledger.champion()
    versions = home.versions.page(limit + 1, before, champion)
    page = versions[:limit][::-1]
    return {
        "family": home.base.family,
        "base_model": home.base.name,
        "current_version": champion.version,
        "versions": [
            summarise_version(version) | {"is_active": version.adapter == champion.adapter} for version in page
        ],
        "before": int(page[0].version) if len(versions) > limit else None,
    }


def active_adapter(home: Home) -> dict[str, Any] | None:
    """The adapter that answers now, since when, and who activated it; None if the base model answers."""
    champion = home.ledger.champion()
    if champion.adapter == BASE:
        return None
    version = home.versions.find(champion.version)
    since = next(change for change in history(home.ledger) if change.seq == champion.seq)
    summary = summarise_version(version) if version is not None and version.adapter == champion.adapter else {}
    return summary | {
        "version": champion.version,
        "adapter": champion.adapter,
        "adapter_path": str(home.adapter_store.folder(champion.adapter)),
        "base_model": home.base.name,
        "generation": champion.generation,
        "activated_at": since.at,
        "activated_by": since.by,
        "by_hand": since.by_hand,
    }


def metrics_of(version: Version) -> dict[str, float]:
    """The metrics of a version: those of its registration, and the score of its examination."""
    metrics = dict(version.metrics)
    if version.verdict != "not examined" and (score := version.scores.get("score_challenger")):
        metrics.setdefault(SCORE, float(score))
    return metrics


def per_cent(a: float, b: float) -> float:
    """The change from a to b in per cent of the size of a."""
    if a == 0:
        return 0.0 if b == 0 else math.copysign(math.inf, b)
    return (b - a) / abs(a) * 100


def summarise_version(version: Version) -> dict[str, Any]:
    """A version as the seed documents show it."""
    return {
        "version_id": version.label or version.version,
        "version": version.version,
        "adapter_id": version.order,
        "adapter": version.adapter,
        "parent": version.parent,
        "generation": version.generation,
        "verdict": version.verdict,
        "unverified": version.unverified,
        "performance_metrics": metrics_of(version),
        "created_at": version.created,
    }
