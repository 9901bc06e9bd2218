"""Pictures of the Prefect and MLflow pages: `python -m bench.screenshots HOME OUT [--prefect URL] [--mlflow URL]`.

It needs `academy pages` for that home, a finished evolution in it, and Debian's chromium. Each picture is taken when
its expected words are on the page. If they do not appear, the picture is taken all the same, its name is printed on
stderr, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from playwright.sync_api import BrowserContext, sync_playwright
from playwright.sync_api import TimeoutError as NotInTime

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 60_000


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--prefect", default="http://127.0.0.1:4200")
    parser.add_argument("--mlflow", default="http://127.0.0.1:5000")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    misses = []
    with _browser() as context:
        for name, url, words in [*_prefect_pages(arguments.prefect), *_mlflow_pages(arguments.home, arguments.mlflow)]:
            if not _shoot(context, arguments.out / f"{name}.png", url, words):
                misses.append(name)
                print(f"{name}: not all of {words} appeared on {url}", file=sys.stderr)
    sys.exit(1 if misses else 0)


def _prefect_pages(server: str) -> Iterator[tuple[str, str, list[str]]]:
    """The form of evolve/on-demand, the deployments, and the newest completed evolution."""
    for deployment in _ask(f"{server}/api/deployments/filter", {"deployments": {"name": {"any_": ["on-demand"]}}})[:1]:
        form = f"{server}/deployments/deployment/{deployment['id']}/run"
        yield "prefect-run-form", form, ["Batch Size", "Train although the conditions are not met"]
    yield "prefect-deployments", f"{server}/deployments", ["nightly", "on-demand"]
    query = {
        "flows": {"name": {"any_": ["evolve"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        "sort": "END_TIME_DESC",
    }
    for run in _ask(f"{server}/api/flow_runs/filter", query)[:1]:
        yield "prefect-flow-run", f"{server}/runs/flow-run/{run['id']}", [run["name"], "Completed"]


def _mlflow_pages(home: Path, server: str) -> Iterator[tuple[str, str, list[str]]]:
    """The registry, the newest version, and its run with the curves; their names come from the home's database."""
    with sqlite3.connect(f"file:{home.resolve() / 'mlflow.db'}?mode=ro", uri=True) as database:
        newest = database.execute(
            "select name, version, run_id from model_versions where current_stage != 'Deleted_Internal' "
            "order by creation_time desc limit 1"
        ).fetchone()
        run = database.execute(
            "select run_uuid, experiment_id, name from runs where run_uuid = ?", (newest[2] if newest else "",)
        ).fetchone()
    yield "mlflow-registry", f"{server}/#/models", [newest[0]] if newest else []
    if newest:
        yield "mlflow-model", f"{server}/#/models/{newest[0]}", [f"Version {newest[1]}"]
        yield "mlflow-version", f"{server}/#/models/{newest[0]}/versions/{newest[1]}", ["verdict", "generation"]
    if run:
        page = f"{server}/#/experiments/{run[1]}/runs/{run[0]}"
        yield "mlflow-run", page, [run[2]]
        yield "mlflow-loss", f"{page}/model-metrics", ["loss"]


@contextmanager
def _browser() -> Iterator[BrowserContext]:
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=FLAGS, viewport={"width": 1500, "height": 1700}
        )
        try:
            yield context
        finally:
            context.close()


def _shoot(context: BrowserContext, picture: Path, url: str, words: list[str]) -> bool:
    """Take a picture. Returns whether the words appeared before."""
    page = context.new_page()
    try:
        page.goto(url, timeout=PATIENCE_MS)
        for text in words:
            page.get_by_text(text).first.wait_for(timeout=PATIENCE_MS)
        complete = True
    except NotInTime:
        complete = False
    page.wait_for_timeout(4_000)  # charts are drawn after their words
    page.keyboard.press("Escape")  # MLflow advertises its registry in a dialogue once
    page.wait_for_timeout(500)
    page.screenshot(path=picture, full_page=True)
    page.close()
    return complete


def _ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, orjson.dumps(body), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  loopback
        return orjson.loads(answer.read())


if __name__ == "__main__":
    main()
