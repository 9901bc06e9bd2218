"""Fixes the day of a chat template that shows one.

Some templates write the current day into every prompt. A training would then see another prompt than the answers of the
next day. So the day is written into the template's own text, before it is used for anything: `strftime_now` becomes a
macro, and `date_string` and `datetime` become variables. Every tool that renders this text shows the same day.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from functools import lru_cache

from jinja2 import meta

from academy.models.template_sandbox import ENVIRONMENT, compiled

DAY = date(2026, 1, 1)
"""The day of every prompt. A constant: the same training gives the same bytes on any day."""
CLOCK = "strftime_now"
NAMES = {CLOCK: "", "date_string": "%d %b %Y", "datetime": "%b %d %Y %H:%M:%S GMT"}
"""What templates call the day, and its form where it is a text."""
_DIRECTIVE = re.compile(r"%[-#]?[aAbBcdDeFHIjmMpSTuUwWxXyYZ%]")
_PREFIX = re.compile(r"\{# The day of every prompt: (\d{4}-\d\d-\d\d) #\}")


@lru_cache(maxsize=64)
def with_fixed_day(text: str, source: str) -> str:
    """The template with a fixed day, in one line before its first line; unchanged if it does not depend on the day.

    Raises TemplateError for invalid Jinja.
    """
    names = names_of_day(text, source)
    if not names:
        return text
    parts = [f"{{# The day of every prompt: {DAY.isoformat()} #}}"]
    for name in names:
        if name != CLOCK:
            parts.append(f"{{% set {name} = '{_written(NAMES[name])}' %}}")
            continue
        chain = "".join(f"|replace('{one}', '{_written(one)}')" for one in _directives(text))
        parts.append(f"{{% macro {CLOCK}(format) %}}{{{{ format{chain} }}}}{{% endmacro %}}")
    return "".join(parts) + "\n" + text  # the line's end is trimmed after a block


def names_of_day(text: str, source: str) -> list[str]:
    """The names by which a template reads the current day; empty if it does not, or if its day is fixed."""
    if not any(name in text for name in NAMES):
        return []
    compiled(text, source)
    undeclared = meta.find_undeclared_variables(ENVIRONMENT.parse(text))
    return [name for name in NAMES if name in undeclared]


def day_of(text: str) -> str:
    """The fixed day of a template in ISO form; empty without one."""
    match = _PREFIX.match(text)
    return match[1] if match else ""


def _directives(text: str) -> list[str]:
    """The parts of date formats in a text. The longest come first."""
    return sorted(set(_DIRECTIVE.findall(text)), key=lambda directive: (-len(directive), directive))


def _written(form: str) -> str:
    return datetime(DAY.year, DAY.month, DAY.day).strftime(form.replace("#", "-"))  # noqa: DTZ001  only a day
