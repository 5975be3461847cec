"""The DNS server of the miniature internet: UDP and TCP, IPv4 and IPv6. Runs in world-net.

    python -m tests.world.miniature.dns LOG ADDRESS...

Answers rotate with every query. Names that it does not know do not exist. Every query is a line in LOG.
"""

import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer, TCPServer, UDPServer

from tests.world.miniature.layout import table

RECORDS = {"A": A, "AAAA": AAAA}


class UDPServer6(UDPServer):
    """dnslib opens IPv4 sockets only."""

    address_family = socket.AF_INET6


class TCPServer6(TCPServer):
    """Likewise."""

    address_family = socket.AF_INET6


class Resolver(BaseResolver):
    """Answers from names.json, in an order that moves by one with every query."""

    def __init__(self, log: TextIO) -> None:
        self.log, self.queries = log, 0

    def addresses(self, name: str, kind: str) -> list[str]:
        """Return the addresses of NAME, rotated."""
        found = list(table()["names"].get(name, {}).get(kind, []))
        turn = self.queries % len(found) if found else 0
        return found[turn:] + found[:turn]

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        """Answer one query and write it down."""
        self.queries += 1
        reply, ttl, names = request.reply(), table()["ttl"], table()["names"]
        asked, kind = str(request.q.qname).rstrip(".").lower(), QTYPE[request.q.qtype]
        name = names.get(asked, {}).get("CNAME", asked)
        if name not in names:
            reply.header.rcode = RCODE.NXDOMAIN
        elif name != asked:
            reply.add_answer(RR(request.q.qname, QTYPE.CNAME, rdata=CNAME(name), ttl=ttl))
        found = self.addresses(name, kind)
        for address in found:
            owner = request.q.qname if name == asked else name
            reply.add_answer(RR(owner, request.q.qtype, rdata=RECORDS[kind](address), ttl=ttl))
        self.write(handler, name=asked, type=kind, rcode=RCODE[reply.header.rcode], answers=found)
        return reply

    def write(self, handler: DNSHandler, **facts: object) -> None:
        """Append one line to the log."""
        client, port = handler.client_address[:2]
        record = {"time": time.time(), "proto": handler.protocol, "client": client, "port": port, **facts}
        self.log.write(json.dumps(record) + "\n")


def main() -> None:
    """Serve until the process is ended."""
    resolver = Resolver(Path(sys.argv[1]).open("a", buffering=1))  # noqa: SIM115 - open as long as the process
    servers = {
        (False, False): UDPServer,
        (True, False): TCPServer,
        (False, True): UDPServer6,
        (True, True): TCPServer6,
    }
    quiet = DNSLogger(log="", logf=lambda _: None)
    for address in sys.argv[2:]:
        for tcp in (False, True):
            server = servers[tcp, ":" in address]
            DNSServer(resolver, address=address, port=53, tcp=tcp, server=server, logger=quiet).start_thread()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
