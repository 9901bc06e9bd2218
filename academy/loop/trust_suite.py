"""Trusts the code of an lm-eval task: the home keeps the digest of its files, so a changed file asks again."""

from __future__ import annotations

import orjson

from academy.arena.suites.lm_eval import PREFIX
from academy.arena.suites.lm_eval_code import is_path, task_digest
from academy.errors import HomeError, InputError
from academy.settings import Settings
from academy.store.files import write_file

FILE = "trusted-suites.json"


def trust_suite(settings: Settings, name: str) -> str:
    """Keep the digest of a task's files as trusted, and return it. Raises InputError for anything else than a file."""
    task = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or not is_path(task):
        raise InputError(f"{name} is not a file of an lm-eval task.", f"Name it as {PREFIX}/path/task.yaml.")
    digest = task_digest(task)
    kept = trusted_suites(settings) | {digest}
    write_file(settings.folder(".") / FILE, orjson.dumps(sorted(kept)), mode=0o600)
    return digest


def trusted_suites(settings: Settings) -> frozenset[str]:
    """Digests of tasks that a person trusts in this home."""
    file = settings.home / FILE
    if not file.is_file():
        return frozenset()
    try:
        return frozenset(map(str, orjson.loads(file.read_bytes())))
    except (orjson.JSONDecodeError, TypeError) as problem:
        raise HomeError(f"{file} is damaged.", "Delete it, and trust your suites again.") from problem
