"""Every error that the Academy raises on purpose, as one tree.

    AcademyError                one clear sentence and a remedy; the command line ends with exit code 2
    ├── InputError              what a person gave cannot be used: a path, a file, an option
    ├── HomeError               ACADEMY_HOME cannot be written, is full, or is in use
    ├── BaseModelError          a base model that cannot be found, read or trusted
    ├── TemplateError           a chat template that cannot mark the answer
    ├── TrainingError           the trainer ended without an adapter; `cause` names the class of cause
    ├── EngineError             a Docker engine that is not there, fails, or has no such image
    ├── AdapterError            an adapter that is damaged, altered, refused or made for another base model
    │   └── SignatureError      one that is unsigned, was altered since, or was signed by a key that is not trusted
    ├── ExaminationError        an examination that cannot be held: nothing is decided
    ├── ServingError            a runtime or gateway that is not there, has died or cannot take more
    └── PromotionError          a promotion or rollback that was refused; the champion stays

"No" is no error: a decision not to train and the verdicts HOLD and REJECT are values with reasons.
Anything outside this tree is a fault of ours and may show its traceback.
"""

from __future__ import annotations


class AcademyError(Exception):
    """A refusal in words for people: what is wrong, and what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class InputError(AcademyError):
    """What a person gave cannot be used."""


class HomeError(AcademyError):
    """The home folder cannot be written, is full, or is in use by another run."""


class BaseModelError(AcademyError):
    """A base model that cannot be found, read or trusted."""


class TemplateError(AcademyError):
    """A chat template that cannot mark the answer."""


class TrainingError(AcademyError):
    """The trainer ended without an adapter."""

    def __init__(self, message: str, remedy: str = "", cause: str = "unknown") -> None:
        super().__init__(message, remedy)
        self.args = (message, remedy, cause)
        self.cause = cause


class EngineError(AcademyError):
    """A Docker engine that is not there, fails, or has no such image."""


class AdapterError(AcademyError):
    """An adapter that is damaged, altered, refused or made for another base model."""


class SignatureError(AdapterError):
    """An adapter that is unsigned, was altered since, or was signed by a key that this home does not trust."""


class ExaminationError(AcademyError):
    """An examination that cannot be held."""


class ServingError(AcademyError):
    """A runtime or gateway that is not there, has died or cannot take more."""


class PromotionError(AcademyError):
    """A promotion or rollback that was refused."""
