"""`tattle status`: what the kernel says is attached, enforced, lost and full; nothing here is remembered."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.engine import Engine
from tracer.errors import DaemonAbsent
from tracer.targets import TargetBook

if TYPE_CHECKING:
    from tracer.maps import Maps

ENGINE: Final = "libbpf"
OBSERVE: Final = "observe"
Json = dict[str, Any]


def status(instance: str) -> Json:
    """Give the document of the contract; where nothing is pinned `engine` is null and the lists are empty."""
    document: Json = {
        "engine": None,
        "kernel": platform.release(),
        "hooks": [],
        "maps": [],
        "targets": [],
        "losses": {},
    }
    try:
        engine = Engine.attach_readonly(instance)
    except DaemonAbsent:
        return document
    with engine:
        maps = engine.maps
        return document | {
            "engine": ENGINE,
            "hooks": [hook._asdict() for hook in engine.hooks()],
            "maps": [size._asdict() for size in maps.sizes()],
            "targets": _targets(maps, TargetBook(Path("/var/lib") / instance / "targets.json")),
            "losses": maps.losses(),
        }


def _targets(maps: Maps, book: TargetBook) -> list[Json]:
    """Tell which cgroups are in which target; a target is active when one of them exists."""
    cgroups: dict[int, list[int]] = {}
    for row in maps.cgroups():
        if row.target:
            cgroups.setdefault(row.target, []).append(row.id)
    return [
        {
            "target": book.name(number),
            "cgroup_ids": sorted(ids),
            "mode": OBSERVE,
            "default": None,
            "rules": [],
            "active": True,
        }
        for number, ids in sorted(cgroups.items())
    ]
