"""`tattle run`: the daemon and its helper, composed here and nowhere else."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import structlog

from exporters.http import listener
from exporters.logs import journald
from tracer import config
from tracer.daemon import sdnotify
from tracer.daemon.daemon import Daemon
from tracer.daemon.helper import Helper
from tracer.daemon.options import access
from tracer.daemon.signals import Signals
from tracer.daemon.worker import Duties, Task
from tracer.errors import HostError
from tracer.host import capabilities, cgroups
from tracer.host.files import is_locked
from tracer.host.syscalls import keep_heap_small
from tracer.session.session import Core, engine_options

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from exporters.http.requests import Done, Request
    from tracer.daemon.options import RunOptions

log = structlog.get_logger("tattle")

_FIRST_CUT_S: Final = 10.0
"""How long the start waits until what was open before and is denied now has been cut."""


def run(options: RunOptions, perform: Callable[[Request], Done]) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code. Leaves only policies in force.

    `perform` does what the page's switch asks for.
    """
    settings = options.effective()
    keep_heap_small()
    with ExitStack() as stack:
        signals = Signals()
        stack.callback(signals.close)
        sink = journald.take_over(options.instance)
        if sink is not None:
            stack.callback(sink.close)
        paths = cgroups.instance_paths(options.instance, cgroups.bpffs_root())
        listening = None
        if not is_locked(paths.lock):  # else the engine says who holds it: more than a taken port
            listening = stack.enter_context(listener.listen(*config.address(settings.listen)))
        keys = access(settings).keys()
        engine = engine_options(
            options.instance,
            settings,
            allow_missing=options.allow_missing,
            object_path=options.object_path,
        )
        core = Core(engine, paths.state, settings.policies(), undecided=settings.undecided)
        stack.callback(core.close)
        assert listening is not None  # the engine was opened, hence the lock was free
        switches = access(settings).switches(config.address(settings.listen)[0])
        helper = _help(core, listening, perform if switches else None)
        stack.callback(helper.close)
        daemon = Daemon(options, settings, core, signals, sink)
        daemon.have_done = helper.go
        stack.callback(daemon.close)
        daemon.found = core.found() if sys.stderr.isatty() else None  # /proc/PID/exe is not for all
        capabilities.drop()  # before any thread starts: capset(2) is a matter of one thread
        daemon.serve(listening, keys, paths.control, helper if switches else None)
        daemon.loop()
        sdnotify.notify("STOPPING=1", "STATUS=Detaching")
    return 0


def _help(core: Core, listening: socket.socket, perform: Callable[[Request], Done] | None) -> Helper:
    """Make the helper, and have it cut what the policies deny that were there before."""
    tasks = {Task.CUT: core.cut, Task.LOOK: core.look_for_resolvers, Task.MARK: core.mark}
    helper = Helper(Duties(tasks, perform), (listening.fileno(), core.engine.lock))
    try:
        helper.ask(Task.CUT, _FIRST_CUT_S)
    except HostError as error:
        log.error("not all denied connections were ended", error=error.message)  # noqa: TRY400 - no traceback
    return helper
