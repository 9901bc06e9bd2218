"""All errors that the Academy raises on purpose, as one tree.

Each error is a sentence that says what is wrong, and a remedy that says what to do. The command line prints both and
exits with code 2, the gateway turns them into HTTP errors, and Prefect's tasks fail with them without a retry.

    AcademyError                the base of all of them
    ├── InputError              a path, file, option or setting of the user is not valid
    ├── HomeError               ACADEMY_HOME cannot be written, is full, or is in use by another process
    ├── BaseModelError          a base model cannot be found, read or trusted
    ├── TemplateError           a chat template cannot mark where the answer begins and ends
    ├── TrainingError           the trainer ended without an adapter; `cause` is the class of the cause
    ├── EngineError             a Docker engine does not run, fails, or lacks an image
    ├── AdapterError            an adapter is damaged, altered, refused, or made for another base model
    │   └── SignatureError      an adapter is unsigned, was altered since, or was signed with an untrusted key
    ├── ExaminationError        an examination cannot be run; nothing is decided
    ├── ServingError            a runtime or gateway does not run, has failed, or cannot take more requests
    └── PromotionError          a promotion or rollback is not allowed; the champion stays

"No" is a value, not an error: a decision not to train and the verdicts HOLD and REJECT are records with reasons.
An error outside this tree is a fault of the Academy and may show its traceback.
"""

from __future__ import annotations

from academy.border.masking import mask


class AcademyError(Exception):
    """What is wrong, and what to do about it, each as a sentence for users."""

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = mask(message)  # here, because every way out shows these two
        self.remedy = mask(remedy)
        super().__init__(self.message, self.remedy)

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class InputError(AcademyError):
    """A path, file, option or setting of the user is not valid."""


class HomeError(AcademyError):
    """The home folder cannot be written, is full, or is in use by another process."""


class BaseModelError(AcademyError):
    """A base model cannot be found, read or trusted."""


class TemplateError(AcademyError):
    """A chat template cannot mark where the answer begins and ends."""


class TrainingError(AcademyError):
    """The trainer ended without an adapter."""

    def __init__(self, message: str, remedy: str = "", cause: str = "unknown") -> None:
        super().__init__(message, remedy)
        self.args = (self.message, self.remedy, cause)
        self.cause = cause


class EngineError(AcademyError):
    """A Docker engine does not run, fails, or lacks an image."""


class AdapterError(AcademyError):
    """An adapter is damaged, altered, refused, or made for another base model."""


class SignatureError(AdapterError):
    """An adapter is unsigned, was altered since, or was signed with a key that this home does not trust."""


class ExaminationError(AcademyError):
    """An examination cannot be run."""


class ServingError(AcademyError):
    """A runtime or gateway does not run, has failed, or cannot take more requests."""


class PromotionError(AcademyError):
    """A promotion or rollback is not allowed."""
