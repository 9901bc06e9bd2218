"""`academy dataset`: show, funnel, allow, diff, rebuild, preferences."""

from __future__ import annotations

from typing import Annotated

import typer

from academy.cli.home import open_home
from academy.cli.options import Base, Json
from academy.cli.output import emit, say, table

app = typer.Typer(help="Show, compare and rebuild datasets.", no_args_is_help=True, rich_markup_mode=None)

Digest = Annotated[
    str | None, typer.Argument(help="A dataset's digest, or its first digits; without it the newest dataset.")
]


@app.command()
def show(
    digest: Annotated[
        str | None, typer.Argument(help="A dataset's digest; without it all datasets are listed.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of lines to show.")] = 10,
    json: Json = False,
) -> None:
    """Show a dataset: figures, contradictions, overlaps, and lines with their origin."""
    if digest is None:
        _list(as_json=json)
        return
    from academy.loop.datasets import contradictions, dataset_lines

    home = open_home()
    page = dataset_lines(home, digest, limit)
    dataset = page.dataset
    if json:
        emit({"dataset": dataset.model_dump(mode="json"), "lines": page.lines})
        return
    say(f"Dataset {dataset.digest} in {dataset.path}")
    say(f"{dataset.examples:,} examples ({dataset.tokens:,} tokens), {dataset.holdout:,} held out.")
    for alarm in dataset.alarms:
        say(f"Alarm: {alarm}")
    for contradiction in contradictions(home, dataset):
        say(f"Contradiction: {contradiction.sentence}.")
    for example in dataset.overlaps[:10]:
        for overlap in example.overlaps:
            say(f"Excluded {example.example[:8]}: {overlap.how} overlap with {overlap.suite}: '{overlap.matched}'")
            say(f"  If this is an accident, run: academy dataset allow {overlap.key[:12]}")
    table(
        f"The first {len(page.lines)} lines",
        ("id", "batch", "request", "answer"),
        [
            (line["id"][:8], line["batch"], request, answer)
            for line, (request, answer) in zip(page.lines, page.texts, strict=True)
        ],
    )


def _list(*, as_json: bool) -> None:
    from academy.loop.datasets import list_datasets

    datasets = list_datasets(open_home())
    if as_json:
        emit([dataset.model_dump(mode="json", exclude={"contradictions"}) for dataset in datasets])
        return
    table(
        f"{len(datasets)} datasets, oldest first",
        ("digest", "examples", "held out", "tokens", "contradictions"),
        [
            (dataset.digest[:16], dataset.examples, dataset.holdout, dataset.tokens, len(dataset.contradictions))
            for dataset in datasets
        ],
    )


@app.command()
def funnel(digest: Digest = None, json: Json = False) -> None:
    """Show how many examples were collected, dropped (with the reason) and kept."""
    from academy.loop.datasets import newest_dataset

    dataset = newest_dataset(open_home(), digest)
    if json:
        emit({"digest": dataset.digest, "funnel": dataset.funnel})
    else:
        table(f"Funnel of {dataset.digest[:12]}", ("step", "examples"), list(dataset.funnel.items()))


@app.command()
def allow(
    key: Annotated[str, typer.Argument(help="The key of an overlap, as `dataset show` lists it, or its first digits.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Allow an accidental overlap with a suite; the next curation keeps the example."""
    from academy.loop.datasets import allow_overlap

    overlap = allow_overlap(open_home(base_model), key)
    if json:
        emit({"allowed": overlap})
    else:
        say(f"Allowed: {overlap[:12]}. The next curation keeps the example.")


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="A dataset's digest.")],
    second: Annotated[str, typer.Argument(help="Another dataset's digest.")],
    json: Json = False,
) -> None:
    """Show the examples that only one of two datasets has."""
    from academy.loop.datasets import compare_datasets

    comparison = compare_datasets(open_home(), first, second)
    difference, lessons = comparison.difference, comparison.lessons
    if json:
        emit(difference.model_dump(mode="json"))
        return
    for side in difference.shared:
        say(
            f"{side}: {difference.shared[side]:,} in both, "
            f"{len(difference.only_in_first[side]):,} only in {first[:12]}, "
            f"{len(difference.only_in_second[side]):,} only in {second[:12]}."
        )
    for sign, ids in (("-", difference.only_in_first["train"]), ("+", difference.only_in_second["train"])):
        for id_ in ids[:10]:
            text = f"{lessons[id_].request} -> {lessons[id_].answer}" if id_ in lessons else "a commit"
            say(f"  {sign} {id_[:8]}  {text}")


@app.command()
def rebuild(digest: Digest = None, base_model: Base = None, json: Json = False) -> None:
    """Make a dataset again from its lessons and commits, and compare the bytes."""
    from academy.loop.datasets import rebuild_dataset

    rebuilt = rebuild_dataset(open_home(base_model), digest)
    if json:
        emit(rebuilt.model_dump(mode="json"))
    else:
        say(f"{'The same' if rebuilt.same else 'Not the same'}: {rebuilt.because}")


@app.command()
def preferences(
    limit: Annotated[int, typer.Option(min=0, help="Signals to show, newest first.")] = 5,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Count what people think of answers: thumbs, corrections, pairs and votes. Nothing is trained on them yet."""
    from academy.loop.preferences import preferences_of

    report = preferences_of(open_home(base_model))
    newest = sorted(report.preferences.signals, key=lambda signal: signal.at, reverse=True)[:limit]
    if json:
        signals = [signal.model_dump(mode="json") for signal in newest]
        reasons = report.preferences.reasons
        emit({**report.model_dump(mode="json", exclude={"preferences"}), "reasons": reasons, "signals": signals})
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items()) or "none"
    say(f"Preferences: {kinds}. {report.on_policy:,} are about the champion's own answers.")
    say(f"From {report.people:,} people or keys on {report.requests:,} requests; {report.waiting:,} wait for a review.")
    for reason, count in report.preferences.reasons.items():
        say(f"Not counted: {count:,} ({reason}).")
    if newest:
        table(
            f"The newest {len(newest)}",
            ("kind", "source", "weight", "request", "better", "worse"),
            [
                (signal.kind, signal.source, signal.weight, signal.messages[-1]["content"], signal.chosen,
                 signal.rejected)
                for signal in newest
            ],
        )  # fmt: skip
