"""What tattle promises of every kernel from 5.10 on, seen on Debian's own kernels."""

import errno
from typing import Any

import pytest

from tests.vm.guest_net import CONVERSATIONS, Conversation
from tests.vm.machine import Outcome
from tests.vm.table import attached, detached, difference, flow, wire_is_sound

KINDS = pytest.mark.parametrize("conversation", CONVERSATIONS, ids=[wish.kind for wish in CONVERSATIONS])
LEAST_HEADER, MOST_HEADER = 40, 100  # bytes of IP and TCP headers, without and with all options
WAYS = (
    *("tcp4", "tcp6", "tcp4-mapped", "udp4", "udp6", "udp4-connected", "udp6-connected", "raw4", "sctp"),
    *("loopback", "own4", "own6", "own4-datagram"),
)
NEVER_LEAVE = ("loopback", "own4", "own6", "own4-datagram")
HOOKS = {
    *(
        "connect4",
        "connect6",
        "sendmsg4",
        "sendmsg6",
        "post_bind4",
        "post_bind6",
        "sock_create",
        "sock_release",
    ),
    *("sockops", "ingress", "egress", "cgroup_mkdir", "cgroup_release"),
}


@pytest.fixture
def result(outcome: Outcome) -> dict[str, Any]:
    """Give what the guest said; where it said nothing, its console is the failure."""
    assert outcome.result is not None, f"no result after {outcome.seconds:.0f} s:\n{outcome.console[-2000:]}"
    return outcome.result


@pytest.fixture
def daemon(result: dict[str, Any]) -> dict[str, Any]:
    """Give what the daemon of this guest did."""
    assert "error" not in result["daemon"], result["daemon"]["error"]
    return result["daemon"]


def test_verifier_takes_every_program(result: dict[str, Any]) -> None:
    """Every program of the object passes this kernel's verifier, asked by a loader that is not ours."""
    loading = result["object"]
    assert "error" not in loading, loading["error"]
    words = "\n".join(f"{name}:\n  " + "\n  ".join(lines) for name, lines in loading["refused"].items())
    assert loading["loaded"], words or "\n".join(loading["said"])


def test_every_hook_is_attached(daemon: dict[str, Any]) -> None:
    """`status` says of each hook, by the kernel's word, that it is attached."""
    hooks = daemon["status"]["hooks"]
    assert {hook["hook"] for hook in hooks} >= HOOKS
    assert all(hook["attached"] for hook in hooks), attached(daemon)


@pytest.fixture
def block(result: dict[str, Any]) -> dict[str, Any]:
    """Give what blocking did in this guest."""
    assert "error" not in result["block"], result["block"]["error"]
    return result["block"]


@KINDS
def test_flow_is_what_the_wire_saw(daemon: dict[str, Any], conversation: Conversation) -> None:
    """A flow has the right process, and the bytes and packets that a tap on the device counted."""
    wire = daemon["wire"][conversation.kind]
    assert wire_is_sound(wire, conversation.kind), wire
    assert difference(daemon, conversation.kind) == {}
    assert flow(daemon, conversation.kind)["remote_port"] == conversation.port


def test_accepted_connections_belong_to_the_server(daemon: dict[str, Any]) -> None:
    """The far side has a flow `in` for each TCP connection, its handshake's packets included.

    Bare acknowledgments may be missing: the server closes first, so the last packets come from and go to its
    TIME_WAIT entry, which is no socket any more and passes no cgroup hook. The kernel makes that entry early,
    in FIN_WAIT2 (net/ipv4/tcp_input.c, tcp_rcv_state_process). Nothing that carries data is missing.
    """
    rows = [
        row for row in daemon["flows"]["flows"] if row["pid"] == daemon["server"] and row["proto"] == "tcp"
    ]
    assert {row["direction"] for row in rows} == {"in"}
    assert [row["established"] for row in rows] == [1, 1]
    for row in rows:
        wire = daemon["wire"][f"tcp{row['family'][-1]}"]
        for ours, theirs in (("out", "in"), ("in", "out")):
            packets = wire[f"packets_{theirs}"] - row[f"packets_{ours}"]
            missing = wire[f"bytes_{theirs}"] - row[f"bytes_{ours}"]
            assert 0 <= packets * LEAST_HEADER <= missing <= packets * MOST_HEADER, f"{row}\n{wire}"


def test_nothing_was_lost(daemon: dict[str, Any]) -> None:
    """No loss counter moved."""
    losses = daemon["status"]["losses"]
    assert losses
    assert set(losses.values()) == {0}, losses


def test_nothing_is_left_behind(daemon: dict[str, Any]) -> None:
    """After SIGTERM the daemon ends well, and no program, link or pin of it is left in the kernel."""
    assert detached(daemon), (daemon["exit"], daemon["pins_left"], daemon["log"])


def test_ways_out_are_open_without_a_block(block: dict[str, Any]) -> None:
    """The control: before `block` and after `unblock` every way out works, so a denial means something."""
    for when in ("control", "lifted"):
        assert {name: said for name, said in block[when].items() if name != "packets"} == dict.fromkeys(
            WAYS, "ok"
        )
        assert block[when]["packets"] > len(WAYS), when


@pytest.mark.parametrize("when", ["blocked", "anew"])
def test_every_way_out_is_denied(block: dict[str, Any], when: str) -> None:
    """In a blocked cgroup, also one made anew, each way out fails with EPERM, and no packet leaves."""
    said = block[when]
    assert {name: said[name] for name in WAYS} == {
        **dict.fromkeys(WAYS, "EPERM"),
        **dict.fromkeys(NEVER_LEAVE, "ok"),
    }
    assert said["packets"] == 0


def test_open_connection_is_cut(block: dict[str, Any]) -> None:
    """A process that waits in a connection older than the block is told so, by the kernel (sock_diag(7))."""
    assert block["held"] == str(errno.ECONNABORTED)


def test_block_touches_nobody_else(block: dict[str, Any]) -> None:
    """A process outside the target talks on, and after `unblock` nothing is left in the kernel."""
    assert block["outside"] == 0
    assert block["pins_left"] == []


def test_status_tells_of_the_block(block: dict[str, Any]) -> None:
    """With no daemon, `status` says by the kernel's word that the policy is active."""
    (target,) = block["status"]["targets"]
    assert (target["target"], target["mode"], target["active"]) == ("cgroup:/vm-blocked", "enforce", True)
