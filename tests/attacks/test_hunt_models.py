"""Folders of base models: files that a program could load without the digest's knowledge, and names that stop us."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.errors import BaseModelError, TemplateError
from academy.models.base_model import SEED_FOLDER, resolve
from academy.models.template_sandbox import render


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(SEED_FOLDER, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["consolidated.safetensors", "consolidated.00.safetensors"])
def test_second_weights_are_never_beside_single_ones(model: Path, name: str) -> None:
    """vLLM loads every safetensors file of a folder without an index."""
    (model / name).write_bytes((model / "model.safetensors").read_bytes())
    with pytest.raises(BaseModelError, match="some programs load all safetensors files"):
        resolve(str(model))


@pytest.mark.parametrize("name", [b"tokenizer\xff.json", b"notes\n.txt", b"vocab\x1b]0;x\x07.txt"])
def test_name_that_is_no_text_is_refused_with_a_sentence(model: Path, name: bytes) -> None:
    (model / os.fsdecode(name)).write_bytes(b"{}")
    with pytest.raises(BaseModelError, match="cannot be printed"):
        resolve(str(model))


@pytest.mark.parametrize("values", [{"num_labels": 10**9}, {"text_config": {"num_labels": 10**9}}])
def test_number_of_labels_does_not_make_the_library_write_names_for_hours(model: Path, values: dict[str, Any]) -> None:
    config = orjson.loads((model / "config.json").read_bytes())
    (model / "config.json").write_bytes(orjson.dumps({**config, **values}))
    with pytest.raises(BaseModelError, match="num_labels"):
        resolve(str(model))


DOUBLED = "{% set ns = namespace(a=[1], b=[1]) %}{% for _ in range(50) %}MORE{% endfor %}"
LISTS = DOUBLED.replace("MORE", "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "template",
    [
        LISTS + "{{ ns.a == ns.b }}",
        LISTS + "{{ ns.a in [ns.b] }}",
        LISTS + "{{ ns.a is eq(ns.b) }}",
        DOUBLED.replace("MORE", "{% set ns.a = (ns.a, ns.a) %}") + "{{ {ns.a: 1} }}",
        DOUBLED.replace("MORE", "{% set ns.a = dict(a=ns.a, b=ns.a) %}{% set ns.b = dict(a=ns.b, b=ns.b) %}")
        + "{{ ns.a == ns.b }}",
        "{% macro m() %}{% set ns.a = varargs %}{% endmacro %}{% macro n() %}{% set ns.b = varargs %}{% endmacro %}"
        + DOUBLED.replace("MORE", "{{ m(ns.a, ns.a) }}{{ n(ns.b, ns.b) }}")
        + "{{ ns.a == ns.b }}",
        DOUBLED.replace("MORE", "{% for x in ns.a|batch(2, ns.a) %}{% set ns.a = x %}{% endfor %}"),
        "{% set ns = namespace(a=()) %}{% for _ in range(99999) %}{% set ns.a = (ns.a,) %}{% endfor %}{{ {ns.a: 1} }}",
    ],
)
def test_values_inside_of_values_are_stopped_before_they_are_compared(template: str) -> None:
    with pytest.raises(TemplateError, match=r"too (?:large|deep) a value"):
        render(template, {"messages": []})
