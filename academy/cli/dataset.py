"""`academy dataset show | funnel | diff | rebuild`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from academy.cli.output import emit, say, table
from academy.curriculum import rebuild as proofs
from academy.curriculum.dataset import Dataset, all_datasets, find_dataset, read_dataset, read_rows
from academy.errors import InputError
from academy.loop.choose_suites import guarded_texts
from academy.loop.explain_contradictions import explain_contradictions
from academy.loop.home import Home
from academy.store.ledger_rows import AllowEntry


def show(digest: str | None, limit: int, *, as_json: bool) -> None:
    """A dataset's figures and its first lines, each with where it comes from; without a digest the list of all."""
    home = Home.open()
    if digest is None:
        _list(all_datasets(home.datasets), as_json=as_json)
        return
    dataset = read_dataset(home.datasets, digest)
    lines = [
        {"messages": row["messages"], **origin}
        for row, origin, _ in zip(
            read_rows(dataset.train_file), read_rows(dataset.path / "provenance.jsonl"), range(limit), strict=False
        )
    ]
    if as_json:
        emit({"dataset": dataset.model_dump(mode="json"), "lines": lines})
        return
    say(f"Dataset {dataset.digest} in {dataset.path}")
    say(f"{dataset.examples:,} examples ({dataset.tokens:,} tokens), {dataset.holdout:,} held out.")
    for alarm in dataset.alarms:
        say(f"Alarm: {alarm}")
    for one in explain_contradictions(home, [(pair.first, pair.second) for pair in dataset.contradictions[:10]]):
        say(f"Contradiction: '{one.request}': '{one.answer}', and {one.batch} teaches '{one.taught}'.")
    for found in dataset.overlaps[:10]:
        for match in found.overlaps:
            say(f"Left out {found.example[:8]}: {match.how} overlap with {match.suite}: '{match.matched}'")
            say(f"  If that is an accident: academy dataset allow {match.key[:12]}")
    table(
        f"The first {len(lines)} of its lines",
        ("id", "batch", "request", "answer"),
        [
            (one["id"][:8], one["batch"], one["messages"][-2]["content"], one["messages"][-1]["content"])
            for one in lines
        ],
    )


def funnel(digest: str | None, *, as_json: bool) -> None:
    """What was collected, what was left out and why, what was kept."""
    dataset = _one(Home.open(), digest)
    if as_json:
        emit({"digest": dataset.digest, "funnel": dataset.funnel})
    else:
        table(f"Funnel of {dataset.digest[:12]}", ("what", "how many"), list(dataset.funnel.items()))


def allow(key: str, base_model: str | None, *, as_json: bool) -> None:
    """Say that an overlap is an accident: from the next curation on it is left in. A ledger row says who said so."""
    home = Home.open(base_model)
    keys = {one.key for found in all_datasets(home.datasets) for each in found.overlaps for one in each.overlaps}
    meant = sorted(one for one in keys if one.startswith(key))
    if len(meant) != 1:
        raise InputError(
            f"{'No overlap has' if not meant else 'More than one overlap has'} the key {key}.",
            "`academy dataset show DIGEST` lists overlaps with their keys.",
        )
    home.ledger.append(f"allow:{home.base.digest}:{meant[0]}", AllowEntry(overlap=meant[0]))
    if as_json:
        emit({"allowed": meant[0]})
    else:
        say(f"Allowed: {meant[0][:12]}. The next curation leaves it in.")


def diff(first: str, second: str, *, as_json: bool) -> None:
    """What stands in one of two datasets only."""
    home = Home.open()
    found = proofs.diff(read_dataset(home.datasets, first), read_dataset(home.datasets, second))
    if as_json:
        emit(found.model_dump(mode="json"))
        return
    for side in found.shared:
        say(
            f"{side}: {found.shared[side]:,} in both, {len(found.only_in_first[side]):,} only in {first[:12]}, "
            f"{len(found.only_in_second[side]):,} only in {second[:12]}."
        )
    known = home.store.by_id([*found.only_in_first["train"][:10], *found.only_in_second["train"][:10]])
    for sign, ids in (("-", found.only_in_first["train"]), ("+", found.only_in_second["train"])):
        for one in ids[:10]:
            say(
                f"  {sign} {one[:8]}  "
                + (f"{known[one].request} -> {known[one].answer}" if one in known else "a commit")
            )


def rebuild(digest: str | None, base_model: str | None, *, as_json: bool) -> None:
    """Make a dataset again from its lessons and commits: the same bytes, or a sentence why not."""
    home = Home.open(base_model)
    dataset = _one(home, digest)
    if dataset.base != home.base.digest:
        raise InputError(
            f"The dataset {dataset.digest[:12]} was made for another base model.", "Name it with --base-model."
        )
    with tempfile.TemporaryDirectory(dir=home.settings.folder("datasets").parent, prefix=".staging-") as scratch:
        guarded = guarded_texts(home.settings)
        found = proofs.rebuild(home.store, home.holdout, home.base.count_tokens, dataset, Path(scratch), guarded)
    if as_json:
        emit(found.model_dump(mode="json"))
        return
    say(f"{'The same' if found.same else 'Not the same'}: {found.because}")


def _one(home: Home, digest: str | None) -> Dataset:
    if digest is not None:
        return find_dataset(home.datasets, digest)
    found = all_datasets(home.datasets)
    if not found:
        raise InputError("There is no dataset yet.", "`academy curate` makes one.")
    return found[-1]


def _list(found: list[Dataset], *, as_json: bool) -> None:
    if as_json:
        emit([one.model_dump(mode="json", exclude={"contradictions"}) for one in found])
        return
    table(
        f"{len(found)} datasets, oldest first",
        ("digest", "examples", "held out", "tokens", "contradictions"),
        [(one.digest[:16], one.examples, one.holdout, one.tokens, len(one.contradictions)) for one in found],
    )
