"""Ollama's own API as far as models and generation go: routes, statuses, bodies and NDJSON framing.

Written after docs/api.md, server/routes.go and server/create.go. It does not read the format GGUF: a "merged GGUF" is
the four bytes of its magic and then a safetensors file of the whole model.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from safetensors.torch import load

from tests.servers.engine import Engine
from tests.servers.serving import Faults, as_sent

MAGIC = b"GGUF"


@dataclass
class Model:
    """A tag: an engine, and the adapter that it answers with."""

    engine: Engine
    adapter: str | None = None
    license: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


def ollama(
    base: Path, engine: Engine, name: str, *, version: str = "0.33.3", begins: bool = False,
    faults: Faults | None = None,
) -> FastAPI:  # fmt: skip
    """A server that has one model already. With `begins` it sets a first token before every prompt."""
    app, wrong = FastAPI(), faults or Faults()
    blobs: dict[str, bytes] = {}
    models: dict[str, Model] = {name: Model(engine)}
    memory: set[str] = set()
    app.state.models, app.state.memory, app.state.blobs = models, memory, blobs
    numbers = tuple(int(part) for part in version.split("."))

    def missing(tag: str) -> JSONResponse:
        return JSONResponse({"error": f"model '{tag}' not found"}, 404)

    @app.get("/api/version")
    def version_of() -> dict[str, str]:
        return {"version": version}

    @app.post("/api/show")
    async def show(request: Request) -> Response:
        tag = (await request.json())["model"]
        if tag not in models:
            return missing(tag)
        info = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.add_bos_token": begins}  # fmt: skip
        details = {"format": "gguf", "family": "llama", "quantization_level": "F32"}
        return JSONResponse({"license": models[tag].license, "details": details, "model_info": info})

    @app.head("/api/blobs/{digest}")
    def has(digest: str) -> Response:
        return Response(status_code=200 if digest in blobs else 404)

    @app.post("/api/blobs/{digest}")
    async def take(digest: str, request: Request) -> Response:
        content = await request.body()
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            return JSONResponse({"error": "digest mismatch, expected " + digest}, 400)
        blobs[digest] = content
        return Response(status_code=201)

    @app.post("/api/create")
    async def create(request: Request) -> Response:
        body = await request.json()
        if body.get("adapters") and numbers >= (0, 34, 1):
            return JSONResponse({"error": "LoRA adapters are no longer supported"}, 400)
        return StreamingResponse(steps(body), media_type="application/x-ndjson")

    def steps(body: dict[str, Any]) -> Iterator[bytes]:
        def line(**fields: str) -> bytes:
            return json.dumps(fields).encode() + b"\n"

        model = Model(engine, license="\n".join(body.get("license", [])), parameters=body.get("parameters", {}))
        files = body.get("adapters") or body.get("files") or {}
        if any(digest not in blobs for digest in files.values()):
            yield line(error="open blob: no such file or directory")
            return
        if body.get("adapters"):
            if body.get("from") not in models:
                yield line(error="pull model manifest: file does not exist")
                return
            yield line(status="converting adapter")
            with tempfile.TemporaryDirectory() as folder:
                for file, digest in files.items():
                    (Path(folder) / file).write_bytes(blobs[digest])
                model.adapter = body["model"].replace(":", "-").replace(".", "-").replace("/", "-")
                engine.load(model.adapter, Path(folder))
        elif files:
            yield line(status="parsing GGUF")
            content = blobs[next(iter(files.values()))]
            if not content.startswith(MAGIC):
                yield line(error="supplied file was not in GGUF format", status="400")
                return
            model.engine = Engine(base)
            model.engine.model.load_state_dict(load(content[len(MAGIC) :]), strict=False)
        else:
            yield line(error="neither 'from' or 'files' was specified")
            return
        models[body["model"]] = model
        yield line(status="writing manifest")
        yield line(status="success")

    @app.post("/api/copy")
    async def copy(request: Request) -> Response:
        body = await request.json()
        if body["source"] not in models:
            return JSONResponse({"error": f'model "{body["source"]}" not found'}, 404)
        models[body["destination"]] = models[body["source"]]
        return Response()

    @app.delete("/api/delete")
    async def delete(request: Request) -> Response:
        tag = (await request.json())["model"]
        if tag not in models:
            return JSONResponse({"error": f"model '{tag}' not found"}, 404)
        del models[tag]
        memory.discard(tag)
        return Response()

    @app.get("/api/ps")
    def running() -> dict[str, Any]:
        return {"models": [{"name": tag, "model": tag, "size": 1} for tag in sorted(memory)]}

    @app.post("/api/generate")
    async def generate(request: Request) -> Response:
        body = await request.json()
        tag = body["model"]
        if tag not in models:
            return missing(tag)
        if not body.get("prompt"):
            if body.get("keep_alive") == 0:
                memory.discard(tag)
                return JSONResponse({"model": tag, "response": "", "done": True, "done_reason": "unload"})
            memory.add(tag)
            return JSONResponse({"model": tag, "response": "", "done": True, "done_reason": "load"})
        wrong.asked.append(body)
        if wrong.status:
            message = "server busy, please try again.  maximum pending requests exceeded"
            return JSONResponse({"error": message}, wrong.status)
        memory.add(tag)
        pieces = lines(models[tag], body)
        failure = b'{"error":"llama runner process no longer running: 2"}\n'
        return StreamingResponse(as_sent(pieces, wrong, failure), media_type="application/x-ndjson")

    def lines(model: Model, body: dict[str, Any]) -> Iterator[bytes]:
        tokenizer, options = model.engine.tokenizer, body["options"]
        ids = tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
        ids = [tokenizer.bos_token_id, *ids] if begins else ids
        head = {"model": body["model"], "created_at": "2026-01-01T00:00:00Z"}
        count, finish, logprobs = 0, "", []
        tokens = model.engine.stream(
            model.adapter, ids, options["num_predict"], options["temperature"], options["top_p"],
            options.get("seed"), options["stop"],
        )  # fmt: skip
        for token in tokens:
            count, finish = count + 1, token.finish
            if token.text or token.finish != "stop":  # the end token has neither text nor a place among them
                logprobs.append({"token": token.text, "logprob": token.logprob})
            if token.text or token.finish == "length":
                extra = {"logprobs": logprobs} if body.get("logprobs") and numbers >= (0, 12, 11) else {}
                yield json.dumps({**head, "response": token.text, "done": False, **extra}).encode() + b"\n"
                logprobs = []
        last = {"done": True, "done_reason": finish, "prompt_eval_count": len(ids), "eval_count": count}
        yield json.dumps({**head, "response": "", **last}).encode() + b"\n"

    return app
