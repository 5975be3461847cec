"""Run inside the guest: say what this kernel does with the project, as one line of JSON."""

import json
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

from guest_block import check_block
from guest_daemon import check_daemon
from guest_object import check_object

STEPS: dict[str, Callable[[], dict[str, Any]]] = {
    "object": check_object,
    "daemon": check_daemon,
    "block": check_block,
}


def main() -> None:
    """Take each step and print all results; a step that fails does not hide the next one's."""
    results: dict[str, Any] = {"kernel": os.uname().release, "boot_seconds": time.monotonic()}
    for name, step in STEPS.items():
        started = time.monotonic()
        try:
            results[name] = step()
        except Exception:  # noqa: BLE001 - the host must see whatever went wrong in here
            results[name] = {"error": traceback.format_exc()}
        results[name]["seconds"] = time.monotonic() - started
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
