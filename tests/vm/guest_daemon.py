"""Run the daemon in the guest, make flows, ask the commands, end it: everything by the command line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from guest_net import CONVERSATIONS, converse, make_network, run, start_server, wait_until
from guest_object import leftovers

TATTLE = (sys.executable, "-m", "tracer")
ENGINE = ("--engine", Path("/guest/engine").read_text())
CONTROL = Path("/run/tattle/control.sock")
PINS = Path("/sys/fs/bpf/tattle")
LOG = Path("/run/daemon.log")


def check_daemon() -> dict[str, Any]:
    """Give the truth of the wire, `flows`, `status`, and what was left after the daemon's end."""
    make_network()
    before = leftovers()
    with LOG.open("w") as log:
        daemon = subprocess.Popen([*TATTLE, "run", *ENGINE], stdout=log, stderr=log)
    try:
        wait_until(lambda: CONTROL.exists() or daemon.poll() is not None, f"{CONTROL}")
        if daemon.poll() is not None:
            return {"error": f"daemon ended with {daemon.returncode}: {LOG.read_text()[-4000:]}"}
        observed = _observe()
    except Exception as error:
        error.add_note(LOG.read_text()[-4000:])
        raise
    finally:
        daemon.send_signal(signal.SIGTERM)
        status = daemon.wait(60)
    wait_until(lambda: leftovers() == before, f"programs and links gone: {leftovers()}, before {before}")
    pins = sorted(str(path) for path in PINS.rglob("*")) if PINS.exists() else []
    return {**observed, "exit": status, "pins_left": pins, "log": LOG.read_text()[-4000:]}


def _observe() -> dict[str, Any]:
    # One processor for both ends: packets then pass the veth pair in the order in which the tap sees them.
    os.sched_setaffinity(0, {0})
    server = start_server()
    wire = {wish.kind: converse(wish) for wish in CONVERSATIONS}
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    flows, status = (json.loads(run(*TATTLE, command, "--json")) for command in ("flows", "status"))
    server.kill()
    server.wait()
    return {"wire": wire, "flows": flows, "status": status, "server": server.pid}
