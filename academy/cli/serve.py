"""`academy serve | ask`: answers for users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from academy.cli.home import open_home, user
from academy.cli.options import Base, Json
from academy.cli.output import console, emit, listen, say, version_name

if TYPE_CHECKING:
    from academy.loop.serve import ServingGateway

app = typer.Typer(rich_markup_mode=None)


@app.command()
def ask(
    request: Annotated[str, typer.Argument(help="The request, in quotes.")],
    version: Annotated[str | None, typer.Option(help="A version or 'base'; without it the champion.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Longest answer, in tokens.")] = 64,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Ask the champion, or another version."""
    from academy.loop.ask import ask as ask_version

    listen()
    answer = ask_version(open_home(base_model), request, version, max_new_tokens=max_new_tokens, by=user())
    if json:
        emit(answer.model_dump(mode="json"))
    else:
        say(answer.answer or "(no answer)")
        console().print(f"[dim]answered by {version_name(answer.version)}[/dim]")


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The gateway's port; 0 takes any free port.")] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen on; beyond this machine ACADEMY_SERVE_KEY is required.")
    ] = "127.0.0.1",
    name: Annotated[str, typer.Option(help="The gateway's name; two gateways of one home need two names.")] = "default",
    base_model: Base = None,
    runtime: Annotated[
        str, typer.Option(help="peft, llamacpp, vllm, ollama, or the name of an installed runtime.")
    ] = "peft",
    runtime_url: Annotated[str, typer.Option(help="The runtime's address, if it is a server of its own.")] = "",
    seen_as: Annotated[str, typer.Option(help="The path of the adapters' folder as vLLM's server sees it.")] = "",
) -> None:
    """Serve the champion through an OpenAI-compatible gateway that follows promotions, until Ctrl-C."""
    from academy.loop.serve import serve as serve_champion

    listen()
    serve_champion(
        open_home(base_model), name=name, host=host, port=port, runtime=runtime, runtime_url=runtime_url,
        seen_as=seen_as, by=user(), started=_print_started,
    )  # fmt: skip


def _print_started(gateway: ServingGateway) -> None:
    say(f"{gateway.champion} of {gateway.family} answers at {gateway.url}/v1 (any OpenAI client; model: champion).")
    say("Ctrl-C ends it.")
