"""The hooks: which program is attached where, and when."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple


class Kind(enum.Enum):
    """How a program is attached."""

    CGROUP = "cgroup"
    RAW_TRACEPOINT = "raw tracepoint"


class HookSpec(NamedTuple):
    """One row of the hook table: the hook's name and its program's, which may not share a section's."""

    hook: str
    program: str
    kind: Kind


CGROUPS: Final = tuple(
    HookSpec(name, name, Kind.RAW_TRACEPOINT) for name in ("cgroup_mkdir", "cgroup_release")
)
SOCKETS: Final = (
    *(
        HookSpec(name, name, Kind.CGROUP)
        for name in (
            "connect4",
            "connect6",
            "sendmsg4",
            "sendmsg6",
            "post_bind4",
            "post_bind6",
            "sock_create",
            "sock_release",
        )
    ),
    HookSpec("sockops", "sock_ops", Kind.CGROUP),
)
PACKETS: Final = tuple(HookSpec(name, name, Kind.CGROUP) for name in ("ingress", "egress"))
PROGRAMS: Final = (HookSpec("sched_process_exec", "process_exec", Kind.RAW_TRACEPOINT),)
MOVES: Final = (HookSpec("cgroup_attach_task", "attach_task", Kind.RAW_TRACEPOINT),)
PROCESSES: Final = (
    HookSpec("sched_process_exit", "process_exit", Kind.RAW_TRACEPOINT),
    HookSpec("sched_process_fork", "process_fork", Kind.RAW_TRACEPOINT),
)
ON_DEMAND: Final = (*PROCESSES, *PROGRAMS, *MOVES)
"""What marks processes: attached only while a target names programs, or has a policy."""
HOOKS: Final = (*CGROUPS, *SOCKETS, *PACKETS)


class Hook(NamedTuple):
    """What the kernel says of one hook; `link_id` 0 and no `program` where it is missing."""

    hook: str
    program: str
    attached: bool
    link_id: int
    runs: int
    run_ns: int
