"""Serve every conversation of guest_net.py, until killed. Says one line when all ports listen."""

import contextlib
import socket
import threading

from guest_client import ANSWER, DOWN, UP
from guest_net import ADDRESSES, CONVERSATIONS, Conversation

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def main() -> None:
    """Listen, say so, serve."""
    threads = [threading.Thread(target=serve, args=(bound(wish),)) for wish in CONVERSATIONS]
    print("ready", flush=True)
    for thread in threads:
        thread.start()


def bound(conversation: Conversation) -> socket.socket:
    """Give a socket that listens for `conversation`."""
    kind = socket.SOCK_STREAM if conversation.proto == "tcp" else socket.SOCK_DGRAM
    server = socket.socket(FAMILIES[conversation.family], kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((ADDRESSES[conversation.family][1], conversation.port))
    if conversation.proto == "tcp":
        server.listen()
    return server


def serve(server: socket.socket) -> None:
    """Answer whoever comes."""
    while True:
        if server.type == socket.SOCK_DGRAM:
            server.sendto(bytes(ANSWER), server.recvfrom(1 << 16)[1])
            continue
        threading.Thread(target=answer, args=(server.accept()[0],)).start()


def answer(connection: socket.socket) -> None:
    """Take UP bytes and give DOWN; whoever hangs up before gets nothing."""
    left = UP
    with connection, contextlib.suppress(ConnectionError):
        while left and (data := connection.recv(1 << 16)):
            left -= len(data)
        if not left:
            connection.sendall(bytes(DOWN))


if __name__ == "__main__":
    main()
