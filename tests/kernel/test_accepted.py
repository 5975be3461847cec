"""A server with many clients fills no table."""

import os
import socket

from tracer.engine import Engine, EngineOptions

PORTED = 16


def test_clients_beyond_the_bound_share_one_row_and_no_byte_is_lost() -> None:
    """Each client has a port of its own: so many have a row, the rest are in the row of their address."""
    clients = 3 * PORTED
    with (
        Engine.open(
            EngineOptions(instance="accepted", pin=False, flows_max=4 * PORTED, loopback=True)
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
