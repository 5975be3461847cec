"""The llama-server child that does the inference, on a port of loopback that nobody else knows."""

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.world.miniature.standin.cloud import say

LOOPBACK = "127.0.0.1"
PR_SET_PDEATHSIG = 1  # prctl(2)
KEEP_ALIVE_S = float(os.environ.get("OLLAMA_KEEP_ALIVE", "300"))
FLAGS = ["--host", LOOPBACK, "--no-webui", "--offline", "-c", "2048", "-np", "1"]


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class RunnerError(Exception):
    """The child did not come up."""


class Runner:
    """At most one child, with one model."""

    def __init__(self) -> None:
        # like llm/llama_server.go: a new connection for each request to the child
        connector = aiohttp.TCPConnector(force_close=True)
        self.http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        self.child: asyncio.subprocess.Process | None = None
        self.model: Path | None = None
        self.port, self.lock = 0, asyncio.Lock()
        self.expiry: asyncio.TimerHandle | None = None

    @property
    def loaded(self) -> bool:
        """Say whether there is a child that lives."""
        return self.child is not None and self.child.returncode is None

    async def load(self, model: Path) -> None:
        """Have MODEL loaded; raises RunnerError."""
        async with self.lock:
            if self.expiry:
                self.expiry.cancel()
            if self.loaded and self.model == model:
                return
            await self.unload()
            with socket.socket() as free:
                free.bind((LOOPBACK, 0))
                self.port = free.getsockname()[1]
            await self.start(model)

    async def start(self, model: Path) -> None:
        """Start the child and wait until it is listening."""
        command = [
            sys.executable,
            "-m",
            "tests.world.miniature.llama_server",
            "-m",
            str(model),
            "--port",
            str(self.port),
        ]
        self.child = await asyncio.create_subprocess_exec(
            *command, *FLAGS, stdout=asyncio.subprocess.PIPE, preexec_fn=die_with_parent
        )
        self.model = model
        assert self.child.stdout is not None
        while b"listening" not in (line := await self.child.stdout.readline()):
            if not line:
                raise RunnerError("llama runner process has terminated")
        say("llama-server child", self.child.pid, "on", self.port)

    async def unload(self) -> None:
        """End the child."""
        if self.child and self.loaded:
            self.child.terminate()
            await self.child.wait()
        self.child = self.model = None

    def rest(self) -> None:
        """Unload after a time without requests."""
        loop = asyncio.get_running_loop()
        self.expiry = loop.call_later(KEEP_ALIVE_S, lambda: loop.create_task(self.unload()))

    async def complete(self, prompt: str, options: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield what the child says to PROMPT: {"content", …, "timings" in the last}."""
        asked = {
            "prompt": prompt,
            "n_predict": min(int(options.get("num_predict", 64)), 1024),
            "temperature": options.get("temperature", 0.8),
            "stream": True,
        }
        async with self.http.post(f"http://{LOOPBACK}:{self.port}/completion", json=asked) as response:
            async for line in response.content:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))
        self.rest()

    async def close(self) -> None:
        """End the child and close the connections to it."""
        await self.unload()
        await self.http.close()
