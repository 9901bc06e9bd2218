"""Attacks on stored results: a file in the home, or a state at the server, that runs code when it is read."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from prefect.client.schemas.objects import State
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultRecord, ResultStore
from prefect.serializers import CompressedSerializer, JSONSerializer, PickleSerializer, Serializer
from pydantic import BaseModel

from academy import errors
from academy.errors import AcademyError, HomeError, SignatureError, TrainingError
from academy.operations.results import ERRORS, RecordSerializer, RunFailure

MODULE = "a_module_of_the_attacker"


class Bomb:
    """Makes a file when it is read from a pickle."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Made by code that ran: by a pickle, or by the import of the attacker's module."""
    file = tmp_path / "marker"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{MODULE}.py").write_text(
        f"import pathlib\npathlib.Path({str(file)!r}).touch()\n"
        "def compress(text): return text\ndecompress = dumps = loads = compress\nclass Thing(dict): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield file
    sys.modules.pop(MODULE, None)


def pickled(marker: Path) -> bytes:
    return base64.encodebytes(cloudpickle.dumps(Bomb(marker)))


SERIALIZERS: tuple[dict[str, Any] | None, ...] = (
    None, {"type": "pickle"}, {"type": "pickle", "picklelib": "pickle"}, {"type": "pickle", "picklelib": MODULE},
    {"type": "compressed/pickle"}, {"type": "compressed", "serializer": {"type": "pickle"}},
    {"type": "compressed", "serializer": "pickle", "compressionlib": MODULE},
    {"type": "compressed/pickle", "compressionlib": MODULE}, {"type": "compressed/json", "compressionlib": MODULE},
    {"type": "json"}, {"type": "json", "jsonlib": MODULE}, {"type": "json", "object_decoder": f"{MODULE}.Thing"},
    {"type": "academy"}, {"type": "refused"}, {"type": "__unknown__"}, {"type": "theirs"},
)  # fmt: skip
"""What a stored result may name."""


def plant(place: Path, serializer: dict[str, Any] | None, content: bytes) -> None:
    """A stored result as an attacker writes it: metadata, and bytes for the serializer that they name."""
    metadata = {"storage_key": str(place)} | ({"serializer": serializer} if serializer else {})
    place.write_text(json.dumps({"metadata": metadata, "result": content.decode()}))


@pytest.mark.parametrize("serializer", SERIALIZERS, ids=str)
def test_a_planted_result_runs_nothing(tmp_path: Path, marker: Path, serializer: dict[str, Any] | None) -> None:
    """By each reader: a store that looks for the result of a task, a state of a run, a record."""
    place = tmp_path / "result"
    contents = [
        pickled(marker), json.dumps({"__class__": f"{MODULE}.Thing", "data": {}}).encode(),
        json.dumps({"__exc_type__": f"{MODULE}.Thing", "message": "x"}).encode(),
    ]  # fmt: skip
    for content in contents:
        plant(place, serializer, content)
        store = ResultStore(result_storage=LocalFileSystem(basepath=str(tmp_path)), serializer=RecordSerializer())
        assert not store.exists(str(place)), "it is computed again"
        with pytest.raises((HomeError, RuntimeError)):
            store.read(str(place))
        state: State[Any] = State.model_validate(
            {"type": "COMPLETED", "data": json.loads(place.read_text())["metadata"]}
        )
        with pytest.raises((HomeError, RuntimeError)):
            asyncio.run(state.aresult(retry_result_failure=False))
        with pytest.raises((HomeError, RuntimeError)):
            ResultRecord.deserialize(place.read_bytes())
    assert not marker.exists()


def test_a_failed_state_with_a_planted_error_runs_nothing(tmp_path: Path, marker: Path) -> None:
    place = tmp_path / "result"
    plant(place, {"type": "pickle"}, pickled(marker))
    metadata = json.loads(place.read_text())["metadata"]
    state: State[Any] = State.model_validate({"type": "FAILED", "data": metadata, "message": "it failed"})
    with pytest.raises(HomeError, match="is not read"):
        asyncio.run(state.aresult(raise_on_failure=False, retry_result_failure=False))
    assert not marker.exists()


def test_planted_parameters_of_a_deferred_task_run_nothing(tmp_path: Path, marker: Path) -> None:
    """Prefect's task workers read a task's parameters from the result storage."""
    from prefect.task_worker import read_parameters

    identifier = uuid.uuid4()
    place = tmp_path / "parameters" / str(identifier)
    place.parent.mkdir()
    plant(place, {"type": "pickle"}, pickled(marker))
    store = ResultStore(result_storage=LocalFileSystem(basepath=str(tmp_path)))
    with pytest.raises(HomeError):
        asyncio.run(read_parameters(store, identifier))
    assert not marker.exists()


def test_serializers_that_were_made_before_read_nothing(marker: Path) -> None:
    for serializer in (PickleSerializer(), JSONSerializer(), CompressedSerializer(serializer=JSONSerializer())):
        with pytest.raises(HomeError, match="is not read"):
            serializer.loads(pickled(marker))
    assert not marker.exists()
    assert type(Serializer(type="pickle")).__name__ == "RefusedSerializer"


@pytest.mark.parametrize(
    "text", ["", "{}", "null", "[1]", '{"json": 1, "record": "Dataset"}', '{"record": "os.system", "value": {}}',
             '{"record": "Dataset", "value": {}}', '{"error": "SystemExit", "arguments": ["1"]}',
             '{"error": "TrainingError", "arguments": ["1", "2", "3", "4"]}', '{"error": "TrainingError"}']
)  # fmt: skip
def test_a_result_of_an_unknown_type_is_refused(text: str) -> None:
    with pytest.raises(HomeError, match="damaged or of an unknown kind"):
        RecordSerializer().loads(text.encode())


def test_errors_keep_their_class_remedy_and_cause() -> None:
    """The fallback from a GPU that ran out of memory depends on the cause."""
    serializer = RecordSerializer()
    error = serializer.loads(serializer.dumps(TrainingError("It is full.", "Wait.", cause="memory")))
    assert (type(error), error.message, error.remedy, error.cause) == (TrainingError, "It is full.", "Wait.", "memory")
    error = serializer.loads(serializer.dumps(SignatureError("It is unsigned.", "Sign it.")))
    assert (type(error), str(error)) == (SignatureError, "It is unsigned. Sign it.")

    class OfTheirOwn(HomeError):
        """A class that is not listed is stored as the listed one above it."""

    assert type(serializer.loads(serializer.dumps(OfTheirOwn("a", "b")))) is HomeError
    other = serializer.loads(serializer.dumps(ZeroDivisionError("division by zero")))
    assert (type(other), str(other)) == (RunFailure, "ZeroDivisionError: division by zero")
    ours = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AcademyError)}
    assert set(ERRORS.values()) == ours


def test_an_object_of_another_type_is_not_stored() -> None:
    class Theirs(BaseModel):
        """Not a record of ours."""

    for value in (Theirs(), {1, 2}, object(), {"a": Path("b")}):
        with pytest.raises(TypeError):
            RecordSerializer().dumps(value)


def test_every_flow_and_task_stores_its_results_this_way() -> None:
    from prefect import Flow, Task

    from flows import evolve, examine, promote, train, verify
    from tasks import stages

    flows = [value for module in (evolve, examine, promote, train, verify) for value in vars(module).values()]
    ours = [value for value in [*flows, *vars(stages).values()] if isinstance(value, Flow | Task)]
    assert len(ours) >= 14
    assert {type(each.result_serializer) for each in ours} == {RecordSerializer}
