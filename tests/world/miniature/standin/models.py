"""Model names, and the files that a pulled model consists of."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

CLOUD_SUFFIXES = ("-cloud", ":cloud")


class Name(NamedTuple):
    """A model's name, complete."""

    host: str
    owner: str
    model: str
    tag: str

    @property
    def url(self) -> str:
        """Return the registry's URL of it."""
        return f"https://{self.host}/v2/{self.owner}/{self.model}"

    @property
    def manifest(self) -> Path:
        """Return where its manifest is kept."""
        return directory() / "manifests" / self.host / self.owner / self.model / self.tag


def directory() -> Path:
    """Return the directory of models, as OLLAMA_MODELS or the world says."""
    return Path(os.environ.get("OLLAMA_MODELS") or Path(os.environ["WORLD_STATE"]) / "models")


def parse(text: str) -> Name:
    """Complete `[host/][owner/]model[:tag]`; raises ValueError when a part would leave the directory."""
    *before, last = text.split("/")
    model, _, tag = last.partition(":")
    host, owner = [*("registry.ollama.ai", "library")[: 2 - len(before)], *before][-2:]
    name = Name(host, owner, model, tag or "latest")
    if any(part in ("", ".", "..") for part in name):
        raise ValueError(f"invalid model name {text!r}")
    return name


def is_cloud(model: str) -> bool:
    """Say whether MODEL is run on somebody else's computer."""
    return model.endswith(CLOUD_SUFFIXES)


def blob(digest: str) -> Path:
    """Return where the layer with DIGEST is kept."""
    return directory() / "blobs" / digest.replace(":", "-")


def weights(text: str) -> Path | None:
    """Return the file of the pulled model TEXT, None when it was not pulled."""
    manifest = parse(text).manifest
    if not manifest.exists():
        return None
    layers = json.loads(manifest.read_bytes())["layers"]
    return next(blob(layer["digest"]) for layer in layers if layer["mediaType"].endswith(".model"))


def pulled() -> list[dict[str, Any]]:
    """Return what /api/tags lists."""
    found = []
    for manifest in sorted(directory().glob("manifests/*/*/*/*")):
        raw, name = manifest.read_bytes(), f"{manifest.parent.name}:{manifest.name}"
        size = sum(layer["size"] for layer in json.loads(raw)["layers"])
        digest = hashlib.sha256(raw).hexdigest()
        found.append(
            {"name": name, "model": name, "size": size, "digest": digest, "details": {"format": "gguf"}}
        )
    return found
