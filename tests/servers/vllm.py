"""vLLM's OpenAI-compatible server for adapters and completions: routes, statuses, bodies and framing.

Based on vllm/entrypoints/openai/models/serving.py, .../completion/serving.py and vllm/lora/peft_helper.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from tests.servers.engine import Engine
from tests.servers.serving import Faults, as_sent

CONTEXT = 1024


def error(status: int, message: str, kind: str, param: str | None = None) -> JSONResponse:
    """vLLM's error object."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": status}}
    return JSONResponse(body, status)


def vllm(
    engine: Engine, served: str, root: str, *, updating: bool = True, max_rank: int = 16, faults: Faults | None = None
) -> FastAPI:
    """A server with one base model. `updating` is VLLM_ALLOW_RUNTIME_LORA_UPDATING."""
    app, wrong = FastAPI(), faults or Faults()
    adapters: dict[str, str] = {}

    @app.get("/health")
    def health() -> Response:
        return Response()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        def card(name: str, place: str, parent: str | None) -> dict[str, Any]:
            return {
                "id": name, "object": "model", "created": int(time.time()), "owned_by": "vllm", "root": place,
                "parent": parent, "max_model_len": None if parent else CONTEXT, "permission": [],
            }  # fmt: skip

        cards = [card(served, root, None), *(card(name, place, served) for name, place in adapters.items())]
        return {"object": "list", "data": cards}

    if updating:

        @app.post("/v1/load_lora_adapter")
        async def load(request: Request) -> Response:
            body = await request.json()
            name, place = body.get("lora_name"), body.get("lora_path")
            if not name or not place:
                return error(400, "Both 'lora_name' and 'lora_path' must be provided.", "InvalidUserInput")
            if name in adapters:
                return error(400, f"The lora adapter '{name}' has already been loaded. If you want to load the adapter "
                             "in place, set 'load_inplace' to True.", "InvalidUserInput")  # fmt: skip
            if not (Path(place) / "adapter_config.json").is_file():
                return error(404, f"Loading lora {name} failed: No adapter found for {place}", "NotFoundError")
            config = json.loads((Path(place) / "adapter_config.json").read_text())
            if config.get("use_dora"):
                return error(500, "vLLM does not yet support DoRA.", "InternalServerError")
            if config["r"] > max_rank:
                message = f"LoRA rank {config['r']} is greater than max_lora_rank {max_rank}."
                return error(500, message, "InternalServerError")
            engine.load(name, Path(place))
            adapters[name] = place
            return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

        @app.post("/v1/unload_lora_adapter")
        async def unload(request: Request) -> Response:
            name = (await request.json()).get("lora_name")
            if name not in adapters:
                return error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
            engine.unload(name)
            del adapters[name]
            return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await request.json()
        wrong.asked.append(body)
        if wrong.status:
            return error(wrong.status, "The server is overloaded or not ready.", "ServiceUnavailableError")
        name = body["model"]
        if name != served and name not in adapters:
            return error(404, f"The model `{name}` does not exist.", "NotFoundError", "model")
        prompt = body["prompt"]
        ids = engine.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        if len(ids) + body["max_tokens"] > CONTEXT:
            return error(400, f"This model's maximum context length is {CONTEXT} tokens.", "BadRequestError")
        pieces = _events(engine, None if name == served else name, ids, body)
        failure = _event({"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError"}})
        return StreamingResponse(as_sent(pieces, wrong, failure + b"data: [DONE]\n\n"), media_type="text/event-stream")

    return app


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _events(engine: Engine, adapter: str | None, ids: list[int], body: dict[str, Any]) -> Iterator[bytes]:
    head = {"id": "cmpl-1", "object": "text_completion", "created": int(time.time()), "model": body["model"]}
    count = 0
    tokens = engine.stream(
        adapter, ids, body["max_tokens"], body["temperature"], body["top_p"], body.get("seed"), body["stop"]
    )
    for token in tokens:
        count += 1
        logprobs = {"token_logprobs": [token.logprob], "tokens": [token.text]} if "logprobs" in body else None
        choice = {
            "index": 0, "text": token.text, "logprobs": logprobs, "finish_reason": token.finish or None,
            "stop_reason": None,
        }  # fmt: skip
        yield _event({**head, "choices": [choice]})
    if (body.get("stream_options") or {}).get("include_usage"):
        usage = {"prompt_tokens": len(ids), "completion_tokens": count, "total_tokens": len(ids) + count}
        yield _event({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"
