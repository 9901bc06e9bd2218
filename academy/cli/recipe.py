"""`--recipe FILE`: fields of a recipe that a person wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from academy.errors import InputError
from academy.professor.recipe import validate_fields


def read_recipe(file: Path | None) -> dict[str, Any]:
    """The fields in a JSON file; none without one. Raises InputError, naming the key and its bounds."""
    if file is None:
        return {}
    try:
        found = orjson.loads(file.read_bytes())
    except OSError as problem:
        raise InputError(f"{file} cannot be read ({problem.strerror}).", "Check the path of --recipe.") from problem
    except orjson.JSONDecodeError as problem:
        raise InputError(f"{file} is no JSON ({problem}).", "Correct the file.") from None
    if not isinstance(found, dict):
        raise InputError(f"{file} holds no JSON object.", 'A recipe looks like {"epochs": 2, "use_dora": true}.')
    return validate_fields(found)
