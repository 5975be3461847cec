"""Pulling a model: manifest, layers in parallel parts, check."""

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from tests.world.miniature.standin.models import Name, blob

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
PARTS = 16
PART_MIN = int(float(os.environ.get("STANDIN_PART_MB", "100")) * 1e6)
PART_MAX = 10**9
NOT_FOUND = 404
REDIRECT = 307
PROGRESS_S = 0.06
Emit = Callable[..., Awaitable[None]]


class PullError(Exception):
    """The model cannot be had."""


async def pull(http: aiohttp.ClientSession, name: Name, emit: Emit) -> None:
    """Fetch NAME and tell EMIT about it; raises PullError or aiohttp's errors."""
    await emit(status="pulling manifest")
    raw = await manifest(http, name)
    parts = json.loads(raw)
    digests = [layer["digest"] for layer in [*parts["layers"], parts["config"]]]
    for digest in digests:
        if not blob(digest).exists():
            await layer(http, f"{name.url}/blobs/{digest}", digest, emit)
    await emit(status="verifying sha256 digest")
    for digest in digests:
        if await asyncio.to_thread(sha256, blob(digest)) != digest:
            raise PullError("digest mismatch, file must be downloaded again")
    await emit(status="writing manifest")
    name.manifest.parent.mkdir(parents=True, exist_ok=True)
    name.manifest.write_bytes(raw)


async def manifest(http: aiohttp.ClientSession, name: Name) -> bytes:
    """Return the manifest of NAME."""
    url = f"{name.url}/manifests/{name.tag}"
    async with http.get(url, headers={"Accept": MANIFEST_TYPE}) as response:
        if response.status == NOT_FOUND:
            raise PullError("pull model manifest: file does not exist")
        response.raise_for_status()
        return await response.read()


async def layer(http: aiohttp.ClientSession, url: str, digest: str, emit: Emit) -> None:
    """Fetch one layer in up to 16 parts at once."""
    async with http.head(url, allow_redirects=True) as response:
        response.raise_for_status()
        total = int(response.headers["Content-Length"])
    async with http.get(url, allow_redirects=False) as response:
        direct = response.headers["Location"] if response.status == REDIRECT else url
    blob(digest).parent.mkdir(parents=True, exist_ok=True)
    partial = blob(digest).with_suffix(".partial")
    size = min(max(total // PARTS, PART_MIN), PART_MAX)
    done = [0]
    with partial.open("wb") as file:
        starts = range(0, total, size)
        parts = (fetch(http, direct, file.fileno(), (at, min(at + size, total)), done) for at in starts)
        fetching = asyncio.gather(*parts)
        while not fetching.done():
            await asyncio.wait([fetching], timeout=PROGRESS_S)
            await emit(status=f"pulling {digest[7:19]}", digest=digest, total=total, completed=done[0])
        await fetching
    partial.rename(blob(digest))


async def fetch(
    http: aiohttp.ClientSession, url: str, file: int, span: tuple[int, int], done: list[int]
) -> None:
    """Fetch the bytes SPAN[0] to SPAN[1] - 1 of URL into FILE."""
    at, end = span
    async with http.get(url, headers={"Range": f"bytes={at}-{end - 1}"}) as response:
        response.raise_for_status()
        async for piece in response.content.iter_chunked(1 << 18):
            os.pwrite(file, piece, at)
            at += len(piece)
            done[0] += len(piece)


def sha256(path: Path) -> str:
    """Return the digest of a file as manifests write it."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
