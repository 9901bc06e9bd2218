"""`academy rollback`: by itself, for it imports little and has to be quick."""

from __future__ import annotations

from academy.commands.output import emit, listen, say
from academy.ledger import Champion
from academy.processes import person
from academy.promotion import rollback as go_back
from academy.workplace import Workplace


def run(to: str | None, because: str, base_model: str | None, *, as_json: bool) -> None:
    """Go back; an archived version is restored first."""
    listen()
    work = Workplace.open(base_model)
    before = work.ledger.champion()

    def tell(champion: Champion) -> None:
        if as_json:
            emit({"champion": champion.version, "adapter": champion.adapter, "before": before.version})
        else:
            say(f"{champion.name} is champion again; before it was {before.name}.")

    # told as soon as users have it; MLflow's pages show it some seconds later
    go_back(work.ledger, work.versions, work.gate, to, because, work.serving, by=person(), expected=before, told=tell)
