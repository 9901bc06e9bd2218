"""`academy review`: list, admit, refuse what sources that are not trusted would teach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from academy.cli.home import open_home, user
from academy.cli.options import Base, Json
from academy.cli.output import emit, say, table

if TYPE_CHECKING:
    from academy.loop.review import Reviewed, Selection

app = typer.Typer(
    help="Decide what is learned from ratings of people whose keys are not trusted, and from untrusted files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Sources = Annotated[
    list[str] | None,
    typer.Argument(help="Names of keys, `owner` (this account without a key), `anonymous`, or `import`."),
]
Addresses = Annotated[list[str] | None, typer.Option("--address", help="Only ratings from this address; repeatable.")]
Batches = Annotated[
    list[str] | None, typer.Option("--batch", help="Only this batch: a day of the gateway, or a file; repeatable.")
]
Items = Annotated[list[str] | None, typer.Option("--item", help="Only this item, as `list` names it; repeatable.")]
Everything = Annotated[bool, typer.Option("--all", help="Everything that waits.")]
Because = Annotated[str, typer.Option(help="The reason; kept in the ledger.")]


@app.command("list")
def list_waiting(
    sources: Sources = None,
    address: Addresses = None,
    batch: Batches = None,
    item: Items = None,
    limit: Annotated[int, typer.Option(min=0, help="Samples to show of each source.")] = 3,
    json: Json = False,
) -> None:
    """Show what waits: from whom, from where, what would be learned, and what contradicts trusted lessons."""
    from academy.loop.review import open_review

    review = open_review(open_home(), limit, _selection(sources, address, batch, item))
    if json:
        emit(review.model_dump(mode="json"))
        return
    if not review.sources:
        say("Nothing waits for a decision.")
    for source in review.sources:
        places = ", ".join(f"{place} ({count:,})" for place, count in list(source.addresses.items())[:5])
        more = f" and {len(source.addresses) - 5:,} more" if len(source.addresses) > 5 else ""
        say(
            f"{source.source}: {source.waiting:,} wait, {source.lessons:,} of them would be learned, "
            f"{source.contradicting:,} contradict trusted lessons."
        )
        if places:
            say(f"  from {places}{more}")
        say(f"  batches: {', '.join(f'{name} ({count:,})' for name, count in source.batches.items())}")
        table(
            f"samples of {source.source}",
            ("item", "outcome", "before", "request", "answer", "remark"),
            [
                (
                    sample.item, sample.outcome, sample.before, sample.request, sample.answer,
                    "contradicts a trusted lesson" if sample.contradicts else sample.because,
                )
                for sample in source.samples
            ],
        )  # fmt: skip
    for because, count in review.kept_out.items():
        say(f"Not kept: {count:,} ({because}).")
    if review.sources:
        say("Decide: academy review admit SOURCE, or academy review refuse SOURCE (--batch, --item, --address, --all).")


@app.command()
def admit(
    sources: Sources = None,
    address: Addresses = None,
    batch: Batches = None,
    item: Items = None,
    everything: Everything = False,
    because: Because = "",
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Admit what waits: it is trained on. Examinations never ask it unless the source is trusted."""
    from academy.loop import review

    selection = _selection(sources, address, batch, item, everything=everything)
    _show("Admitted", review.admit(open_home(base_model), selection, by=user(), because=because), as_json=json)


@app.command()
def refuse(
    sources: Sources = None,
    address: Addresses = None,
    batch: Batches = None,
    item: Items = None,
    everything: Everything = False,
    erase: Annotated[bool, typer.Option("--erase", help="Delete the ratings with their texts.")] = False,
    because: Because = "",
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Refuse what waits, and what was admitted before: it is not trained on any more."""
    from academy.loop import review

    selection = _selection(sources, address, batch, item, everything=everything)
    reviewed = review.turn_down(open_home(base_model), selection, by=user(), because=because, erase=erase)
    _show("Refused", reviewed, as_json=json)


def _selection(
    sources: list[str] | None,
    addresses: list[str] | None,
    batches: list[str] | None,
    items: list[str] | None,
    *,
    everything: bool = False,
) -> Selection:
    from academy.loop.review import Selection

    return Selection(
        sources=tuple(sources or ()), addresses=tuple(addresses or ()), batches=tuple(batches or ()),
        items=tuple(items or ()), everything=everything,
    )  # fmt: skip


def _show(verb: str, reviewed: Reviewed, *, as_json: bool) -> None:
    if as_json:
        emit(reviewed.model_dump(mode="json"))
    else:
        say(f"{verb}: ratings {reviewed.ratings:,}, imported lessons {reviewed.lessons:,}.")
