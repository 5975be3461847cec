"""Writes the dashboards beside itself (`make dashboards`); with --check it only says what is stale."""

from __future__ import annotations

import sys
from pathlib import Path

import fleet
import host
from grafana_foundation_sdk.cog.encoder import JSONEncoder

HERE = Path(__file__).parent


def texts() -> dict[str, str]:
    """Give what each file shall hold, keys sorted: a change shows where it is."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    models = {"host.json": host.model(), "fleet.json": fleet.model()}
    return {name: encoder.encode(model) + "\n" for name, model in models.items()}


def main(words: list[str]) -> int:
    """Write, or check; the exit code is 1 if a file is stale."""
    if words not in ([], ["--check"]):
        sys.stderr.write("generate.py: only --check is known\n  type: make dashboards\n")
        return 2
    stale = []
    for name, text in texts().items():
        file = HERE / name
        if file.exists() and file.read_text() == text:
            continue
        stale.append(name)
        if not words:
            file.write_text(text)
    if words and stale:
        sys.stderr.write(f"deploy/grafana: {', '.join(stale)} is not what the code makes\n")
        sys.stderr.write("  type: make dashboards\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
