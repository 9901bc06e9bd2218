"""Options of a recipe on the command line: `--recipe FILE` and single options, which win over the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from academy.errors import InputError
from academy.professor.recipe import validate_fields
from academy.professor.recipe_options import RecipeOptions


def recipe_options(file: Path | None, *, init_adapter: str | None = None, **fields: float | None) -> RecipeOptions:
    """The fields of the file with the single options over them. Raises InputError, naming the field and its bounds."""
    options = {name: value for name, value in fields.items() if value is not None}
    start = {"init_adapter": init_adapter} if init_adapter else {}
    return RecipeOptions.model_validate({**_read(file), **validate_fields(options), **start})


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        fields = orjson.loads(file.read_bytes())
    except OSError as problem:
        raise InputError(f"{file} cannot be read ({problem.strerror}).", "Check the path of --recipe.") from problem
    except orjson.JSONDecodeError as problem:
        raise InputError(f"{file} is not valid JSON ({problem}).", "Correct the file.") from None
    if not isinstance(fields, dict):
        raise InputError(
            f"{file} does not contain a JSON object.", 'A recipe looks like {"epochs": 2, "use_dora": true}.'
        )
    return validate_fields(fields)
