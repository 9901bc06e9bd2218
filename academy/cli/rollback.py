"""`academy rollback`: by itself, for it imports little and has to be quick."""

from __future__ import annotations

from academy.cli.output import emit, listen, say
from academy.lifecycle.promotion import rollback as go_back
from academy.loop.home import Home
from academy.store.ledger import Champion
from academy.system.processes import person


def run(to: str | None, because: str, base_model: str | None, *, as_json: bool) -> None:
    """Go back; an archived version is restored first."""
    listen()
    home = Home.open(base_model)
    before = home.ledger.champion()

    def tell(champion: Champion) -> None:
        if as_json:
            emit({"champion": champion.version, "adapter": champion.adapter, "before": before.version})
        else:
            say(f"{champion.name} is champion again; before it was {before.name}.")

    # told as soon as users have it; MLflow's pages show it some seconds later
    go_back(
        home.ledger, home.versions, home.gate, to, because, home.serving, by=person(), expected=before, on_switch=tell
    )
