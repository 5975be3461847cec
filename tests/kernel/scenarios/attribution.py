"""Rows o30 to o43: processes, cgroups, containers.

Not here, with what was seen on this suite's kernels (6.18, this machine):
  o44 rootless podman, o45 docker-proxy   no container engine is installed, none may be downloaded
  o46 delegation to a loopback proxy      observed like any loopback client: s16
  o47 net_cls strips the v2 cgroup        fixed in 5.15: tests/vm has the older kernel
"""

import os
from pathlib import Path

from tests.kernel.scenarios.scenario import Ending, Expectation, Want, expect, late_in, late_out, row
from tests.kernel.scenarios.spec import full_identity
from tests.support.network import CONTAINER_PEER4, PEER4, TRAFFIC, Lab, Program

MIB = 1 << 20


@row("o30-thread-name")
def o30(lab: Lab) -> Expectation:
    """The leader's name, never the thread's."""
    port = lab.peer.serve()
    program, _ = lab.run("rename.c", PEER4, str(port), str(MIB))
    return expect(
        Want(program.name, "tcp", PEER4, port, pids=frozenset({program.pid}), more=full_identity(program)),
        silent=("other-name",),
    )


@row("o31-gone-at-once")
def o31(lab: Lab) -> Expectation:
    """A thousand processes that are gone within a millisecond: all with exe and parent, none lost."""
    port, child, times = lab.peer.serve(), lab.name("brief"), 1000
    lab.program("brief.c", child)
    exe = str(lab.scratch / child)
    parent, result = lab.run("brief.c", PEER4, str(port), str(times), exe)
    if result["bytes_sent"] != times:
        raise AssertionError(result)
    return expect(
        Want(
            child,
            "tcp",
            PEER4,
            port,
            attempts=times,
            established=times,
            rows=times,
            unseen_out=late_out(times),
            unseen_in=late_in(times),
            more={"exe": exe, "ppid": parent.pid, "parent_comm": parent.name, "cgroup": parent.cgroup},
        )
    )


@row("o32-fork-after-connect")
def o32(lab: Lab) -> Expectation:
    """The flow of the one who opened it, although the child sends and the opener is gone."""
    port = lab.peer.serve()
    program, result = lab.run("tcp.py", op="forked", host=PEER4, port=port, up=100_000)
    if result["pid"] == program.pid:
        raise AssertionError("the child did not report")
    return expect(Want(program.name, "tcp", PEER4, port, pids=frozenset({program.pid})))


@row("o32-shared-udp")
def o32_udp(lab: Lab) -> Expectation:
    """Datagrams of one unconnected socket belong to the process that sent them."""
    port = lab.peer.serve("udp")
    program, result = lab.run("handover.py", op="shared", host=PEER4, port=port)
    pids = frozenset({program.pid, result["child"]})
    return expect(Want(program.name, "udp", PEER4, port, attempts=2, pids=pids))


def _handed(lab: Lab, state: str, *, up: int) -> tuple[Program, Program, int]:
    port, path = lab.peer.serve(), str(lab.scratch / lab.name("door"))
    inside, outside = (
        lab.cgroup(f"lab-{lab.token}/{lab.name('in')}"),
        lab.cgroup(f"lab-{lab.token}/{lab.name('out')}"),
    )
    giver = lab.start(
        "handover.py",
        name=lab.name("giver"),
        cgroup=inside,
        op="give",
        state=state,
        host=PEER4,
        port=port,
        path=path,
    )
    giver.ready()
    giver.go()
    taker, _ = lab.run(
        "handover.py",
        name=lab.name("taker"),
        cgroup=outside,
        op="take",
        state=state,
        host=PEER4,
        port=port,
        path=path,
        up=up,
    )
    giver.result()
    return giver, taker, port


@row("o33-connected-then-passed")
def o33_connected(lab: Lab) -> Expectation:
    """A connection that is passed on stays the flow of the one who connected it."""
    giver, taker, port = _handed(lab, "connected", up=100_000)
    want = Want(giver.name, "tcp", PEER4, port, pids=frozenset({giver.pid}), more=full_identity(giver))
    return expect(want, silent=(taker.name,))


@row("o33-opened-then-passed")
def o33_opened(lab: Lab) -> Expectation:
    """A socket that is passed on before it is connected belongs to the one who connects."""
    giver, taker, port = _handed(lab, "open", up=100_000)
    want = Want(taker.name, "tcp", PEER4, port, pids=frozenset({taker.pid}), more=full_identity(taker))
    return expect(want, silent=(giver.name,))


@row("o34-socket-activation")
def o34(lab: Lab) -> Expectation:
    """Accepted by one, listened by another: no hook runs in accept(), so the listener's maker has it."""
    port, path = lab.port(), str(lab.scratch / lab.name("door"))
    common = {"state": "listening", "host": "0.0.0.0", "port": port, "path": path}
    giver = lab.start("handover.py", name=lab.name("giver"), op="give", **common)
    giver.ready()
    giver.go()
    taker = lab.start("handover.py", name=lab.name("taker"), op="take", **common, down=MIB)
    taker.ready()
    answer = lab.peer.ask(do="call", host="198.51.100.2", port=port, up=24, down=MIB)
    taker.result()
    giver.result()
    want = Want(giver.name, "tcp", PEER4, answer["port"], "in", attempts=0, pids=frozenset({giver.pid}))
    return expect(want, silent=(taker.name,))


@row("o35-other-namespace")
def o35(lab: Lab) -> Expectation:
    """setns(2) after the start: destination and process as ever."""
    container = lab.container()
    port = lab.peer.serve(host=CONTAINER_PEER4)
    program, _ = lab.run(
        "handover.py",
        op="enter",
        into=f"/run/netns/{container.namespace.name}",
        host=CONTAINER_PEER4,
        port=port,
        up=100_000,
    )
    pids = frozenset({program.pid})
    return expect(Want(program.name, "tcp", CONTAINER_PEER4, port, client=container.namespace, pids=pids))


@row("o36-moved")
def o36(lab: Lab) -> Expectation:
    """Moved to another cgroup: the old connection keeps the old cgroup, the new one has the new."""
    ports = [lab.peer.serve(), lab.peer.serve()]
    groups = [lab.cgroup(f"lab-{lab.token}/{lab.name('home')}") for _ in range(2)]
    program, _ = lab.run(
        "handover.py",
        op="move",
        cgroup=groups[0],
        host=PEER4,
        port=ports[0],
        second=ports[1],
        procs=str(groups[1] / "cgroup.procs"),
        up=50_000,
    )
    return expect(
        *(
            Want(program.name, "tcp", PEER4, port, more={"cgroup": lab.cgroup_path(group)})
            for port, group in zip(ports, groups, strict=True)
        )
    )


@row("o37-remade")
def o37(lab: Lab) -> Expectation:
    """A cgroup removed and made again fifty times under one path, a connect as first act: named each time."""
    port, name, path = lab.peer.serve(), lab.name("again"), f"lab-{lab.token}/{lab.name('unit')}.service"
    for _ in range(50):
        program, _ = lab.run("rename.c", PEER4, str(port), "100", name=name, cgroup=lab.cgroup(path))
        (lab.cgroup_root / path).rmdir()
    more = {"cgroup": "/" + path, "unit": Path(path).name, "exe": program.exe}
    return expect(Want(name, "tcp", PEER4, port, attempts=50, established=50, rows=50, more=more))


@row("o38-nested")
def o38(lab: Lab) -> Expectation:
    """Twelve cgroups deep: the whole path."""
    port, path = lab.peer.serve(), f"lab-{lab.token}/" + "/".join(f"level-{n}" for n in range(12))
    program, _ = lab.run("rename.c", PEER4, str(port), "1000", cgroup=lab.cgroup(path))
    return expect(Want(program.name, "tcp", PEER4, port, more={"cgroup": "/" + path}))


@row("o39-dead-cgroup")
def o39(lab: Lab) -> Expectation:
    """A connection outlives its opener's cgroup: still that cgroup's, by its path."""
    giver, taker, port = _handed(lab, "connected", up=10_000)
    (lab.cgroup_root / giver.cgroup.lstrip("/")).rmdir()
    want = Want(giver.name, "tcp", PEER4, port, more={"cgroup": giver.cgroup})
    return expect(want, silent=(taker.name,))


@row("o40-pid-reused")
def o40(lab: Lab) -> Expectation:
    """A pid that is used again is another process: two rows of one pid."""
    port = lab.peer.serve()
    program, result = lab.run("reborn.c", PEER4, str(port), "2")
    pids = frozenset({result["pid_reused"]})
    want = Want(
        program.name,
        "tcp",
        PEER4,
        port,
        attempts=2,
        established=2,
        pids=pids,
        rows=2,
        unseen_out=late_out(6),
        unseen_in=late_in(6),
    )
    return expect(want)


@row("o41-hostile-name")
def o41(lab: Lab) -> Expectation:
    """Escape codes, newline, quotes, backslash and 0xff in a name: escaped once."""
    raw = b'\x1b[31m\n"\\\xff' + lab.token.encode()
    name = os.fsdecode(raw)
    port = lab.peer.serve()
    program, _ = lab.run("rename.c", PEER4, str(port), "1000", name=name)
    shown = r'\x1b[31m\x0a"\\xff' + lab.token
    directory = program.exe.removesuffix(name)
    return expect(Want(shown, "tcp", PEER4, port, more={"exe": directory + shown}))


@row("o41-long-path")
def o41_long(lab: Lab) -> Expectation:
    """An executable's path longer than is kept: its end, marked as cut."""
    deep = lab.scratch.joinpath(*(f"{n:02d}-" + "d" * 90 for n in range(12)))
    deep.mkdir(parents=True)
    name, port = lab.name("deep"), lab.peer.serve()
    binary = deep / name
    binary.write_bytes(lab.build("rename.c").read_bytes())
    binary.chmod(0o755)
    lab.run("rename.c", PEER4, str(port), "1000", name=name, exe=str(binary))
    return expect(Want(name, "tcp", PEER4, port, more={"exe": Ending(str(binary)[-300:])}))


@row("o41-deleted")
def o41_deleted(lab: Lab) -> Expectation:
    """An executable that is deleted while it runs keeps its path."""
    port = lab.peer.serve()
    program = lab.start("tcp.py", op="held", host=PEER4, port=port, up=1000)
    program.ready()
    Path(program.exe).unlink()
    program.go()
    program.result()
    return expect(Want(program.name, "tcp", PEER4, port, more={"exe": program.exe}))


@row("o42-exec-after-connect")
def o42(lab: Lab) -> Expectation:
    """Becoming another program after connect does not rewrite the flow."""
    port, later = lab.peer.serve(), lab.name("later")
    become = lab.program("tcp.py", later)[0]
    program, _ = lab.run("tcp.py", op="execed", host=PEER4, port=port, up=100_000, become=become)
    want = Want(program.name, "tcp", PEER4, port, more={"exe": program.exe}, pids=frozenset({program.pid}))
    return expect(want, silent=(later,))


@row("o42-script")
def o42_script(lab: Lab) -> Expectation:
    """A script: its own name, its interpreter's path."""
    name, port = lab.name("script"), lab.peer.serve()
    interpreter = lab.program("tcp.py", lab.name("interp"))[0]
    source = (TRAFFIC / "tcp.py").read_text()
    script = lab.scratch / name
    here = str(TRAFFIC)
    script.write_text(f"#!{interpreter} -E\nimport sys\nsys.path.insert(0, {here!r})\n{source}")
    script.chmod(0o755)
    lab.run("tcp.py", name=name, exe=str(script), op="transfer", host=PEER4, port=port, up=1000)
    return expect(Want(name, "tcp", PEER4, port, more={"exe": interpreter}))


@row("o43-uid")
def o43(lab: Lab) -> Expectation:
    """The user at connect, not at socket()."""
    port = lab.peer.serve()
    program, _ = lab.run("handover.py", op="become", host=PEER4, port=port, uid=12345, up=1000)
    return expect(Want(program.name, "tcp", PEER4, port, more={"uid": 12345}))


@row("o43-user-namespace")
def o43_namespace(lab: Lab) -> Expectation:
    """Root of a user namespace: the user that the host knows."""
    port = lab.peer.serve()
    program, _ = lab.run("handover.py", op="rooted", host=PEER4, port=port, uid=12345, up=1000)
    return expect(Want(program.name, "tcp", PEER4, port, more={"uid": 12345}))
