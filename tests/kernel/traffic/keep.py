"""A pooled connection: {"host", "port", "mptcp"}. Keep-alives each second; so many bytes for a number."""

import json
import socket
import sys

from common import family_of

order = json.loads(sys.argv[1])
sock = socket.socket(family_of(order["host"]), socket.SOCK_STREAM, 262 if order.get("mptcp") else 0)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
sock.connect((order["host"], order["port"]))
print("{}", flush=True)
for line in sys.stdin:
    sock.sendall(b"d" * int(line))
    print("{}", flush=True)
