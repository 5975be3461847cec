"""A host whose tattle is in every kind of trouble, as its metrics would say it, served to a real Prometheus.

Some of it cannot be made on demand with a real kernel (a hook that fell off, a full map). The first page is
the host a moment before, the second one after it.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET: Final = "ollama"
NEWBORN: Final = "newborn.example"
BURST: Final = 4711
"""Bytes that were sent to NEWBORN, once, during inference."""
PROMPT: Final = 4000
"""Bytes of data in BURST."""
_WHO: Final = f'target="{TARGET}",process="ollama"'
_OUT: Final = 'scope="internet",proto="tcp",direction="out"'
_KNOWN: Final = f'{_WHO},destination="registry.example",{_OUT}'
_NEW: Final = f'{_WHO},destination="{NEWBORN}",{_OUT}'
_GONE: Final = 'tattle_target_enforced{target="lifted",mode="enforce"} 1'
BEFORE: Final = f"""
tattle_build_info{{version="0.9.0",kernel="6.1.0"}} 1
tattle_target_enforced{{target="{TARGET}",mode="enforce"}} 1
{_GONE}
tattle_target_processes{{target="{TARGET}",mode="enforce"}} 2
tattle_unexpected_destinations{{target="{TARGET}"}} 0
tattle_phase_active{{target="{TARGET}",phase="inference"}} 0
tattle_phase_active{{target="{TARGET}",phase="pull"}} 0
tattle_transmit_bytes_total{{{_KNOWN},phase="inference"}} 1000
tattle_transmit_payload_bytes_total{{{_KNOWN},phase="inference"}} 800
tattle_receive_bytes_total{{{_KNOWN},phase="inference"}} 2000
tattle_connection_attempts_total{{{_KNOWN},verdict="allowed"}} 1
tattle_connection_attempts_total{{{_KNOWN},verdict="denied"}} 0
tattle_connection_attempts_total{{{_KNOWN},verdict="would-deny"}} 0
tattle_denied_packets_total{{{_WHO},destination="registry.example",scope="internet",proto="tcp"}} 0
tattle_events_lost_total{{reason="samples_full"}} 0
tattle_events_lost_total{{reason="openings_full"}} 0
tattle_map_entries{{map="flows"}} 10
tattle_map_max_entries{{map="flows"}} 100
tattle_map_full_total{{map="flows"}} 0
tattle_hook_attached{{hook="egress"}} 1
tattle_bpf_program_runs_total{{program="egress"}} 1000
tattle_bpf_program_run_seconds_total{{program="egress"}} 0.001
"""
_LATER: Final = {
    f'target_enforced{{target="{TARGET}",mode="enforce"}} 1': 0,
    "destinations{": 2,
    'phase="inference"} 0': 3,
    'bytes_total{target="ollama",process="ollama",destination="registry.example"': 9000,
    'payload_bytes_total{target="ollama",process="ollama",destination="registry.example"': 7000,
    'verdict="denied"} 0': 100,
    'verdict="would-deny"} 0': 4,
    "denied_packets": 5,
    "events_lost": 6,
    "map_entries": 99,
    "map_full": 7,
    "hook_attached": 0,
    "program_runs": 5000,
    "run_seconds": 0.009,
}


def _after() -> str:
    lines = [line for line in BEFORE.splitlines() if line and line != _GONE]
    for number, line in enumerate(lines):
        for part, value in _LATER.items():
            if part in line:
                lines[number] = f"{line.rpartition(' ')[0]} {value}"
    born = [
        f'tattle_transmit_bytes_total{{{_NEW},phase="inference"}} {BURST}',
        f'tattle_transmit_payload_bytes_total{{{_NEW},phase="inference"}} {PROMPT}',
        f'tattle_receive_bytes_total{{{_NEW},phase="inference"}} 1',
    ]
    return "\n".join([*lines, *born, ""])


class Recorded:
    """What is served now."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.page = BEFORE

    def go_wrong(self) -> None:
        """Serve the second page from now on."""
        self.page = _after()


@contextmanager
def served() -> Iterator[Recorded]:
    """Serve on a port of loopback for the time of the block."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(recorded.page.lstrip().encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        recorded = Recorded(f"127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.1,))
        thread.start()
        try:
            yield recorded
        finally:
            server.shutdown()
            thread.join()
