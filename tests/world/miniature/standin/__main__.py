"""Serve the local API: python -m tests.world.miniature.standin.

OLLAMA_HOST, OLLAMA_NO_CLOUD, OLLAMA_MODELS and OLLAMA_KEEP_ALIVE are read as ollama reads them.
"""

import asyncio
import ctypes
import json
import os
import signal
import time
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

from tests.world.miniature.standin import models
from tests.world.miniature.standin.cloud import VERSION, Cloud, copy, say
from tests.world.miniature.standin.pull import PullError, pull
from tests.world.miniature.standin.runner import Runner

PR_SET_NAME = 15  # prctl(2)
PORT = 11434
BODY_MAX = 1 << 26
NOT_FOUND = 404


def off() -> bool:
    """Say whether the user has switched the cloud off."""
    return os.environ.get("OLLAMA_NO_CLOUD", "").lower() in ("1", "true", "yes")


class Lines:
    """An answer of many JSON lines, or of one when the caller does not want a stream."""

    def __init__(self, request: web.Request, *, stream: bool) -> None:
        self.request, self.stream = request, stream
        self.response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})

    async def emit(self, **line: object) -> None:
        """Send one line."""
        if not self.stream:
            return
        if not self.response.prepared:
            await self.response.prepare(self.request)
        await self.response.write(json.dumps(line).encode() + b"\n")

    async def finish(self, **last: object) -> web.StreamResponse:
        """Send the last line, or the only one."""
        if not self.stream:
            return web.json_response(last, status=500 if "error" in last else 200)
        await self.emit(**last)
        await self.response.write_eof()
        return self.response


class Service:
    """The API's handlers."""

    def __init__(self) -> None:
        self.cloud, self.runner = Cloud(off=off()), Runner()
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self, _: web.Application) -> None:
        """Phone home, as the original does when it starts."""
        self.tasks = [asyncio.create_task(self.cloud.refresh()), asyncio.create_task(self.cloud.hydrate())]

    async def stop(self, _: web.Application) -> None:
        """Let go of everything."""
        for task in self.tasks:
            task.cancel()
        await self.runner.close()
        await self.cloud.http.close()

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """POST /api/pull."""
        asked = await request.json()
        lines = Lines(request, stream=asked.get("stream", True))
        try:
            await pull(self.cloud.http, models.parse(asked.get("model") or asked["name"]), lines.emit)
        except (PullError, ValueError, aiohttp.ClientError) as error:
            say("pull failed", repr(error))
            return await lines.finish(error=str(error) or repr(error))
        return await lines.finish(status="success")

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """POST /api/generate and /api/chat."""
        raw = await request.read()
        asked, began = json.loads(raw), time.monotonic_ns()
        if models.is_cloud(asked["model"]):
            return await self.cloud.proxy(request, raw)
        weights = models.weights(asked["model"])
        if not weights:
            return web.json_response({"error": f"model '{asked['model']}' not found"}, status=NOT_FOUND)
        await self.runner.load(weights)
        loaded = time.monotonic_ns() - began
        return await self.answer(request, asked, {"load_duration": loaded, "total_duration": loaded})

    async def answer(
        self, request: web.Request, asked: dict[str, Any], durations: dict[str, int]
    ) -> web.StreamResponse:
        """Stream what the model says."""
        lines, words, timings = Lines(request, stream=asked.get("stream", True)), [], {}
        chat = request.path == "/api/chat"
        async for part in self.runner.complete(prompt(asked), asked.get("options") or {}):
            timings = part.get("timings", timings)
            words.append(part.get("content", ""))
            await lines.emit(**piece(asked["model"], words[-1], chat=chat), done=False)
        text = "" if lines.stream else "".join(words)
        tokens = {
            "prompt_eval_count": timings.get("prompt_n", 0),
            "eval_count": timings.get("predicted_n", 0),
        }
        last = {**piece(asked["model"], text, chat=chat), **durations, **tokens}
        return await lines.finish(**last, done=True, done_reason="stop")

    async def openai(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/…: handed through to the child, or to the cloud."""
        raw = await request.read()
        model = json.loads(raw)["model"]
        if models.is_cloud(model):
            return await self.cloud.proxy(request, raw)
        weights = models.weights(model)
        if not weights:
            return web.json_response({"error": {"message": "model not found"}}, status=NOT_FOUND)
        await self.runner.load(weights)
        headers = {"Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.runner.port}{request.path}"
        async with self.runner.http.post(url, data=raw, headers=headers) as response:
            out = await copy(request, response)
        self.runner.rest()
        return out

    async def search(self, request: web.Request) -> web.StreamResponse:
        """Web search: the query leaves the machine, with a local model too."""
        if self.cloud.off:
            return web.json_response({"error": "ollama cloud is disabled"}, status=403)
        path = request.path.replace("/experimental", "")
        return web.json_response(await self.cloud.call("POST", path, await request.json()))

    async def running(self, _: web.Request) -> web.StreamResponse:
        """GET /api/ps."""
        name = {"name": "gemma3:270m", "model": "gemma3:270m", "size_vram": 0}
        return web.json_response({"models": [name] if self.runner.loaded else []})


def prompt(asked: dict[str, Any]) -> str:
    """Return the text that the model is to continue."""
    if "messages" not in asked:
        return str(asked.get("prompt", ""))
    said = [f"{message['role']}: {message['content']}" for message in asked["messages"]]
    return "\n".join([*said, "assistant:"])


def piece(model: str, text: str, *, chat: bool) -> dict[str, object]:
    """Return one piece of an answer."""
    content = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
    return {"model": model, "created_at": datetime.now(UTC).isoformat(), **content}


def application(service: Service) -> web.Application:
    """Return the routes."""

    def constant(value: dict[str, object]) -> Any:  # noqa: ANN401 - a handler
        async def handler(_: web.Request) -> web.Response:
            return web.json_response(value)

        return handler

    async def tags(_: web.Request) -> web.Response:
        return web.json_response({"models": models.pulled()})

    app = web.Application(client_max_size=BODY_MAX)
    app.on_startup.append(service.start)
    app.on_cleanup.append(service.stop)
    disabled = {"disabled": service.cloud.off, "source": "env" if service.cloud.off else "none"}
    add = app.router.add_route
    add("GET", "/api/version", constant({"version": VERSION}))
    add("GET", "/api/status", constant({"cloud": disabled}))
    add("GET", "/api/tags", tags)
    add("GET", "/api/ps", service.running)
    add("POST", "/api/pull", service.pull)
    for path in ("/api/generate", "/api/chat"):
        add("POST", path, service.infer)
    for path in ("/v1/chat/completions", "/v1/completions"):
        add("POST", path, service.openai)
    for path in ("/api/experimental/web_search", "/api/experimental/web_fetch"):
        add("POST", path, service.search)
    return app


async def serve() -> None:
    """Serve until SIGTERM or SIGINT."""
    runner = web.AppRunner(application(Service()), access_log=None)
    await runner.setup()
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1").partition(":")
    await web.TCPSite(runner, host, int(port or PORT)).start()
    print("listening", host, port or PORT, flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_NAME, b"ollama", 0, 0, 0)
    asyncio.run(serve())
