"""huggingface.co and its CDN with one repository, vLLM's usage statistics, and two plain hosts."""

import hashlib
from pathlib import Path

from aiohttp import web

from tests.world.miniature.bodies import Source, content, data, length, record
from tests.world.miniature.layout import MODEL
from tests.world.miniature.ollama_sites import digest

CDN = "cdn-lfs.hf.co"
REPOSITORY = "world/tiny-gguf"
COMMIT = "a" * 40
FILES: dict[str, Source] = {
    MODEL.name: MODEL,
    "config.json": b'{"model_type":"gemma3"}',
    "README.md": b"# world/tiny-gguf\n",
}
MODEL_DIGEST = digest(MODEL)
NOT_FOUND = 404


def tree_entry(name: str, source: Source) -> dict[str, object]:
    """Describe one file as the hub's tree API does; a file that is large is in LFS."""
    entry: dict[str, object] = {
        "type": "file",
        "path": name,
        "oid": blob_id(name.encode()),
        "size": length(source),
    }
    if isinstance(source, Path):
        entry["lfs"] = {"oid": MODEL_DIGEST, "size": length(source), "pointerSize": 134}
    return entry


def blob_id(content_: bytes) -> str:
    """Return an identifier of the shape that git uses."""
    return hashlib.sha1(content_, usedforsecurity=False).hexdigest()


def model_info() -> dict[str, object]:
    """Return what the hub says about the repository."""
    return {
        "_id": "0" * 24,
        "id": REPOSITORY,
        "modelId": REPOSITORY,
        "sha": COMMIT,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": ["gguf"],
        "siblings": [{"rfilename": name} for name in FILES],
        "createdAt": "2026-01-01T00:00:00.000Z",
        "lastModified": "2026-01-01T00:00:00.000Z",
    }


def resolved(request: web.Request, name: str) -> web.StreamResponse:
    """Answer for one file: small ones at once, the model by a redirect to the CDN."""
    source = FILES[name]
    common = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
    if isinstance(source, bytes):
        return data(request, source, headers={**common, "ETag": f'"{blob_id(source)}"'})
    etag = f'"{MODEL_DIGEST}"'
    linked = {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(length(source))}
    location = f"https://{CDN}/repos/world/{MODEL_DIGEST}?file={name}"
    return web.Response(status=302, headers={**common, **linked, "Location": location})


async def hub(request: web.Request, _: bytes) -> web.StreamResponse:
    """Play https://huggingface.co."""
    api, path = f"/api/models/{REPOSITORY}", request.path
    if path.startswith("/api/telemetry"):
        return record(request, {})
    if path == f"{api}/refs":
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}
        return record(request, {"branches": [main], "tags": [], "converts": []})
    if path.startswith(f"{api}/tree/"):
        return record(request, [tree_entry(name, source) for name, source in FILES.items()])
    if path in (api, f"{api}/revision/main"):
        return record(request, model_info())
    _, found, rest = path.partition(f"/{REPOSITORY}/resolve/")
    if found and (name := rest.partition("/")[2]) in FILES:
        return resolved(request, name)
    return record(request, {"error": "Repository not found"}, NOT_FOUND, {"X-Error-Code": "RepoNotFound"})


async def cdn(request: web.Request, _: bytes) -> web.StreamResponse:
    """Play the CDN that the hub redirects to."""
    if MODEL_DIGEST not in request.path:
        return record(request, {"error": "AccessDenied"}, 403)
    return await content(request, MODEL)


async def plain(request: web.Request, body: bytes) -> web.StreamResponse:
    """Answer anything; `/bytes/N` with N bytes."""
    _, sized, number = request.path.partition("/bytes/")
    if sized:
        return await content(request, bytes(int(number)))
    return record(request, {"host": request.host, "received": len(body)})


SITES = {
    "huggingface.co": hub,
    CDN: cdn,
    "stats.vllm.ai": plain,
    "v4only.example": plain,
    "v6only.example": plain,
}
