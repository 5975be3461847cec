"""What of it was data: as the receiver has read it, however often it was sent, and without keep-alives."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import until
from tests.support.network import CLIENT4, PEER4, PEER6
from tests.support.proving import Prover

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Tattle
    from tests.support.network import Lab

MIB = 1 << 20


def off_by(lab: Lab, tattle: Tattle, comm: str, port: int) -> list[str]:
    """Say how far the data of a program is from what the receiver of a port has read."""
    counted = sum(row["payload_out"] for row in tattle.flows(comm))
    read = lab.peer.stats(port)["bytes_in"]
    return [] if counted == read else [f"{counted} counted, {read} read"]


@pytest.mark.parametrize("host", [PEER4, PEER6], ids=["ipv4", "ipv6"])
def test_data_is_what_the_receiver_read(lab: Lab, plain: Tattle, host: str) -> None:
    """A transfer both ways: no byte of headers, handshake or acknowledgement is among it."""
    port = lab.peer.serve(host=host)
    program, _ = lab.run("tcp.py", op="transfer", host=host, port=port, up=3 * MIB, down=2 * MIB)
    until(lambda: off_by(lab, plain, program.name, port))


def test_data_by_mptcp_is_no_less_than_what_the_receiver_read(lab: Lab, plain: Tattle) -> None:
    """Nor more than the segments carried: what it sends on a second connection, too, counts on both."""
    port = lab.peer.serve("mptcp")
    program, _ = lab.run("tcp.py", op="transfer", host=PEER4, port=port, up=3 * MIB, mptcp=True)
    lab.drained(port, 3 * MIB)
    read = lab.peer.stats(port)["bytes_in"]

    def look() -> list[str]:
        rows = plain.flows(program.name)
        counted = sum(row["payload_out"] for row in rows)
        most = sum(row["bytes_out"] - 40 * row["packets_out"] for row in rows)
        return [] if read <= counted <= most else [f"{counted} counted, {read} read, {most} at most"]

    until(look)


def test_what_is_sent_again_is_the_same_data(lab: Lab, plain: Tattle) -> None:
    """One segment of ten is lost on its way: bytes are those of the wire, data is counted once."""
    port = lab.peer.serve()
    lab.lose(port, 10)
    program, _ = lab.run("tcp.py", op="transfer", host=PEER4, port=port, up=MIB)
    until(lambda: off_by(lab, plain, program.name, port))
    (flow,) = plain.flows(program.name)
    assert flow["bytes_out"] > flow["payload_out"] + 60 * flow["packets_out"]


@pytest.mark.parametrize("op", ["connected", "unconnected"])
def test_data_of_datagrams_is_what_they_carry(lab: Lab, plain: Tattle, op: str) -> None:
    """By UDP, connected or not."""
    port = lab.peer.serve("udp")
    program, _ = lab.run("udp.py", op=op, host=PEER4, port=port, count=123, datagram=333)
    until(lambda: off_by(lab, plain, program.name, port))


def test_keep_alives_are_no_data_and_are_named(lab: Lab, scratch: Path) -> None:
    """On a connection that was open before: bytes left, and the reasons say that none of it was data."""
    prover = Prover(lab, scratch, f"nobody{os.getpid()}")
    cgroup = lab.cgroup(f"lab-{lab.token}/{lab.name('keep')}")
    port = lab.peer.serve()
    holder = lab.start("keep.py", cgroup=cgroup, host=PEER4, port=port)
    holder.ready()
    target = ("--target", f"cgroup:{lab.cgroup_path(cgroup)}")
    proof = prover.run("sleep", "3", options=target)
    (flow,) = proof.flows(remote_port=port)
    assert flow["bytes_out"] >= 52
    assert (flow["payload_out"], flow["attempts"], flow["established"]) == (0, 0, 0)
    assert proof.report["keep_alives"]["bytes_out"] == flow["bytes_out"]
    assert any("keep-alives and ACKs without data" in reason for reason in proof.report["reasons"])
    assert CLIENT4 in {one["local_addr"] for one in proof.report["preexisting_sockets"]}
    process, report = prover.start("sh", "-c", "echo; read _", options=target, stdin=-1)
    assert process.stdout is not None
    process.stdout.readline()
    holder.go("777")
    holder.ready()
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    proof = prover.end(process, report)
    (flow,) = proof.flows(remote_port=port)
    assert (flow["payload_out"], proof.report["keep_alives"]["flows"]) == (777, 0)
