"""ollama.com, registry.ollama.ai and its blob host, as far as `ollama serve` 0.33 asks them something."""

import asyncio
import hashlib
import json
from datetime import UTC, datetime

from aiohttp import web

from tests.world.miniature.bodies import Source, content, count, data, length, record
from tests.world.miniature.layout import MODEL

BLOB_HOST = "dd20bb891979d25aebc8bec07b2b3bbc.r2.cloudflarestorage.com"
CLOUD_MODELS = (
    "gpt-oss:120b",
    "qwen3-coder:480b",
    "deepseek-v3.1:671b",
    "glm-5",
    "kimi-k2.5",
    "minimax-m2",
)
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
LAYER_TYPE = "application/vnd.ollama.image."
CONFIG = {"model_format": "gguf", "model_family": "gemma3", "model_type": "268.10M", "file_type": "Q4_K_M"}
ANSWER_WORDS = 12
NOT_FOUND = 404

blobs: dict[str, Source] = {}


def digest(source: Source) -> str:
    """Return the SHA-256 of SOURCE in hex."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def layer(source: Source, kind: str) -> dict[str, object]:
    """Keep SOURCE as a blob and return its descriptor (OCI image spec, descriptor)."""
    name = digest(source)
    blobs[name] = source
    return {"mediaType": kind, "digest": f"sha256:{name}", "size": length(source)}


def manifest() -> bytes:
    """Return the manifest of the one model there is."""
    layers = [
        layer(MODEL, LAYER_TYPE + "model"),
        layer(b"{{ .Prompt }}", LAYER_TYPE + "template"),
        layer(b'{"temperature":0}', LAYER_TYPE + "params"),
    ]
    config = layer(json.dumps(CONFIG).encode(), "application/vnd.docker.container.image.v1+json")
    parts = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}
    return json.dumps(parts).encode()


MANIFEST = manifest()


async def ollama_com(request: web.Request, body: bytes) -> web.StreamResponse:
    """Play https://ollama.com."""
    answers: dict[str, object] = {
        "/api/experimental/model-recommendations": {
            "recommendations": [{"model": "gemma3:270m", "description": "tiny"}]
        },
        "/api/tags": {"models": [{"name": name, "model": name} for name in CLOUD_MODELS]},
        "/api/show": {"model_info": {"general.architecture": "cloud"}, "capabilities": ["completion"]},
        "/api/me": {"id": "0" * 8, "name": "nobody", "email": "nobody@v4only.example", "plan": "free"},
        "/api/web_search": {"results": []},
        "/api/web_fetch": {"results": []},
    }
    if request.path in answers:
        return record(request, answers[request.path])
    if request.path in ("/api/chat", "/api/generate"):
        return await inference(request, json.loads(body or b"{}"))
    return record(request, {"error": "not found"}, NOT_FOUND)


async def inference(request: web.Request, asked: dict[str, object]) -> web.StreamResponse:
    """Stream an answer word by word, as a cloud model would."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    for number in range(ANSWER_WORDS):
        last = number == ANSWER_WORDS - 1
        word = "" if last else f"cloud{number} "
        text: dict[str, object] = {"response": word}
        if request.path.endswith("chat"):
            text = {"message": {"role": "assistant", "content": word}}
        created = datetime.now(UTC).isoformat()
        part = {"model": asked.get("model"), "created_at": created, "done": last, **text}
        line = json.dumps(part | ({"done_reason": "stop"} if last else {})).encode() + b"\n"
        await response.write(line)
        count(request, len(line))
        await asyncio.sleep(0.02)  # a model thinks between words
    await response.write_eof()
    return response


async def registry(request: web.Request, _: bytes) -> web.StreamResponse:
    """Play https://registry.ollama.ai: manifests, and a redirect to the blob host for each layer."""
    match request.path.strip("/").split("/"):
        case ["v2", _, "gemma3", "manifests", _]:
            return data(request, MANIFEST, headers={"Content-Type": MANIFEST_TYPE})
        case ["v2", _, _, "blobs", name] if (known := name.removeprefix("sha256:")) in blobs:
            path = f"/ollama/docker/registry/v2/blobs/sha256/{known[:2]}/{known}/data?X-Amz-Expires=1200"
            return web.Response(status=307, headers={"Location": f"https://{BLOB_HOST}{path}"})
    return record(request, {"errors": [{"code": "MANIFEST_UNKNOWN"}]}, NOT_FOUND)


async def blob_host(request: web.Request, _: bytes) -> web.StreamResponse:
    """Play the object store that holds the layers: ranged GETs."""
    name = request.path.rstrip("/").split("/")[-2]
    if name not in blobs:
        return record(request, {"error": "NoSuchKey"}, NOT_FOUND)
    return await content(request, blobs[name])


SITES = {"ollama.com": ollama_com, "registry.ollama.ai": registry, BLOB_HOST: blob_host}
