"""The part of a Docker engine's API that the trial of an image needs, over HTTP on loopback. It runs nothing.

The real client and the real backend call it. The output of the containers is set beforehand.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIGEST = "sha256:" + "ab" * 32
VERSIONS = {"torch": "2.13.0", "transformers": "5.17.0", "trl": "1.14.2", "peft": "0.21.2"}


@dataclass
class Engine:
    """An engine. `says` is the output of an image's trial; `gpus` is whether containers get GPUs."""

    images: dict[str, str] = field(default_factory=dict)  # digests by name
    says: dict[str, Any] = field(default_factory=lambda: {"python": "3.11.7", "versions": VERSIONS, "gpu": ""})
    on_gpu: dict[str, Any] = field(default_factory=lambda: {"gpu": "H100"})
    """The part of the output that differs in a container with a GPU."""
    gpus: bool = False
    exit_code: int = 0
    tried: list[bool] = field(default_factory=list)
    """For each trial, whether its container had a GPU."""
    lists: bytes = b""
    """What nvidia-smi prints in a container, instead of an image's trial."""
    host: str = ""

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Status, and JSON or bytes."""
        if path in ("/version", "/_ping"):
            return 200, {"ApiVersion": "1.44", "MinAPIVersion": "1.24", "Version": "29.0"}
        if path == "/info":
            return 200, {"ServerVersion": "29.0", "Runtimes": {"runc": {}} | ({"nvidia": {}} if self.gpus else {})}
        if image := re.fullmatch(r"/images/(.+)/json", path):
            digest = self.images.get(image[1])
            return (200, {"Id": digest, "Config": {}}) if digest else (404, {"message": f"No such image: {image[1]}"})
        if path == "/containers/create":
            self.tried.append(bool(body["HostConfig"].get("DeviceRequests")))
            return 201, {"Id": "c1", "Warnings": []}
        if method == "POST" and path.endswith("/wait"):
            return 200, {"StatusCode": self.exit_code}
        if path.endswith("/logs"):
            if self.lists:
                return 200, b"\x01\0\0\0" + len(self.lists).to_bytes(4, "big") + self.lists
            line = json.dumps(self.says | (self.on_gpu if self.tried[-1] else {})).encode() + b"\n"
            return 200, b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line
        if path == "/containers/c1/json":
            return 200, {
                "Id": "c1",
                "State": {"OOMKilled": False, "Running": False, "ExitCode": 0},
                "Config": {"Tty": False},
                "HostConfig": {"LogConfig": {"Type": "json-file"}},
            }
        return 204, {}


@contextmanager
def serving(engine: Engine) -> Iterator[Engine]:
    """The engine at `host`, for DOCKER_HOST."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            read = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = re.sub(r"^/v1\.\d+", "", self.path.partition("?")[0])
            status, reply = engine.answer(self.command, path, json.loads(read) if read else None)
            raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode() if status != 204 else b""
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    engine.host = f"tcp://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)  # its shutdown waits so long
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
