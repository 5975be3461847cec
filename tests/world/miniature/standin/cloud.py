"""What the stand-in sends out without having been asked to, and what it sends to a cloud model."""

import asyncio
import base64
import json
import os
import random
import socket
import sys
import time
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.abc import ResolveResult
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

CLOUD = "https://ollama.com:443"
VERSION = "0.33.0"
AGENT = f"ollama/{VERSION} (amd64 linux) Go/go1.26.0"
IDLE_S = 90
REFRESH_S = float(os.environ.get("STANDIN_REFRESH_S", "14400"))
PROBE_PORT = int(os.environ.get("STANDIN_PROBE_PORT", "53"))  # 9 in Go before 1.27
WORKERS = 4
OPENSSH = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH


def say(*words: object) -> None:
    """Write to the operational log."""
    print(*words, file=sys.stderr, flush=True)


class GoResolver(aiohttp.ThreadedResolver):
    """getaddrinfo, then what Go does to sort addresses: a UDP connect() to each, and no packet."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve HOST."""
        found = await super().resolve(host, port, family)
        for address in found if len(found) > 1 else []:
            with socket.socket(address["family"], socket.SOCK_DGRAM) as probe:
                probe.connect((address["host"], PROBE_PORT))
        return found


class Cloud:
    """The shared pool of connections, and the key that signs what goes over it."""

    def __init__(self, *, off: bool) -> None:
        self.off, self.key = off, Ed25519PrivateKey.generate()
        public = self.key.public_key().public_bytes(*OPENSSH).decode()
        self.public = public.split()[1]
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S, resolver=GoResolver())
        limits = aiohttp.ClientTimeout(total=None, sock_connect=30)
        headers = {"User-Agent": AGENT}
        self.http = aiohttp.ClientSession(connector=connector, timeout=limits, headers=headers)

    def signed(self, method: str, path: str) -> tuple[str, dict[str, str]]:
        """Return URL and headers for a call in the machine's name."""
        uri = f"{path}?ts={int(time.time())}"
        signature = base64.b64encode(self.key.sign(f"{method},{uri}".encode())).decode()
        return CLOUD + uri, {"Authorization": f"{self.public}:{signature}", "Accept": "application/json"}

    async def call(self, method: str, path: str, payload: object = None) -> Any:  # noqa: ANN401 - JSON
        """Call ollama.com and return its JSON."""
        url, headers = self.signed(method, path)
        limit = aiohttp.ClientTimeout(total=10)
        async with self.http.request(method, url, headers=headers, json=payload, timeout=limit) as response:
            response.raise_for_status()
            return await response.json()

    async def refresh(self) -> None:
        """Ask for recommendations now and every four hours, give or take a fifth."""
        while not self.off:
            try:
                await self.call("GET", "/api/experimental/model-recommendations")
                say("model recommendations refreshed")
            except (aiohttp.ClientError, TimeoutError) as error:
                say("WARN model recommendations refresh failed", repr(error))
            await asyncio.sleep(REFRESH_S * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    async def hydrate(self) -> None:
        """Ask about every cloud model, by four workers."""
        if self.off:
            return
        try:
            models = [entry["model"] for entry in (await self.call("GET", "/api/tags"))["models"]]
            left = iter(models)
            await asyncio.gather(*(self.show_each(left) for _ in range(WORKERS)))
            say("cloud show cache hydrated:", len(models))
        except (aiohttp.ClientError, TimeoutError) as error:
            say("WARN show cache", repr(error))

    async def show_each(self, left: Any) -> None:  # noqa: ANN401 - an iterator that the workers share
        """Ask about the models that are left."""
        for model in left:
            await self.call("POST", "/api/show", {"model": model})

    async def proxy(self, request: web.Request, raw: bytes) -> web.StreamResponse:
        """Send a request, the prompt in it, to the cloud and stream the answer back."""
        if self.off:
            error = "ollama cloud is disabled: remote inference is unavailable"
            return web.json_response({"error": error}, status=403)
        asked = json.loads(raw)
        asked["model"] = asked["model"][:-6]
        url, headers = self.signed("POST", request.path)
        try:
            async with self.http.post(url, headers=headers, json=asked) as response:
                return await copy(request, response)
        except aiohttp.ClientError as error:
            return web.json_response({"error": str(error)}, status=502)


async def copy(request: web.Request, response: aiohttp.ClientResponse) -> web.StreamResponse:
    """Stream RESPONSE as the answer to REQUEST."""
    out = web.StreamResponse(status=response.status)
    out.content_type = response.content_type
    await out.prepare(request)
    async for piece in response.content.iter_any():
        await out.write(piece)
    await out.write_eof()
    return out
