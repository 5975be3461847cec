"""A small report of `prove`, made by hand, for tests of what is concluded from it."""

from __future__ import annotations

from typing import Any, Final

from tracer import __version__
from tracer.bpf.hooks import HOOKS
from tracer.proof import canonical, evidence

Json = dict[str, Any]

DIGEST: Final = "0" * 64


def flow(**changes: Any) -> Json:  # noqa: ANN401 - of any key
    """Give a flow to the internet that sent and received something."""
    base = {
        **dict.fromkeys(("target", "exe", "unit", "container", "name", "local_addr", "local_port")),
        "pid": 7,
        "ppid": 1,
        "comm": "curl",
        "parent_comm": "sh",
        "uid": 0,
        "cgroup": "/x",
        "proto": "tcp",
        "family": "ipv4",
        "direction": "out",
        "remote_addr": "203.0.113.1",
        "remote_port": 443,
        "name_source": "none",
        "name_age_s": None,
        "names": [],
        "purpose": None,
        "unexpected": None,
        "scope": "internet",
        "phase": "unknown",
        "attempts": 1,
        "established": 1,
        "denied": 0,
        "bytes_out": 500,
        "bytes_in": 900,
        "packets_out": 5,
        "packets_in": 6,
        "payload_out": 240,
        "first_seen": "2026-01-01T00:00:01.000000Z",
        "last_seen": "2026-01-01T00:00:02.000000Z",
    }
    return base | changes


def nothing(**changes: Any) -> Json:  # noqa: ANN401 - of any key
    """Give a flow of which nothing left."""
    counters = dict.fromkeys(
        ("established", "bytes_out", "bytes_in", "packets_out", "packets_in", "payload_out"), 0
    )
    return flow(**counters) | changes


def hook(name: str, **changes: Any) -> Json:  # noqa: ANN401 - of any key
    """Give a hook that was attached throughout."""
    ids = {"link_id": 3, "link_id_before": 3, "program_id": 9, "program_id_before": 9}
    return {"hook": name, "program": name, "attached": True, "runs": 0, "run_ns": 0} | ids | changes


def observed(*flows: Json, **changes: Any) -> Json:  # noqa: ANN401 - of any key
    """Give a report with these flows, concluded and sealed."""
    base: Json = {
        "format": evidence.FORMAT,
        "window": {"start": "2026-01-01T00:00:00.000000Z", "end": "2026-01-01T00:00:10.000000Z"},
        "command": ["curl", "https://203.0.113.1/"],
        "exit_code": 0,
        "target": None,
        "cgroups": ["/x"],
        "flows": list(flows),
        "requests": [],
        "preexisting_sockets": [],
        "unseen": [],
        "hooks": [hook(spec.hook) for spec in HOOKS],
        "maps": [{"map": "flows", "entries": len(flows), "max_entries": 16, "full": False}],
        "losses": {"ring_full": 0, "flows_full": 0},
        "left_running": [],
        "denials_from": None,
        "limits": ["contents"],
        "timeline": {"samples": [], "marks": [], "more_marks": 0, "more_requests": 0},
        "tool": {"version": __version__, "object_sha256": DIGEST, "files_sha256": DIGEST},
        "kernel": "6.1.0",
    }
    report = base | changes
    return canonical.seal(report | evidence.conclude(report))
