"""How the results and errors of flows and tasks are stored: as JSON, of types that are listed here.

Prefect stores pickles, and a reader of one runs what it says. Its own JSON imports any class that the text names, and
loses `remedy` and `cause` of our errors. And a reader follows the serializer that the stored result names. So once this
module is imported, this process reads results of this serializer only.
"""

from __future__ import annotations

from typing import Any

import orjson
from prefect.serializers import (
    CompressedJSONSerializer,
    CompressedPickleSerializer,
    CompressedSerializer,
    JSONSerializer,
    PickleSerializer,
    Serializer,
)
from prefect.utilities.dispatch import get_registry_for_type
from pydantic import ConfigDict, Field, ValidationError

from academy.curriculum.dataset import Dataset
from academy.errors import (
    AcademyError,
    AdapterError,
    BaseModelError,
    EngineError,
    ExaminationError,
    HomeError,
    InputError,
    PromotionError,
    ServingError,
    SignatureError,
    TemplateError,
    TrainingError,
)
from academy.genealogy.versions import Version
from academy.loop.carry_out import Outcome
from academy.loop.evolve import EvolutionResult, Preparation
from academy.loop.train_dataset import RegisteredAdapter
from academy.loop.verify import ServingVerification
from academy.professor.decision import Decision
from academy.professor.recipe import Recipe
from academy.professor.search_space import TuningResult
from academy.records import Record
from academy.store.ledger_rows import Row, VerdictEntry

RECORDS: dict[str, type[Record]] = {
    "Dataset": Dataset, "Decision": Decision, "EvolutionResult": EvolutionResult, "Outcome": Outcome,
    "Preparation": Preparation, "Recipe": Recipe, "RegisteredAdapter": RegisteredAdapter,
    "ServingVerification": ServingVerification, "TuningResult": TuningResult, "Verdict": Row[VerdictEntry],
    "Version": Version,
}  # fmt: skip
"""What flows and tasks return beside plain JSON."""
ERRORS: dict[str, type[AcademyError]] = {
    error.__name__: error
    for error in (
        AcademyError, AdapterError, BaseModelError, EngineError, ExaminationError, HomeError, InputError,
        PromotionError, ServingError, SignatureError, TemplateError, TrainingError,
    )
}  # fmt: skip
REMEDY = "Run the flow again."
_OTHERS = (
    PickleSerializer, JSONSerializer, CompressedSerializer, CompressedPickleSerializer, CompressedJSONSerializer,
)  # fmt: skip


class RunFailure(Exception):  # noqa: N818  it stands for an error of any class
    """The text of an error that is not one of ours, as another process stored it."""


class RecordSerializer(Serializer):
    """Stores listed records, our errors with remedy and cause, and plain JSON."""

    type: str = Field(default="academy", frozen=True)

    def dumps(self, obj: Any) -> bytes:
        """Raises TypeError for a value of another type."""
        return orjson.dumps(_stored(obj))

    def loads(self, blob: bytes) -> Any:
        """Raises HomeError for bytes that this serializer did not write."""
        try:
            return _value(orjson.loads(blob))
        except (orjson.JSONDecodeError, ValidationError, KeyError, TypeError, ValueError) as problem:
            raise HomeError("A stored result is damaged or of an unknown kind.", REMEDY) from problem


class RefusedSerializer(Serializer):
    """Stands for Prefect's own serializers where a stored result names one: nothing is imported, nothing is read."""

    type: str
    model_config = ConfigDict(extra="allow")

    @classmethod
    def __dispatch_key__(cls) -> str:
        return "refused"

    def dumps(self, _obj: Any) -> bytes:
        """Raises HomeError."""
        raise _refusal(self.type)

    def loads(self, _blob: bytes) -> Any:
        """Raises HomeError."""
        raise _refusal(self.type)


def _stored(value: Any) -> dict[str, Any]:
    for name, record in RECORDS.items():
        if isinstance(value, record):
            return {"record": name, "value": value.model_dump(mode="json")}
    if isinstance(value, AcademyError):
        name = next(error.__name__ for error in type(value).__mro__ if error.__name__ in ERRORS)
        cause = [value.cause] if isinstance(value, TrainingError) else []
        return {"error": name, "arguments": [value.message, value.remedy, *cause]}
    if isinstance(value, BaseException):
        return {"failure": f"{type(value).__name__}: {value}"}
    return {"json": value}


def _value(stored: Any) -> Any:
    if set(stored) == {"record", "value"}:
        return RECORDS[stored["record"]].model_validate(stored["value"])
    if set(stored) == {"error", "arguments"}:
        return ERRORS[stored["error"]](*(str(text) for text in stored["arguments"]))
    if set(stored) == {"failure"}:
        return RunFailure(str(stored["failure"]))
    if set(stored) == {"json"}:
        return stored["json"]
    raise KeyError(*stored)


def _refusal(kind: str) -> HomeError:
    return HomeError(f"A stored result of the kind {kind!r:.60} is not read: it may hold code.", REMEDY)


def _refuse_others() -> None:
    """Refuse what Prefect's serializers read, however they are named.

    Some import modules while their settings are checked, so their names are taken from Prefect's register. A result
    that names none is read with a pickle that Prefect makes itself, so the classes refuse, too.
    """
    register: dict[str, Any] | None = get_registry_for_type(Serializer)
    if register is None or not {"pickle", "json", "compressed"} <= register.keys():
        raise RuntimeError("This version of Prefect chooses serializers in another way.")
    for name in register.keys() - {"academy"}:
        register[name] = RefusedSerializer

    def refuse(serializer: Serializer[Any], _blob: bytes) -> Any:
        raise _refusal(serializer.type)

    for other in _OTHERS:
        setattr(other, "loads", refuse)  # noqa: B010  the types of its classes do not allow it


_refuse_others()
