"""How the sites of the miniature internet answer: JSON, bytes, files with ranges."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

Source = bytes | Path
Site = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
CHUNK = 1 << 18


def count(request: web.Request, sent: int) -> None:
    """Note that SENT bytes of body went out for REQUEST; internet.py writes the sum into its log."""
    request["sent"] = request.get("sent", 0) + sent


def data(
    request: web.Request, body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Answer with BODY; to HEAD with its length alone."""
    length = {"Content-Length": str(len(body))} if request.method == "HEAD" else {}
    count(request, 0 if length else len(body))
    return web.Response(body=None if length else body, status=status, headers={**length, **(headers or {})})


def record(
    request: web.Request, value: object, status: int = 200, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Answer with VALUE as JSON."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    return data(request, json.dumps(value).encode(), status, headers)


def length(source: Source) -> int:
    """Return the size of SOURCE in bytes."""
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def asked_range(request: web.Request, size: int) -> tuple[int, int, int]:
    """Return (first byte, number of bytes, status) that REQUEST asks for (RFC 9110, 14.2)."""
    header = request.headers.get("Range", "")
    if not header.startswith("bytes="):
        return 0, size, 200
    first, _, last = header.removeprefix("bytes=").partition("-")
    end = min(int(last), size - 1) if last else size - 1
    return int(first), end - int(first) + 1, 206


async def content(request: web.Request, source: Source) -> web.StreamResponse:
    """Answer with SOURCE or the range of it that was asked for."""
    size = length(source)
    first, wanted, status = asked_range(request, size)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(wanted),
        "Content-Type": "application/octet-stream",
    }
    if status == 206:
        headers["Content-Range"] = f"bytes {first}-{first + wanted - 1}/{size}"
    response = web.StreamResponse(status=status, headers=headers)
    await response.prepare(request)
    if request.method != "HEAD":
        await send(request, response, source, first, wanted)
    return response


async def send(
    request: web.Request, response: web.StreamResponse, source: Source, first: int, wanted: int
) -> None:
    """Write WANTED bytes of SOURCE from FIRST on."""
    if isinstance(source, bytes):
        await response.write(source[first : first + wanted])
        count(request, wanted)
    else:
        with source.open("rb") as file:
            file.seek(first)
            while wanted:
                piece = file.read(min(CHUNK, wanted))
                await response.write(piece)
                count(request, len(piece))
                wanted -= len(piece)
    await response.write_eof()
