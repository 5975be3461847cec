"""A server with many clients fills no table."""

import os
import socket
import struct
import time

from tracer.bpf.engine import Engine, EngineOptions

PORTED = 16
OPTIONS = EngineOptions(instance="accepted", pin=False, flows_max=2 * PORTED, loopback=True)


def test_clients_beyond_the_bound_share_one_row_and_no_byte_is_lost() -> None:
    """Each client has a port of its own: so many have a row, the rest are in the row of their address."""
    clients = 3 * PORTED
    with (
        Engine.open(
            EngineOptions(instance="accepted", pin=False, flows_max=2 * PORTED, loopback=True)
        ) as engine,
        socket.create_server(("127.0.0.77", 0)) as server,
    ):
        for _ in range(clients):
            with socket.create_connection(server.getsockname()) as client, server.accept()[0] as accepted:
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"
        engine.maps.flush()
        peer = bytes(10) + b"\xff\xff" + socket.inet_aton("127.0.0.1")
        rows = [row for row in engine.maps.flows() if row.direction == 1 and row.remote == peer]
        mine = [row for row in rows if row.established and row.proto == socket.IPPROTO_TCP]
        named = engine.maps.process
        mine = [row for row in mine if (who := named(row.process)) and who.tgid == os.getpid()]
    shared = [row for row in mine if row.remote_port == 0]
    assert sum(row.established for row in mine) == clients
    assert len(mine) - len(shared) <= PORTED
    assert len(shared) == 1
    assert shared[0].established >= clients - PORTED


def test_a_knock_that_is_never_accepted_makes_no_flow_and_is_settled_to_the_byte() -> None:
    """SYNs to a listener wait apart; when they are old they leave as traffic of their address, no port."""
    family, kind = socket.AF_INET, socket.SOCK_RAW
    with (
        Engine.open(OPTIONS) as engine,
        socket.create_server(("127.0.0.78", 0)) as server,
        socket.socket(family, kind, socket.IPPROTO_TCP) as raw,
    ):
        port = server.getsockname()[1]
        raw.bind(("127.0.0.79", 0))
        for source_port in (1001, 1002, 1003):
            raw.sendto(syn("127.0.0.79", source_port, "127.0.0.78", port), ("127.0.0.78", 0))
        peer = bytes(10) + b"\xff\xff" + socket.inet_aton("127.0.0.79")
        engine.maps.flush()
        flows = [row for row in engine.maps.flows() if row.remote == peer and row.direction == 1]
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        early = engine.maps.take_handshakes(0)
        taken = [row for row in engine.maps.take_handshakes(now) if row.remote == peer]
        again = [row for row in engine.maps.take_handshakes(now) if row.remote == peer]
        who = engine.maps.process(taken[0].process)
    assert [row for row in flows if who and row.process == taken[0].process] == []
    assert early == []
    syn_and_reset = 40 + 40  # this host has no such socket and resets the SYN-ACK (RFC 9293 3.10.7.1)
    assert [row.bytes_in for row in taken] == [syn_and_reset] * 3
    assert {(row.remote_port, row.proto, row.direction) for row in taken} == {(0, socket.IPPROTO_TCP, 1)}
    assert who is not None
    assert who.tgid == os.getpid()
    assert again == []


def syn(source: str, source_port: int, destination: str, port: int) -> bytes:
    """Give a TCP header with SYN set (RFC 9293 3.1) and its checksum over the pseudo header."""
    header = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, 2, 1024, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", 6, len(header))
    words = sum(struct.unpack(f"!{len(pseudo + header) // 2}H", pseudo + header))
    words = (words >> 16) + (words & 0xFFFF)
    checksum = ~(words + (words >> 16)) & 0xFFFF
    return header[:16] + struct.pack("!H", checksum) + header[18:]
