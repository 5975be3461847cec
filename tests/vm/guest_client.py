"""Talk to the guest's server once: KIND ADDRESS PORT. The server closes TCP first, so it has TIME_WAIT."""

import socket
import sys

UP, DOWN = 300_000, 150_000  # bytes of payload over TCP
DATAGRAMS, QUESTION, ANSWER = 20, 1_000, 500


def main(kind: str, address: str, port: int) -> None:
    """Do what `kind` says."""
    family = socket.AF_INET if "4" in kind else socket.AF_INET6
    if kind.startswith("tcp"):
        tcp(family, (address, port))
    else:
        udp(family, (address, port), connected=kind.endswith("connected"))


def tcp(family: int, peer: tuple[str, int]) -> None:
    """Send UP bytes, then read to the end."""
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.connect(peer)
        connection.sendall(bytes(UP))
        got = 0
        while data := connection.recv(1 << 16):
            got += len(data)
    assert got == DOWN, got


def udp(family: int, peer: tuple[str, int], *, connected: bool) -> None:
    """Send DATAGRAMS questions, each answered before the next."""
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(30)
        if connected:
            datagrams.connect(peer)
        for _ in range(DATAGRAMS):
            if connected:
                datagrams.send(bytes(QUESTION))
            else:
                datagrams.sendto(bytes(QUESTION), peer)
            assert len(datagrams.recv(1 << 16)) == ANSWER


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
