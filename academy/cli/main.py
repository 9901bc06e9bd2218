"""The `academy` command: options and help texts (of groups: commands/*_app.py); heavy imports inside the commands."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from academy.cli.dataset_app import dataset_app
from academy.cli.habitat_app import habitat_app
from academy.cli.keys_app import keys_app
from academy.cli.lessons_app import lessons_app
from academy.cli.models_app import models_app
from academy.cli.options import (
    MOST,
    Base,
    BatchSize,
    Before,
    Epochs,
    InitAdapter,
    Json,
    LearningRate,
    Limit,
    Rank,
    RecipeFile,
    Tune,
    TuneMinutes,
)  # fmt: skip
from academy.cli.verdict_app import verdict_app
from academy.errors import AcademyError, HomeError

app = typer.Typer(
    help="Experience becomes an adapter that is examined, promoted and answering.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(lessons_app, name="lessons")
app.add_typer(dataset_app, name="dataset")
app.add_typer(verdict_app)  # without a name: its commands stand beside those below
app.add_typer(models_app, name="models")
app.add_typer(habitat_app, name="habitat")
app.add_typer(keys_app, name="keys")

Repo = Annotated[list[Path] | None, typer.Option("--repo", help="A git repository to learn from; repeatable.")]
Form = Annotated[str, typer.Option("--format", help="Format of the lines: alpaca, sharegpt, chatml or openai.")]


@app.command()
def evolve(
    lessons: Annotated[
        list[Path] | None, typer.Option("--lessons", help="A JSONL file of lessons; repeatable.")
    ] = None,
    repo: Repo = None,
    tasks: Annotated[list[Path] | None, typer.Option("--tasks", help="A JSONL task history; repeatable.")] = None,
    base_model: Base = None,
    force: Annotated[bool, typer.Option("--force", help="Train although the conditions are not met.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained, and stop.")] = False,
    rank: Rank = None,
    learning_rate: LearningRate = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    init_adapter: InitAdapter = None,
    recipe: RecipeFile = None,
    tune: Tune = None,
    tune_minutes: TuneMinutes = None,
    json: Json = False,
) -> None:
    """Run the whole loop: experience, dataset, decision, training, examination, promotion."""
    from academy.cli.evolve import run
    from academy.cli.recipe import recipe_options
    from academy.loop.evolve import EvolutionRequest

    options = recipe_options(
        recipe, rank=rank, learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, init_adapter=init_adapter
    )
    request = EvolutionRequest(
        lessons=tuple(lessons or ()), tasks=tuple(tasks or ()), repositories_read=tuple(repo or ()),
        base_model=base_model, force=force, recipe=options, tune=tune, tune_minutes=tune_minutes,
    )  # fmt: skip
    run(request, preview=dry_run, as_json=json)


@app.command()
def curate(
    repo: Repo = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most this many lessons, mostly the newest.")] = None,
    form: Form = "",
    workers: Annotated[int, typer.Option(min=1, help="More than 1: this many Ray workers (extra `ray`).")] = 1,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Write the dataset and show its funnel. Nothing is trained."""
    from academy.cli import stages as commands

    commands.curate(repo or [], limit, form, workers, base_model, as_json=json)


@app.command()
def decide(
    force: Annotated[bool, typer.Option("--force", help="As in evolve.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Show whether training pays now, and why."""
    from academy.cli import stages as commands

    commands.decide(base_model, force=force, as_json=json)


@app.command()
def train(
    dataset: Annotated[
        str | None, typer.Option(help="A dataset's digest. Without it, the present lessons are curated.")
    ] = None,
    repo: Repo = None,
    form: Form = "",
    base_model: Base = None,
    rank: Rank = None,
    learning_rate: LearningRate = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    init_adapter: InitAdapter = None,
    recipe: RecipeFile = None,
    tune: Tune = None,
    tune_minutes: TuneMinutes = None,
    json: Json = False,
) -> None:
    """Train an adapter and register it as a version. It is not examined."""
    from academy.cli import stages as commands
    from academy.cli.recipe import recipe_options
    from academy.loop.train_by_hand import TrainingRequest
    from academy.loop.tune import SearchOptions

    options = recipe_options(
        recipe, rank=rank, learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, init_adapter=init_adapter
    )
    request = TrainingRequest(
        dataset=dataset, repositories=tuple(repo or ()), form=form, recipe=options,
        search=SearchOptions(trials=tune, minutes=tune_minutes),
    )  # fmt: skip
    commands.train(request, base_model, as_json=json)


@app.command()
def sandbox(
    make_image: Annotated[
        bool, typer.Option("--make-image", help="Make the image of Docker's sandbox, of this Python; asks no registry.")
    ] = False,
    json: Json = False,
) -> None:
    """What contains the programs that a model wrote."""
    from academy.cli import sandbox as commands

    commands.run(make_image=make_image, as_json=json)


@app.command()
def trainer(
    make_image: Annotated[
        bool,
        typer.Option("--make-image", help="Make the image of training containers; asks no registry."),
    ] = False,
    json: Json = False,
) -> None:
    """Where trainings run; try the image that containers need (ACADEMY_TRAINING_BACKEND=container or auto)."""
    from academy.cli import trainer as commands

    commands.run(make_image=make_image, as_json=json)


@app.command()
def genealogy(
    limit: Limit = 50,
    before: Before = None,
    form: Annotated[str, typer.Option("--format", help="text, json, mermaid or svg.")] = "text",
    to: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Show the family tree: parents, datasets, verdicts, promotions and rollbacks."""
    from academy.cli import genealogy as commands

    commands.tree(limit, before, form, to, base_model, as_json=json)


@app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest.")] = 50,
    before: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Only rows with smaller numbers: the page before.")
    ] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Tell every change of the champion and the archive: what, who, when and why."""
    from academy.cli import genealogy as commands

    commands.changes(limit, before, base_model, as_json=json)


@app.command()
def ask(
    request: Annotated[str, typer.Argument(help="What you would ask the assistant.")],
    version: Annotated[str | None, typer.Option(help="A version or 'base'; without it the champion.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096)] = 64,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Ask the champion, or another version."""
    from academy.cli import models as commands

    commands.ask(request, version, max_new_tokens, base_model, as_json=json)


@app.command()
def export(
    version: Annotated[str, typer.Argument(help="A version (2 or v2).")],
    form: Annotated[
        str, typer.Option("--format", help="adapter (PEFT), merged (transformers), gguf or merged-gguf (llama.cpp).")
    ] = "adapter",
    to: Annotated[Path | None, typer.Option("--to", help="A new folder; without it one in the home.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="f32, bf16 or f16 for the model's weights; without it f32 in GGUF, else its own.")
    ] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Write a version as other tools load it."""
    from academy.cli import models as commands

    commands.export(version, form, to, precision, base_model, as_json=json)


@app.command()
def status(base_model: Base = None, json: Json = False) -> None:
    """Who is champion, what is waiting, what the last verdict was."""
    from academy.cli import models as commands

    commands.status(base_model, as_json=json)


@app.command()
def doctor(base_model: Base = None, json: Json = False) -> None:
    """Say what works here, what does not, and what mends it."""
    from academy.cli.doctor import run

    run(base_model, as_json=json)


@app.command()
def init() -> None:
    """Create the databases of this home; every command does it by itself when it must."""
    from academy.cli.doctor import create_databases

    create_databases()


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The gateway's port; 0: any that is free.")] = 8000,
    host: Annotated[str, typer.Option(help="Where it listens; beyond this machine it needs ACADEMY_SERVE_KEY.")] = (
        "127.0.0.1"
    ),
    name: Annotated[str, typer.Option(help="Several gateways of one home have several names.")] = "default",
    base_model: Base = None,
    runtime: Annotated[str, typer.Option(help="peft, llamacpp, vllm or ollama.")] = "peft",
    runtime_url: Annotated[str, typer.Option(help="Where the runtime answers, if it runs elsewhere.")] = "",
    seen_as: Annotated[str, typer.Option(help="Where vLLM's server sees the folder of the adapters.")] = "",
) -> None:
    """Answer users with the champion: an OpenAI-compatible gateway that follows promotions, until Ctrl-C."""
    from academy.cli.serving import serve as run

    run(port, host, name, base_model, runtime, runtime_url, seen_as)


@app.command()
def pages(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Prefect's port.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="MLflow's port.")] = 5000,
    worker: Annotated[bool, typer.Option(help="Also deploy prefect.yaml and run a worker.")] = True,
) -> None:
    """Serve the Prefect and MLflow pages of this home on loopback, with a worker, until Ctrl-C."""
    from academy.cli.pages import run

    run(port, mlflow_port, with_worker=worker)


@app.command()
def deploy() -> None:
    """Create the work pools and deploy prefect.yaml on the running Prefect server."""
    from academy.cli.pages import deploy as deploy_all

    deploy_all()


def main() -> None:
    """Run a command; a refusal is one sentence on stderr (or an error object with --json) and exit code 2."""
    # threads that spin while they wait make two busy programs many times slower; must be set before torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # torch asks for pynvml under its old name; nobody who uses the Academy can do anything about it
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated")
    try:
        app()
    except HomeError as problem:
        _refuse(_circumstance(problem) or problem)
    except AcademyError as problem:
        _refuse(problem)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as problem:
        # Prefect and MLflow tell a full disk in as many ways as they have layers; people need one
        if (sentence := _circumstance(problem)) is None:
            raise
        _refuse(sentence)


def _circumstance(problem: BaseException) -> AcademyError | None:
    """The refusal for what the machine, and no fault of ours, made impossible: a full disk, an unusable file."""
    from academy.settings import load_settings
    from academy.store.files import is_full

    try:
        home = load_settings().home
    except HomeError as refusal:
        return refusal
    if is_full(home, problem):
        return HomeError(f"The disk that holds {home} is full.", "Free some space and run the same command again.")
    if isinstance(problem, OSError) and problem.errno is not None:
        return HomeError(f"{problem.filename or 'The system'}: {problem.strerror}.", "Mend that and run it again.")
    return None


def _refuse(problem: AcademyError) -> None:
    if "--json" in sys.argv:
        import orjson

        body = {"error": {"kind": type(problem).__name__, "message": problem.message, "remedy": problem.remedy}}
        sys.stdout.write(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stderr.write(f"{problem}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
