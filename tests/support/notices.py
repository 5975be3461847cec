"""A stand-in for the daemon, as desktops see it: `python -m tests.support.notices SOCKET`; nothing is loaded.

What it is told comes as lines of JSON: {"ill": [...]} is what is not in force from now on, all else an event.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from tracer.config import Config
from tracer.daemon.control import notice_now
from tracer.daemon.notices import Notices
from tracer.host.faults import Faults
from tracer.model.jsonlines import encode
from tracer.model.process import NOBODY
from tracer.session.session import Line

if TYPE_CHECKING:
    from tracer.session.session import Core

ROOM = 1 << 16


def main() -> None:
    """Serve until standard input ends."""
    accounts = SimpleNamespace(
        count_lost=lambda *_: None,
        decoder=SimpleNamespace(inward=1),
        lock=contextlib.nullcontext(),
        rows=list,
        objects=lambda *_: iter(()),
    )
    core = cast("Core", SimpleNamespace(accounts=accounts, faults=Faults()))
    path, ill = Path(sys.argv[1]), list[str]()
    path.parent.mkdir(exist_ok=True)
    with selectors.DefaultSelector() as selector:
        notices = Notices(path, Config().notify.groups, selector, core, lambda: ill)
        selector.register(0, selectors.EVENT_READ, None)
        print("up", flush=True)
        while True:
            for key, mask in selector.select():
                if key.data is not None:
                    key.data(mask)
                elif told := os.read(0, ROOM):
                    for line in told.splitlines():
                        tell(notices, ill, json.loads(line))
                else:
                    notices.close()
                    return


def tell(notices: Notices, ill: list[str], told: dict[str, Any]) -> None:
    """Pass on what was told, as the daemon's loop does."""
    if "ill" in told:
        ill[:] = told["ill"]
        notices.look()
    else:
        notices.publish([Line(NOBODY._replace(target=told["target"]), encode(told) + b"\n")])
    notices.flush(notice_now)


if __name__ == "__main__":
    main()
