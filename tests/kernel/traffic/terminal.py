"""A user's terminal: starts a program in the ways that people do, and another one beside it."""

import os
import subprocess
from pathlib import Path
from typing import Any

from common import Outcome, main

SEND = """
import os, socket, sys
host, port, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if way == "child":
    sys.exit(os.spawnv(os.P_WAIT, "/proc/self/exe", ["another", "-c", {code!r}, host, str(port), ""]))
if way == "other":
    os.execv("/usr/bin/python3", ["python3", "-c", {code!r}, host, str(port), ""])
if way == "daemon" and (os.fork() or os.setsid() and os.fork()):
    os._exit(0)
"""
TRY = """
import errno, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
found = []
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(5)
        try:
            sock.sendto(b"x", (host, port)) if kind == socket.SOCK_DGRAM else sock.connect((host, port))
            found.append("through")
        except OSError as error:
            found.append(errno.errorcode[error.errno] if error.errno else "timeout")
print(*found, flush=True)
"""
CODE = SEND.replace("{code!r}", repr(TRY)) + TRY


def _script(directory: Path, name: str) -> Path:
    path = directory / name
    path.write_text(f"#!/usr/bin/python3\n{CODE}")
    path.chmod(0o755)
    return path


def ways(a: dict[str, Any]) -> list[list[str]]:
    """Return the commands by which a program is started; its arguments follow."""
    program, script = a["program"], _script(Path(a["program"]).parent, a["script"])
    end = [a["host"], str(a["port"])]
    return [
        [program, "-c", CODE, *end, ""],
        [program, "-c", CODE, *end, "child"],
        [program, "-c", CODE, *end, "other"],
        [program, "-c", CODE, *end, "daemon"],
        ["nohup", program, "-c", CODE, *end, "daemon"],
        ["setsid", program, "-c", CODE, *end, "other"],
        ["sh", "-c", 'exec "$0" "$@"', program, "-c", CODE, *end, "child"],
        ["sh", "-c", '"$0" "$@" & wait', program, "-c", CODE, *end, "daemon"],
        [str(script), *end, ""],
        [str(script), *end, "daemon"],
        ["/usr/bin/python3", str(script), *end, "child"],
        ["/usr/bin/python3", "-E", "-W", "ignore", str(script), *end, "other"],
    ]


def _said(command: list[str]) -> str:
    """Run a command to the end of all that it has started: until nothing holds its output open."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() or done.stderr.strip()[-300:]


def rounds(outcome: Outcome, a: dict[str, Any]) -> None:
    """Start the program and a bystander, in turn; say what each could do."""
    started = ways(a)
    bystander = ["/usr/bin/python3", "-c", CODE, a["host"], str(a["other_port"]), ""]
    members, others = [], []
    for number in range(a["rounds"]):
        members.append([number % len(started), _said(started[number % len(started)])])
        others.append(_said(bystander))
    outcome.extra = {"members": members, "others": others}


if __name__ == "__main__":
    os.chdir("/")
    main({"rounds": rounds})
