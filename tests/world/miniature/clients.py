"""Real clients, one call each; the answer is printed as JSON. Run in the world, with the world's Python.

Each library is loaded by the command that needs it: together they take a second.

python -m tests.world.miniature.clients COMMAND:
pull MODEL | generate MODEL PROMPT | chat MODEL PROMPT | hub FILE | usage
"""

import json
import os
import sys
import urllib.request
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

MAX_TOKENS = 12
USAGE = {"uuid": "0" * 32, "provider": "UNKNOWN", "num_cpu": 2, "model_architecture": "Gemma3"}


def pull(model: str) -> object:
    """Pull MODEL with the `ollama` package; returns the last status."""
    *_, last = import_module("ollama").Client().pull(model, stream=True)
    return last.status


def generate(model: str, prompt: str) -> object:
    """Continue PROMPT."""
    options = {"num_predict": MAX_TOKENS, "temperature": 0}
    return import_module("ollama").Client().generate(model, prompt, options=options).response


def chat(model: str, prompt: str) -> object:
    """Say PROMPT to a cloud model or a local one; returns the answer's text."""
    message = {"role": "user", "content": prompt}
    parts = (
        import_module("ollama")
        .Client()
        .chat(model, [message], stream=True, options={"num_predict": MAX_TOKENS})
    )
    return "".join(part.message.content or "" for part in parts)


def hub(name: str) -> object:
    """Download a file with huggingface_hub; returns its size in bytes."""
    return Path(import_module("huggingface_hub").hf_hub_download("world/tiny-gguf", name)).stat().st_size


def usage() -> object:
    """Report like vLLM's usage statistics at start (not vLLM itself); returns the HTTP status."""
    body, headers = json.dumps(USAGE).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request("https://stats.vllm.ai", body, headers), timeout=10
    ) as answer:
        return answer.status


COMMANDS: dict[str, Callable[..., object]] = {
    "pull": pull,
    "generate": generate,
    "chat": chat,
    "hub": hub,
    "usage": usage,
}

if __name__ == "__main__":
    os.environ["HF_HUB_DISABLE_XET"] = "1"  # plain HTTPS
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
