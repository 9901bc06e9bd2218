"""`academy habitat runs | status | logs | cancel`: the trainings of this home, from the folders of their runs."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from academy.cli.output import emit, say, table
from academy.habitat.memory import GIB
from academy.habitat.progress import Progress, iso
from academy.habitat.run_folder import LOG, ORDER
from academy.habitat.runs import all_runs, cancel_run, find_run, run_log, run_progress
from academy.records import canonical
from academy.settings import Settings, load_settings

VERSION = re.compile(r"v\d{1,18}", re.ASCII)
SHORT = 8
"""Digits that name a run in a table; the first ones are enough for the other commands."""


def runs(*, as_json: bool) -> None:
    """All trainings of this home, the newest first."""
    settings = load_settings()
    found = all_runs(settings.folder("runs"), settings.price_per_hour)
    if as_json:
        emit([{"run": name, **one.model_dump(mode="json")} for name, one in found])
        return
    if not found:
        say("No trainings yet.")
        return
    table(
        "Trainings of this home",
        ("run", "began", "status", "step", "loss", "tokens/s", "trained", "left"),
        [
            (
                name[:SHORT],
                datetime.fromtimestamp(one.began, UTC).strftime("%Y-%m-%d %H:%M") if one.began else "",
                one.status,
                f"{one.step} of {one.steps}" if one.steps else "",
                "" if one.loss is None else f"{one.loss:.4f}",
                "" if one.rate is None else f"{one.rate:,.0f}",
                _duration(one.seconds),
                "" if one.eta is None else _duration(one.eta),
            )
            for name, one in found
        ],
    )


def status(run: str, *, as_json: bool) -> None:
    """How one training stands."""
    settings = load_settings()
    folder = _folder(settings, run)
    stands = run_progress(folder, settings.price_per_hour)
    if as_json:
        emit({"run": folder.name, "folder": str(folder), **stands.model_dump(mode="json")})
        return
    table(f"Training {folder.name}", ("what", "value"), [row for row in _rows(stands) if row[1] is not None])
    if stands.error:
        say(stands.error)
    say(f"Its order is {folder / ORDER}, its output {folder / LOG}.")


def logs(run: str, *, follow: bool, as_json: bool) -> None:
    """The events of one training in words. With `follow` and JSON it is one object a line."""
    folder = _folder(load_settings(), run)
    lines = run_log(folder, follow=follow)
    if as_json and not follow:
        emit({"run": folder.name, "lines": [one.model_dump() for one in lines]})
        return
    for one in lines:
        sys.stdout.write(f"{canonical(one).decode() if as_json else f'{one.line:5} {one.time} {one.text}'}\n")
        sys.stdout.flush()  # whoever follows reads it now


def cancel(run: str, *, as_json: bool) -> None:
    """End a training that any process of this home runs; its last checkpoint stays."""
    settings = load_settings()
    folder = _folder(settings, run)
    stands = cancel_run(folder, settings.price_per_hour)
    if as_json:
        emit({"run": folder.name, **stands.model_dump(mode="json")})
    elif stands.status == "cancelled":
        say(f"The training {folder.name} is cancelled at step {stands.step} of {stands.steps}; its checkpoint stays.")
    else:
        say(f"The training {folder.name} ended by itself first: {stands.status}.")


def _folder(settings: Settings, run: str) -> Path:
    """A run's folder, by its digest, its job's name, or the version that was made of it. Raises InputError."""
    if VERSION.fullmatch(run):
        from academy.loop.home import Home

        run = Home.open().versions.get(run).order
    return find_run(settings.folder("runs"), run)


def _rows(one: Progress) -> list[tuple[str, str | None]]:
    def figure(value: float | None, form: str = ".4f") -> str | None:
        return None if value is None else format(value, form)

    return [
        ("status", f"{one.status}{f' ({one.cause})' if one.cause else ''}"),
        ("attempts", str(one.attempts)),
        ("last event", None if one.told is None else f"{one.phase}, {iso(one.told)}"),
        ("step", f"{one.step} of {one.steps} ({one.percent:g} %), epoch {one.epoch:.2f}" if one.steps else None),
        ("loss", figure(one.loss)),
        ("best loss", figure(one.best_loss)),
        ("average loss", figure(one.average_loss)),
        ("best evaluation loss", figure(one.best_eval_loss)),
        ("tokens a second", figure(one.rate, ",.0f")),
        ("trained for", _duration(one.seconds)),
        ("left", None if one.eta is None else _duration(one.eta)),
        ("peak of memory", None if one.memory is None else f"{one.memory / GIB:.2f} GiB"),
        ("energy", None if one.energy is None else f"{one.energy:,.0f} J"),
        ("cost", figure(one.cost, ",.2f")),
        ("adapter", one.adapter or None),
    ]


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
