"""Clients of an API, many at once: {"calls": [{"host", "port", "requests": [{...}]}]}, one for a connection.

A request: "method", "target", "how" and "wait" (see api.py), "body" (bytes), "headers"; "leave": after so
many seconds the client goes away, by "reset" or "close". Requests of a connection with "pipelined" are said
in one breath, those with "mptcp" over MPTCP; one with "pause" says {} and reads a line before the request of
that number. Prints for each what was asked and when: {"client", "number", "sent", "done"} (UTC, s).
"""

import json
import socket
import struct
import sys
import threading
import time

from common import family_of

found: list[dict[str, object]] = []


def request(one: dict[str, str]) -> bytes:
    """Write a request."""
    body = b"POST /api/pull HTTP/1.1\r\n" * (int(one.get("body", 0)) // 25)  # what no one should fall for
    fields = [f"X-How: {one.get('how', 'length')}", f"X-Wait: {one.get('wait', 0)}"]
    fields += [f"Content-Length: {len(body)}"] if body else []
    fields += [f"{name}: {value}" for name, value in one.get("headers", {}).items()]
    head = "\r\n".join([f"{one['method']} {one['target']} HTTP/1.1", "Host: lab", *fields, "", ""])
    return head.encode() + body


def answered(sock: socket.socket, one: dict[str, str], rest: bytearray) -> None:
    """Read one answer to its end."""
    how = one.get("how", "length")
    while True:
        if how == "close":
            ended = None
        elif b"\r\n\r\n" not in rest:
            ended = 0
        else:
            ended = end_of(bytes(rest), one)
        if ended:
            del rest[:ended]
            return
        more = sock.recv(65536)
        if not more:
            return
        rest += more


def end_of(data: bytes, one: dict[str, str]) -> int:
    """Give where the answer ends; 0: later."""
    head, _, body = data.partition(b"\r\n\r\n")
    if head == b"HTTP/1.1 100 Continue":
        inner = end_of(body, one) if b"\r\n\r\n" in body else 0
        return inner and inner + len(head) + 4
    if one["method"] == "HEAD" or head.startswith((b"HTTP/1.1 204", b"HTTP/1.1 304")):
        return len(head) + 4
    if b"chunked" in head:
        at = body.find(b"\r\n0\r\n\r\n")
        return len(head) + 4 + at + 7 if at >= 0 else 0
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return len(head) + 4 + size if len(body) >= size else 0


def leave(sock: socket.socket, how: str, after: float) -> None:
    """Go away without waiting for the answer."""
    time.sleep(after)
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def call(plan: dict[str, object]) -> None:
    """Make one connection and all its requests."""
    sock = socket.socket(family_of(plan["host"]), socket.SOCK_STREAM, 262 if plan.get("mptcp") else 0)
    sock.connect((plan["host"], plan["port"]))
    address, port, *_ = sock.getsockname()
    rest = bytearray()
    requests = plan["requests"]
    note = {"client": f"{address} {port}", "sent": None, "done": None}
    notes = [{**note, "number": number} for number in range(len(requests))]
    found.extend(notes)
    if plan.get("pipelined"):
        for note in notes:
            note["sent"] = time.time()
        sock.sendall(b"".join(request(one) for one in requests))
    for note, one in zip(notes, requests, strict=True):
        if plan.get("pause") == note["number"]:
            print("{}", flush=True)
            sys.stdin.readline()
        if not plan.get("pipelined"):
            note["sent"] = time.time()
            sock.sendall(request(one))
        if one.get("how") == "half":
            sock.shutdown(socket.SHUT_WR)
        if "leave" in one:
            leave(sock, one["by"], one["leave"])
            note["done"] = time.time()
            return
        answered(sock, one, rest)
        note["done"] = time.time()
    sock.close()


def main() -> None:
    """Do all calls at once, or so many at a time."""
    order = json.loads(sys.argv[1])
    threads = [threading.Thread(target=call, args=(plan,)) for plan in order["calls"]]
    step = order.get("at_once", len(threads))
    for first in range(0, len(threads), step):
        for thread in threads[first : first + step]:
            thread.start()
        for thread in threads[first : first + step]:
            thread.join()
    print(json.dumps({"requests": found}))


main()
