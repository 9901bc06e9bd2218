"""Settings: where things are, and when to train. They have the prefix ACADEMY_.

They are read from the environment, from the file that ACADEMY_SETTINGS_FILE names, and from the home's own file, never
from whatever folder one stands in. Settings say where (this file), a Recipe says how to train, `prefect.yaml` says when
and on which pool.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from academy.border.masking import password_in, remember, remember_environment
from academy.errors import HomeError, InputError
from academy.home.identity import adopt_home, claim_home
from academy.home.place import refuse_databases_of_others, settle
from academy.home.private import close_home, refuse_homes_of_others
from academy.settings_checks import check_writable, own_names, refusal, reject_unknown_names, with_keys
from academy.settings_file import FILE_VARIABLE, OWN_FILE, PREFIX, named_file, names_in_file

LEAST_MEMORY_GIB = 1 / 16
"""Smallest memory limit of a training container; with less memory Python does not start."""
DISABLED = "the Academy is disabled (ACADEMY_ENABLE=false)"
LEAST_CPUS = 0.01
"""Smallest CPU limit of a container that an engine accepts."""


def _names(name: str, *others: str) -> AliasChoices:
    """The setting's own name first, then the spellings of the seed documents."""
    return AliasChoices(PREFIX + name, *others)


class Settings(BaseSettings):
    """Paths, addresses and thresholds. A command reads one instance and passes it down; no global instance exists."""

    model_config = SettingsConfigDict(
        env_file=None, env_file_encoding="utf-8-sig", frozen=True, extra="ignore", env_ignore_empty=True
    )

    enabled: bool = Field(
        True,
        validation_alias=_names("ENABLE", "ENABLE_ACADEMY"),
        description="0: nothing is trained, examined or served; imports, reports and rollbacks still work",
    )
    home: Annotated[Path, NoDecode] = Field(
        Path("./data"), validation_alias=_names("HOME", "MEMORY_ROOT"), description="The folder that holds everything"
    )
    workspace_root: Path = Field(
        Path(),
        validation_alias=_names("WORKSPACE_ROOT", "WORKSPACE_ROOT"),
        description="The folder whose git repository is read",
    )
    database_url: str = Field(
        "",
        repr=False,
        validation_alias=_names("DATABASE_URL"),
        description="SQLAlchemy URL for lessons and the ledger; empty: SQLite in the home",
    )
    mlflow_tracking_uri: str = Field(
        "",
        repr=False,
        validation_alias=_names("MLFLOW_TRACKING_URI"),
        description="MLflow's tracking URI; empty: SQLite in the home",
    )
    base_model: str = Field(
        "seed",
        validation_alias=_names("BASE_MODEL", "DEFAULT_BASE_MODEL"),
        description="'seed', a folder or a Hugging Face name",
    )
    min_lessons: int = Field(
        100,
        ge=1,
        validation_alias=_names("MIN_LESSONS", "MIN_LESSONS_FOR_TRAINING"),
        description="Lessons that a training needs",
    )
    min_new_lessons: int = Field(
        50,
        ge=1,
        validation_alias=_names("MIN_NEW_LESSONS"),
        description="New lessons that a training needs, counted from the champion's examination",
    )
    training_interval_hours: float = Field(
        24,
        ge=0,
        validation_alias=_names("TRAINING_INTERVAL_HOURS", "MIN_TRAINING_INTERVAL_HOURS"),
        description="Hours between the last verdict and the next training",
    )
    max_lessons: int = Field(
        5000,
        ge=1,
        validation_alias=_names("MAX_LESSONS"),
        description="Lessons in a dataset: mostly the newest, and a share of older ones",
    )
    sources: Annotated[tuple[str, ...], NoDecode] = Field(
        ("lesson", "task", "commit"),
        validation_alias=_names("SOURCES"),
        description="Sources that a dataset is made from, separated by commas",
    )
    ray_address: str = Field(
        "",
        validation_alias=_names("RAY_ADDRESS"),
        description="Address of a Ray cluster; empty: `curate --workers` starts a local one",
    )
    trusted_authors: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias=_names("TRUSTED_AUTHORS"),
        description="Names or addresses of trusted authors, separated by commas; empty: all authors",
    )
    max_per_source: int | None = Field(
        2500,
        ge=1,
        validation_alias=_names("MAX_PER_SOURCE"),
        description="Examples of one batch in a dataset; the newest are kept",
    )
    max_per_author: int | None = Field(
        2500, ge=1, validation_alias=_names("MAX_PER_AUTHOR"), description="Examples of one author in a dataset"
    )
    git_commits_limit: int = Field(
        100,
        ge=0,
        validation_alias=_names("GIT_COMMITS_LIMIT"),
        description="Newest commits that are read from a repository",
    )
    lora_rank: int | None = Field(
        None, ge=4, le=256, validation_alias=_names("LORA_RANK", "DEFAULT_LORA_RANK"),
        description="LoRA rank; empty: the professor chooses",
    )  # fmt: skip
    learning_rate: float | None = Field(
        None, gt=0, le=1e-2, validation_alias=_names("LEARNING_RATE", "DEFAULT_LEARNING_RATE"),
        description="Learning rate; empty: the professor chooses",
    )  # fmt: skip
    num_epochs: int | None = Field(
        None, ge=1, le=20, validation_alias=_names("NUM_EPOCHS", "DEFAULT_NUM_EPOCHS"),
        description="Passes over the dataset; empty: the professor chooses",
    )  # fmt: skip
    packing: bool = Field(
        True, validation_alias=_names("PACKING"), description="Pack short examples into shared rows on a GPU; 0: never"
    )
    tune_minutes: float = Field(
        60, gt=0, validation_alias=_names("TUNE_MINUTES"), description="Longest search for a recipe, in minutes"
    )
    suites: Annotated[tuple[str, ...], NoDecode] = Field(
        ("recall", "style", "regression", "leak", "coding", "commits"), validation_alias=_names("SUITES"),
        description="Suites of every examination, separated by commas; a .jsonl file is your own suite",
    )  # fmt: skip
    sandbox: str = Field(
        "", validation_alias=_names("SANDBOX"),
        description="Sandbox for programs that a model wrote: bubblewrap or docker; empty: the first that works",
    )  # fmt: skip
    sandbox_image: str = Field(
        "", validation_alias=_names("SANDBOX_IMAGE"),
        description="Image of Docker's sandbox, by name or digest; empty: the image made from this Python",
    )  # fmt: skip
    judge: str = Field(
        "", validation_alias=_names("JUDGE"),
        description="http://host:port/v1#model of a model that compares answers; informational",
    )  # fmt: skip
    endpoint_key: SecretStr = Field(
        SecretStr(""),
        validation_alias=_names("ENDPOINT_KEY"),
        description="Keys of endpoints as https://host:port=KEY, separated by spaces; a key alone belongs to the judge",
    )
    promotion: Literal["automatic", "approval"] = Field(
        "automatic", validation_alias=_names("PROMOTION"),
        description="automatic, or approval: a user approves every promotion",
    )  # fmt: skip
    enable_gpu: bool = Field(
        True, validation_alias=_names("ENABLE_GPU", "ENABLE_GPU"), description="Use a GPU if there is one"
    )
    training_backend: str = Field(
        "process",
        validation_alias=_names("TRAINING_BACKEND"),
        description="Where trainings run: process, container, auto (a container if possible), or an installed backend",
    )
    training_library: Literal["", "trl", "unsloth"] = Field(
        "", validation_alias=_names("TRAINING_LIBRARY"),
        description="trl or unsloth; empty: Unsloth if it is installed and there is a GPU",
    )  # fmt: skip
    training_processes: int = Field(
        1, ge=1, le=64, validation_alias=_names("TRAINING_PROCESSES"),
        description="Processes that share a training; each uses one GPU, or a part of the CPUs",
    )  # fmt: skip
    training_sharded: bool = Field(
        False, validation_alias=_names("TRAINING_SHARDED"),
        description="Shard the weights across the processes (FSDP)",
    )  # fmt: skip
    training_image: str = Field(
        "", validation_alias=_names("TRAINING_IMAGE", "TRAINING_IMAGE"),
        description="Image of training containers, by name or digest; empty: the image made from this Python",
    )  # fmt: skip
    cuda_image: str = Field(
        "", validation_alias=_names("CUDA_IMAGE", "DOCKER_CUDA_IMAGE"),
        description="Image in which `academy doctor` runs nvidia-smi, to see whether containers get GPUs",
    )  # fmt: skip
    training_memory_gib: float | None = Field(
        None, ge=LEAST_MEMORY_GIB, allow_inf_nan=False, validation_alias=_names("TRAINING_MEMORY_GIB"),
        description="Memory limit of a training container in GiB; empty: 90 % of the free memory",
    )  # fmt: skip
    training_cpus: float | None = Field(
        None, ge=LEAST_CPUS, allow_inf_nan=False, validation_alias=_names("TRAINING_CPUS"),
        description="CPU limit of a training container; empty: all CPUs",
    )  # fmt: skip
    training_silence_minutes: float = Field(
        15, gt=0, le=10_080, validation_alias=_names("TRAINING_SILENCE_MINUTES"),
        description="Minutes without an event after which a trainer is stopped",
    )  # fmt: skip
    price_per_hour: float | None = Field(
        None, ge=0, allow_inf_nan=False, validation_alias=_names("PRICE_PER_HOUR"),
        description="Price of an hour of training; empty: no cost is shown",
    )  # fmt: skip

    serve_key: SecretStr = Field(
        SecretStr(""), validation_alias=_names("SERVE_KEY"), description="Bearer token for users of the gateway"
    )
    serve_concurrency: int = Field(
        16, ge=1, le=1024, validation_alias=_names("SERVE_CONCURRENCY"),
        description="Answers that are generated at the same time",
    )  # fmt: skip
    serve_queue: int = Field(
        64, ge=0, le=10_000, validation_alias=_names("SERVE_QUEUE"),
        description="Requests that may wait for a free slot",
    )  # fmt: skip
    serve_connections: int = Field(
        1024, ge=16, le=50_000, validation_alias=_names("SERVE_CONNECTIONS"),
        description="Open connections of the gateway; fewer where the system allows fewer open files",
    )  # fmt: skip
    serve_connections_per_address: int = Field(
        256, ge=1, le=50_000, validation_alias=_names("SERVE_CONNECTIONS_PER_ADDRESS"),
        description="Open connections of one other machine; callers on this machine share the whole number",
    )  # fmt: skip
    serve_keep: int = Field(
        2, ge=1, le=64, validation_alias=_names("SERVE_KEEP"),
        description="Champions that stay loaded, the current one included",
    )  # fmt: skip
    serve_first_token_seconds: float = Field(
        60, gt=0, validation_alias=_names("SERVE_FIRST_TOKEN_SECONDS"),
        description="Longest time until an answer's first token",
    )  # fmt: skip
    serve_seconds: float = Field(
        600, gt=0, validation_alias=_names("SERVE_SECONDS"), description="Longest time for an answer"
    )
    serve_slow_reader_seconds: float = Field(
        30, gt=0, validation_alias=_names("SERVE_SLOW_READER_SECONDS"),
        description="Longest time that a client may stop reading",
    )  # fmt: skip
    serve_drain_seconds: float = Field(
        30, ge=0, validation_alias=_names("SERVE_DRAIN_SECONDS"),
        description="Time for running answers to finish at shutdown",
    )  # fmt: skip
    keep_conversations: Literal["off", "rated", "all"] = Field(
        "off", validation_alias=_names("KEEP_CONVERSATIONS"),
        description="Conversations that become experience: off, rated or all",
    )  # fmt: skip
    keep_share: float = Field(
        1.0, ge=0, le=1, validation_alias=_names("KEEP_SHARE"),
        description="Share of unrated conversations that are kept with `all`",
    )  # fmt: skip

    trusted_keys: Annotated[tuple[str, ...], NoDecode, AfterValidator(with_keys)] = Field(
        (), validation_alias=_names("TRUSTED_KEYS"),
        description="Names of users' keys whose ratings become lessons without a review, separated by commas; owner: "
        "this account on loopback, without a key",
    )  # fmt: skip
    ratings_per_hour: int = Field(
        60, ge=0, validation_alias=_names("RATINGS_PER_HOUR"),
        description="Ratings of one key, and from one address, in an hour; trusted keys have no limit",
    )  # fmt: skip
    ratings_per_day: int = Field(
        200, ge=0, validation_alias=_names("RATINGS_PER_DAY"),
        description="Ratings of one key, and from one address, in a day; trusted keys have no limit",
    )  # fmt: skip
    untrusted_share: float = Field(
        0.2, ge=0, le=0.5, validation_alias=_names("UNTRUSTED_SHARE"),
        description="Largest share of a dataset that may come from sources that are not trusted; half of it from one",
    )  # fmt: skip

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  the names are pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """A setting's own name wins over other spellings, even if only they stand in the environment."""
        own = [own_names(source) for source in (env_settings, dotenv_settings)]
        return init_settings, *own, env_settings, dotenv_settings

    @field_validator("home", "workspace_root")
    @classmethod
    def _expand(cls, path: Path) -> Path:
        """Expand a `~` in a file of settings, which no shell expands."""
        return path.expanduser()

    @field_validator("sources", "trusted_authors", "trusted_keys", "suites", mode="before")
    @classmethod
    def _by_commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def database(self) -> str:
        """SQLAlchemy URL of lessons and ledger."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'academy.db'}"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.home.resolve() / 'mlflow.db'}"

    @property
    def home_id(self) -> str:
        """Eight digits that identify this home in names which several homes share."""
        return hashlib.sha256(str(self.home.resolve()).encode()).hexdigest()[:8]

    def require_enabled(self) -> None:
        """Raise InputError where the user disabled the Academy."""
        if not self.enabled:
            raise InputError(
                f"{DISABLED[0].upper()}{DISABLED[1:]}.",
                "Set ACADEMY_ENABLE=true in the environment or the file of settings.",
            )

    def folder(self, name: str) -> Path:
        """A folder of the home; it is created on first use."""
        home = self.home.resolve()
        path = home / name
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)  # other users must not read the lessons
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise HomeError(
                f"The home folder {self.home} cannot be written ({problem.strerror}).",
                "Set ACADEMY_HOME to a folder that you can write.",
            ) from problem
        return path


def load_settings(home: Path | None = None, *, adopt: bool = False) -> Settings:
    """Read the settings, and check that the home is one of this account and can be written.

    The environment wins over the file that ACADEMY_SETTINGS_FILE names, and that over the file in the home, which is
    read only after the home counts. `adopt`: a person trusts the home as it is.

    Raises InputError for a value out of bounds, an unknown ACADEMY_ name or an unreadable file, HomeError for an
    unwritable home and for one that this account did not make.
    """
    named = named_file()
    files = [named] if named else []
    settings = _read(files, home)
    refuse_homes_of_others(settings.home)
    (adopt_home if adopt else claim_home)(settings.home)
    close_home(settings.home)
    own = settings.home / OWN_FILE
    if own.is_file():
        if {"ACADEMY_HOME", "MEMORY_ROOT"} & names_in_file(own, PREFIX):
            raise InputError(f"{own} names a home.", "Remove the line: the file belongs to the home that it is in.")
        settings = _read([own, *files], home)
    check_writable(settings.folder("."), settings.home)
    settle(settings.home)
    databases = {
        "ACADEMY_DATABASE_URL": settings.database_url,
        "ACADEMY_MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri,
    }
    refuse_databases_of_others(settings.home, databases)
    return settings


def _read(files: list[Path], home: Path | None) -> Settings:
    """The settings of the environment and of these files, the last of which wins."""
    names = set(os.environ).union(*(names_in_file(file, PREFIX) for file in files))
    reject_unknown_names(names, setting_names())
    try:
        settings = Settings(_env_file=files)
    except ValidationError as problem:
        raise refusal(problem, names, _spellings(), files) from None
    remember_environment(os.environ)  # so that no text of this process shows their secrets
    remember(settings.serve_key.get_secret_value(), settings.endpoint_key.get_secret_value())
    remember(*map(password_in, (settings.database_url, settings.mlflow_tracking_uri, settings.judge)))
    return settings if home is None else settings.model_copy(update={"home": home})


def _spellings() -> list[list[str]]:
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    return [[str(choice) for choice in alias.choices] for alias in aliases if isinstance(alias, AliasChoices)]


def setting_names() -> set[str]:
    """All names of settings, the documents' spellings included."""
    return {FILE_VARIABLE, *(spelling for spellings in _spellings() for spelling in spellings)}
