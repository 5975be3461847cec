"""What strangers send, and what other programs of the host do, fills no table and spoils no proof."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.daemon import until
from tests.support.network import CLIENT4, PEER4
from tests.support.packet_counters import enter
from tests.support.proving import Prover

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Tattle
    from tests.support.network import Lab

PROBES = 3000
SCAN = f"""
import json, socket
refused = 0
for port in range(20000, 20000 + {PROBES}):
    with socket.socket() as sock:
        try:
            sock.connect(("{CLIENT4}", port))
        except ConnectionRefusedError:
            refused += 1
print(json.dumps(refused))
"""
TALK = """
import socket
for number in range(1500):
    with socket.create_connection(({host!r}, {port})) as sock:
        sock.sendall(b"%d: no hello, no request" % number)
"""


def scanned(lab: Lab) -> int:
    """Scan the host from outside; returns how often the kernel has refused."""
    prepare = lambda: enter(lab.peer_ns.fd)  # noqa: E731 - a hook of subprocess
    command = [sys.executable, "-c", SCAN]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, preexec_fn=prepare)
    refused: int = json.loads(done.stdout)
    return refused


def test_a_port_scan_is_one_row_and_no_line(lab: Lab, plain: Tattle) -> None:
    """Resets that the kernel sends by itself: all of them counted in one sum, none of them in the log."""
    before = sums(plain)
    plain.mark()
    refused = scanned(lab)
    assert refused == PROBES
    until(lambda: [] if sums(plain) - before == refused else [f"{sums(plain) - before} of {refused}"])
    (row,) = [one for one in plain.read()["flows"] if is_sum(one)]
    assert (row["proto"], row["scope"], row["payload_out"]) == ("tcp", "internet", 0)
    assert len([one for one in plain.read()["flows"] if one["pid"] is None]) < PROBES // 100
    assert not [one for one in plain.events() if one["remote_addr"] == PEER4 and one["pid"] is None]


def is_sum(row: dict[str, object]) -> bool:
    """Tell the row of what the kernel has sent by itself to the internet by TCP."""
    return (row["remote_addr"], row["scope"], row["proto"], row["pid"]) == (None, "internet", "tcp", None)


def sums(tattle: Tattle) -> int:
    """Return how many packets it has sent so."""
    return sum(row["packets_out"] for row in tattle.read()["flows"] if is_sum(row))


def test_neither_scans_nor_short_connections_of_others_spoil_a_proof(lab: Lab, scratch: Path) -> None:
    """3,000 refused probes and 1,500 connections of another program, all in the window: no-egress."""
    prover = Prover(lab, scratch, f"nobody{os.getpid()}")
    process, report = prover.start("sh", "-c", "echo; read _", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    port = lab.peer.serve("sink")
    command = [sys.executable, "-c", TALK.format(host=PEER4, port=port)]
    prepare = lambda: enter(lab.client.fd)  # noqa: E731 - a hook of subprocess
    subprocess.run(command, check=True, preexec_fn=prepare)
    assert scanned(lab) == PROBES
    process.stdin.write("\n")
    process.stdin.flush()
    proof = prover.end(process, report)
    assert (proof.code, proof.verdict) == (0, "no-egress"), proof.report["reasons"]
