"""Where things are, and when training pays: read from the environment and `.env`, prefix ACADEMY_.

Settings say where (this file), a Recipe says how to train, `prefect.yaml` says when and on which pool.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from academy.errors import HomeError, InputError

PREFIX = "ACADEMY_"
LEAST_MEMORY_GIB = 1 / 16
"""Of a training's container; with less not even Python starts there."""
LEAST_CPUS = 0.01
"""Of a container: an engine gives no smaller part."""


def _names(name: str, *others: str) -> AliasChoices:
    """The setting's own name first, then the spellings of the seed documents."""
    return AliasChoices(PREFIX + name, *others)


class Settings(BaseSettings):
    """Paths, addresses and thresholds. One instance a command, passed down; there is no global one."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", frozen=True, extra="ignore", env_ignore_empty=True
    )

    home: Annotated[Path, NoDecode] = Field(
        Path("./data"), validation_alias=_names("HOME", "MEMORY_ROOT"), description="holds everything"
    )
    workspace_root: Path = Field(
        Path(), validation_alias=_names("WORKSPACE_ROOT", "WORKSPACE_ROOT"), description="its repository is read"
    )
    database_url: str = Field(
        "", validation_alias=_names("DATABASE_URL"), description="lessons and ledger; empty: SQLite in the home"
    )
    mlflow_tracking_uri: str = Field(
        "", validation_alias=_names("MLFLOW_TRACKING_URI"), description="empty: SQLite in the home"
    )
    base_model: str = Field(
        "seed", validation_alias=_names("BASE_MODEL", "DEFAULT_BASE_MODEL"), description="'seed', a folder or a name"
    )
    min_lessons: int = Field(
        100, ge=1, validation_alias=_names("MIN_LESSONS", "MIN_LESSONS_FOR_TRAINING"), description="to train at all"
    )
    min_new_lessons: int = Field(
        50, ge=1, validation_alias=_names("MIN_NEW_LESSONS"), description="since the champion was examined"
    )
    training_interval_hours: float = Field(
        24,
        ge=0,
        validation_alias=_names("TRAINING_INTERVAL_HOURS", "MIN_TRAINING_INTERVAL_HOURS"),
        description="since the last verdict",
    )
    max_lessons: int = Field(
        5000,
        ge=1,
        validation_alias=_names("MAX_LESSONS"),
        description="mostly the newest; a share of the places goes to older ones",
    )
    sources: Annotated[tuple[str, ...], NoDecode] = Field(
        ("lesson", "task", "commit"),
        validation_alias=_names("SOURCES"),
        description="names of the sources that a dataset is made from, separated by commas",
    )
    ray_address: str = Field(
        "",
        validation_alias=_names("RAY_ADDRESS"),
        description="a Ray cluster; empty: a local one where one is asked for",
    )
    trusted_authors: Annotated[tuple[str, ...], NoDecode] = Field(
        (), validation_alias=_names("TRUSTED_AUTHORS"), description="names or addresses, by commas; empty: everybody"
    )
    max_per_source: int | None = Field(
        2500, ge=1, validation_alias=_names("MAX_PER_SOURCE"), description="examples of one batch; the newest are kept"
    )
    max_per_author: int | None = Field(
        2500, ge=1, validation_alias=_names("MAX_PER_AUTHOR"), description="examples of one author"
    )
    git_commits_limit: int = Field(
        100, ge=0, validation_alias=_names("GIT_COMMITS_LIMIT"), description="newest commits read from a repository"
    )
    lora_rank: int | None = Field(
        None, ge=4, le=256, validation_alias=_names("LORA_RANK", "DEFAULT_LORA_RANK"), description="empty: chosen"
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1e-2,
        validation_alias=_names("LEARNING_RATE", "DEFAULT_LEARNING_RATE"),
        description="empty: chosen",
    )
    num_epochs: int | None = Field(
        None, ge=1, le=20, validation_alias=_names("NUM_EPOCHS", "DEFAULT_NUM_EPOCHS"), description="empty: chosen"
    )
    packing: bool = Field(
        True, validation_alias=_names("PACKING"), description="on a GPU, short examples share rows; 0: never"
    )
    tune_minutes: float = Field(
        60, gt=0, validation_alias=_names("TUNE_MINUTES"), description="that a search for a recipe may take"
    )
    suites: Annotated[tuple[str, ...], NoDecode] = Field(
        ("recall", "style", "regression", "leak", "coding", "commits"),
        validation_alias=_names("SUITES"),
        description="what every examination asks, by commas; a .jsonl file is a suite of your own",
    )
    sandbox: str = Field(
        "", validation_alias=_names("SANDBOX"), description="bubblewrap or docker; empty: the first that runs here"
    )
    sandbox_image: str = Field(
        "",
        validation_alias=_names("SANDBOX_IMAGE"),
        description="what Docker's sandbox runs, by name or digest; empty: the image made of this Python",
    )
    judge: str = Field(
        "", validation_alias=_names("JUDGE"), description="http://host:port/v1#model that compares answers; told only"
    )
    endpoint_key: SecretStr = Field(
        SecretStr(""), validation_alias=_names("ENDPOINT_KEY"), description="bearer token for judges and endpoints"
    )
    promotion: Literal["automatic", "approval"] = Field(
        "automatic", validation_alias=_names("PROMOTION"), description="approval: a winner waits for a person's word"
    )
    enable_gpu: bool = Field(
        True, validation_alias=_names("ENABLE_GPU", "ENABLE_GPU"), description="use a GPU where there is one"
    )
    training_backend: str = Field(
        "process",
        validation_alias=_names("TRAINING_BACKEND"),
        description="process, container, an installed backend, or auto: a container if possible, else a process",
    )
    training_library: Literal["", "trl", "unsloth"] = Field(
        "", validation_alias=_names("TRAINING_LIBRARY"), description="empty: Unsloth where it and a GPU are there"
    )
    training_processes: int = Field(
        1,
        ge=1,
        le=64,
        validation_alias=_names("TRAINING_PROCESSES"),
        description="that share a training; each has a GPU, or a part of the processors",
    )
    training_sharded: bool = Field(
        False,
        validation_alias=_names("TRAINING_SHARDED"),
        description="each of several processes keeps a part of the weights only (FSDP)",
    )
    training_image: str = Field(
        "",
        validation_alias=_names("TRAINING_IMAGE", "TRAINING_IMAGE"),
        description="what a training's container runs, by name or digest; empty: the image made of this Python",
    )
    training_memory_gib: float | None = Field(
        None,
        ge=LEAST_MEMORY_GIB,
        allow_inf_nan=False,
        validation_alias=_names("TRAINING_MEMORY_GIB"),
        description="of a container; empty: 90 % of what is free",
    )
    training_cpus: float | None = Field(
        None,
        ge=LEAST_CPUS,
        allow_inf_nan=False,
        validation_alias=_names("TRAINING_CPUS"),
        description="of a container; empty: all",
    )
    training_silence_minutes: float = Field(
        15,
        gt=0,
        le=10_080,
        validation_alias=_names("TRAINING_SILENCE_MINUTES"),
        description="a trainer that shows no sign of life for so long is ended",
    )
    price_per_hour: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        validation_alias=_names("PRICE_PER_HOUR"),
        description="money for an hour of training; empty: no cost is told",
    )

    serve_key: SecretStr = Field(
        SecretStr(""), validation_alias=_names("SERVE_KEY"), description="bearer token that users of the gateway need"
    )
    serve_concurrency: int = Field(
        16, ge=1, le=1024, validation_alias=_names("SERVE_CONCURRENCY"), description="answers made at once"
    )
    serve_queue: int = Field(
        64, ge=0, le=10_000, validation_alias=_names("SERVE_QUEUE"), description="requests that may wait beside them"
    )
    serve_keep: int = Field(
        2, ge=1, le=64, validation_alias=_names("SERVE_KEEP"), description="champions kept loaded, the present one too"
    )
    serve_first_token_seconds: float = Field(
        60, gt=0, validation_alias=_names("SERVE_FIRST_TOKEN_SECONDS"), description="an answer begins within"
    )
    serve_seconds: float = Field(600, gt=0, validation_alias=_names("SERVE_SECONDS"), description="and ends within")
    serve_slow_reader_seconds: float = Field(
        30, gt=0, validation_alias=_names("SERVE_SLOW_READER_SECONDS"), description="a client may stop reading for"
    )
    serve_drain_seconds: float = Field(
        30, ge=0, validation_alias=_names("SERVE_DRAIN_SECONDS"), description="answers may go on at the end for"
    )
    keep_conversations: Literal["off", "rated", "all"] = Field(
        "off", validation_alias=_names("KEEP_CONVERSATIONS"), description="off, rated or all: what becomes experience"
    )
    keep_share: float = Field(
        1.0, ge=0, le=1, validation_alias=_names("KEEP_SHARE"), description="of the unrated ones, where all are kept"
    )

    @field_validator("home", "workspace_root")
    @classmethod
    def _expand(cls, path: Path) -> Path:
        """A `~` in .env, where no shell has seen it."""
        return path.expanduser()

    @field_validator("sources", "trusted_authors", "suites", mode="before")
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
        """Eight digits that tell this home from others, for names that several homes share."""
        return hashlib.sha256(str(self.home.resolve()).encode()).hexdigest()[:8]

    def folder(self, name: str) -> Path:
        """A folder of the home, made when it is first asked for."""
        home = self.home.resolve()
        path = home / name
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)  # lessons are nobody else's to read
            path.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise HomeError(
                f"The home folder {self.home} cannot be written ({problem.strerror}).",
                "Point ACADEMY_HOME at a folder that you can write.",
            ) from problem
        return path


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings once and prove that the home can be written.

    Raises InputError for a value out of bounds or an unknown ACADEMY_ name, HomeError for an unwritable home.
    """
    _refuse_unknown_names()
    try:
        settings = Settings()
    except ValidationError as problem:
        first = problem.errors()[0]
        name = next((str(part) for part in first["loc"]), "a setting")
        name = name if name.isupper() else PREFIX + name.upper()
        raise InputError(
            f"{name}={first.get('input')!r} is no valid value: {first['msg']}.",
            "Correct it in the environment or .env.",
        ) from None
    if home is not None:
        settings = settings.model_copy(update={"home": home})
    _prove_writable(settings)
    return settings


def _refuse_unknown_names() -> None:
    known = {
        str(choice)
        for field in Settings.model_fields.values()
        if isinstance(field.validation_alias, AliasChoices)
        for choice in field.validation_alias.choices
    }
    written = Path(".env")
    names = {line.partition("=")[0].removeprefix("export ").strip() for line in _lines(written)}
    for name in sorted(names | set(os.environ)):
        if name.startswith(PREFIX) and name not in known | LATER and not name.startswith(PREFIX + "TEST_"):
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"Did you mean {near[0]}?" if near else "The README lists the settings."
            raise InputError(f"{name} is no setting of the Academy.", hint)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


LATER = {"ACADEMY_CUDA_IMAGE", "ACADEMY_ENABLE"}
"""Names that the seed documents use: accepted, and used by nothing yet."""


def _prove_writable(settings: Settings) -> None:
    home = settings.folder(".")
    try:
        with tempfile.NamedTemporaryFile(dir=home, prefix=".write-", buffering=0) as probe:
            probe.write(b"x" * 4096)
            os.fsync(probe.fileno())
    except OSError as problem:
        raise HomeError(
            f"The home folder {settings.home} cannot be written ({problem.strerror}).",
            "Free some space there or point ACADEMY_HOME at another folder.",
        ) from problem
