"""Block a cgroup in the guest, with no daemon, try to get out of it, lift the block, try again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from guest_daemon import ENGINE, TATTLE
from guest_net import (
    ADDRESSES,
    CONVERSATIONS,
    PATIENCE_SECONDS,
    Tap,
    converse,
    run,
    start_server,
    wait_until,
    wait_until_closed,
)
from guest_object import leftovers

CGROUP = Path("/sys/fs/cgroup/vm-blocked")
SELECTOR = f"cgroup:/{CGROUP.name}"
INSIDE = ("busybox", "sh", "-c", f'echo $$ >{CGROUP}/cgroup.procs && exec "$@"', "inside")
PINS = Path("/sys/fs/bpf/tattle")


def check_block() -> dict[str, Any]:
    """Give what each way out said while blocked, in a cgroup made anew, and after unblock."""
    before = leftovers()
    server = start_server()
    CGROUP.mkdir()
    try:
        control = attempts()
        wait_until_closed()  # else what is half closed is blocked, and lingers
        held = Held()
        said = {"block": run(*TATTLE, "block", *ENGINE, SELECTOR)}
        blocked = {"blocked": attempts(), "held": held.end(), **_made_anew()}
        status = json.loads(run(*TATTLE, "status", "--json"))
        outside = converse(CONVERSATIONS[0])
        said["unblock"] = run(*TATTLE, "unblock", SELECTOR)
        lifted = attempts()
    finally:
        server.kill()
        server.wait()
    wait_until(lambda: leftovers() == before, "programs and links gone after unblock")
    pins = sorted(map(str, PINS.rglob("*"))) if PINS.exists() else []
    tried = {**blocked, "control": control, "lifted": lifted, "outside": outside["exit"]}
    return {**tried, "said": said, "status": status, "pins_left": pins}


def _made_anew() -> dict[str, Any]:
    """Remove the cgroup and make it again, as a service's restart does: it is the target still."""
    CGROUP.rmdir()
    CGROUP.mkdir()
    return {"anew": attempts()}


def attempts() -> dict[str, Any]:
    """Try every way out from inside the cgroup; `packets` is how many left towards the far side."""
    with Tap() as tap:
        tries = (*INSIDE, sys.executable, "/guest/guest_try.py", ADDRESSES[4][1], ADDRESSES[6][1])
        done = subprocess.run(tries, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
        if done.returncode:
            raise RuntimeError(f"{tries}: {done.stderr}")
        return {**json.loads(done.stdout), "packets": tap.leaving()}


HOLDER = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("up", flush=True)
try:
    print("data", connection.recv(9))
except OSError as error:
    print(error.errno)
"""


class Held:
    """A process in the cgroup that holds a connection made before the block, and waits in it."""

    def __init__(self) -> None:
        where = (ADDRESSES[4][1], str(CONVERSATIONS[0].port))
        command = [*INSIDE, sys.executable, "-c", HOLDER, *where]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "up\n"

    def end(self) -> str:
        """Give how the wait ended: an errno, or `waiting` when it did not."""
        try:
            said, _ = self._process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return "waiting"
        return said.strip()
