"""Reads fields of a recipe that a user wrote into a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from academy.errors import InputError
from academy.professor.recipe import validate_fields


def read_recipe(file: Path | None) -> dict[str, Any]:
    """The checked fields of a file; none without a file. Raises InputError with the key and its bounds."""
    if file is None:
        return {}
    try:
        fields = orjson.loads(file.read_bytes())
    except OSError as problem:
        raise InputError(f"{file} cannot be read ({problem.strerror}).", "Check the path of --recipe.") from problem
    except orjson.JSONDecodeError as problem:
        raise InputError(f"{file} is not valid JSON ({problem}).", "Correct the file.") from None
    if not isinstance(fields, dict):
        raise InputError(f"{file} does not hold a JSON object.", 'A recipe looks like {"epochs": 2, "use_dora": true}.')
    return validate_fields(fields)
