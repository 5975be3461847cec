"""`tattle block`, with a running daemon and without one."""

from __future__ import annotations

import contextlib
import fcntl
import sys
from typing import TYPE_CHECKING, Final

import structlog

from tracer import config
from tracer.bpf.engine import Engine
from tracer.cli.command import TARGETS, Command, add_engine
from tracer.daemon import control
from tracer.errors import AbiError, DaemonAbsent, HostError, InstanceBusy, TattleError, UsageError
from tracer.host import capabilities, resolv_conf
from tracer.host.cgroups import cgroup2_root
from tracer.model.records import address
from tracer.model.text import escape
from tracer.policy.enforcement import MAPS, Enforcement
from tracer.policy.keep import rule_of
from tracer.policy.rules import Mode, Policy, compile_policy
from tracer.runtimes.keep import kept
from tracer.runtimes.proxies import sentence
from tracer.session.session import engine_options
from tracer.targets.finder import BOOK, Finder, TargetBook, parse
from tracer.targets.proxies import of_target

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from tracer.host.cgroups import InstancePaths
    from tracer.policy.enforcement import Blocked

log = structlog.get_logger("tattle")


def block(instance: str, policy: Policy, engine: str | None = None) -> int:
    """Put a policy in force, keep it, and say what that means; returns the exit code."""
    parse(policy.target)
    compile_policy(policy)
    capabilities.require_loading()
    with in_kernel(instance, engine) as enforcement:
        done = enforcement.block(policy)
        enforcement.tell_phases()
    tell_daemon(instance)
    notes = (f"{sentence(proxy)}\n" for proxy in of_target(Finder(cgroup2_root()), policy.target))
    sys.stdout.write("".join(notes) + _account(instance, done.policy, done))
    return 0


@contextlib.contextmanager
def in_kernel(
    instance: str, made_by: str | None, settings: config.Config | None = None
) -> Iterator[Enforcement]:
    """Use what is pinned, if it is whole; else load it, with all policies that are kept.

    With `settings`, a load puts the policies of this configuration in force as well.
    """
    lack = "it has just started, or is about to end"
    try:
        engine = Engine.attach_readonly(instance)
    except (DaemonAbsent, AbiError):
        pass
    else:
        with engine:
            missing = sorted({*MAPS} - engine.pinned())
            enforcement = None if missing else enforcement_of(engine, settings)
            if enforcement is not None and enforcement.hooked():
                yield enforcement
                return
            lack = (enforcement.lack() if enforcement else None) or f"the pin of {missing[0]} is gone"
    with _loaded(instance, made_by, lack, settings) as enforcement:
        yield enforcement


@contextlib.contextmanager
def _loaded(
    instance: str, made_by: str | None, lack: str, settings: config.Config | None
) -> Iterator[Enforcement]:
    found: list[Enforcement] = []
    known = settings or config.load(None)

    def prepare(engine: Engine) -> None:
        found.append(enforcement_of(engine, known))
        _restore(found[0], settings)

    try:
        engine = Engine.open(engine_options(instance, known, engine=made_by or known.engine), prepare)
    except InstanceBusy:
        raise HostError(
            f"nothing can be blocked, though a daemon runs: {lack}",
            "restart it, then block again",
        ) from None
    with engine:
        yield found[0]


def _restore(enforcement: Enforcement, settings: config.Config | None) -> None:
    """Put the kept policies in force, and those of `settings` where they are given; failures are logged."""
    for error in enforcement.restore(settings.policies() if settings else None):
        log.error("not enforced", error=error.message, hint=error.hint)


def enforcement_of(engine: Engine, settings: config.Config | None = None) -> Enforcement:
    """Return what changes the policies of an engine; without `settings` the configuration file says how."""
    book = TargetBook(engine.paths.state / BOOK)
    undecided = (settings or config.load(None)).undecided
    return Enforcement(engine, Finder(engine.root), book, undecided=undecided)


@contextlib.contextmanager
def no_daemon(paths: InstancePaths) -> Iterator[bool]:
    """Say whether no daemon runs, and keep one from starting meanwhile."""
    paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    with paths.lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def tell_daemon(instance: str) -> None:
    """Have a running daemon read the names of targets again; without one nobody needs to know."""
    try:
        for _ in control.ask(control.socket_path(instance), {"ask": "policies"}, instance):
            pass
    except DaemonAbsent:
        return
    except TattleError as error:
        log.warning("the daemon has not taken notice", error=error.message)


def _kept(done: Blocked) -> dict[str, list[str]]:
    """Return the rules of each purpose that is kept."""
    runtime = done.runtime
    if runtime is None:
        return {}
    return {one: [rule_of(host) for host in kept(runtime, [one])] for one in done.policy.keep}


def _account(instance: str, policy: Policy, done: Blocked) -> str:
    """Say in a few lines what is in force now."""
    name, option = escape(policy.target), "" if instance == "tattle" else f" --instance {instance}"
    count = len(policy.allow) + len(policy.deny)
    rules = f", {count} rule{'s' if count > 1 else ''}" if count else ""
    strict = ", replies too" if policy.strict else ""
    word = "audited" if policy.mode is Mode.AUDIT else "blocked"
    lines = [f"{name} is {word}: default {policy.default}{rules}{strict}"]
    lines += [f"  {purpose} is kept: {', '.join(map(escape, some))}" for purpose, some in _kept(done).items()]
    lines += [f"  in force for {escape(path)} and all below it" for path in done.present]
    lines += [
        f"  not there yet, covered when it appears: {escape(path)}"
        for path in done.cgroups
        if path not in done.present
    ]
    if done.processes and not done.present:
        lines.append(
            f"  in force for {done.processes} process{'es' if done.processes > 1 else ''} that run now"
        )
    if not done.processes and not done.cgroups:
        lines.append("  nothing of it runs; covered when it appears, wherever that is")
    if done.held:
        lines.append(
            "  containers of which no engine has told are held until one does: no packet of theirs leaves"
        )
    if done.resolvers:
        asked = ", ".join(address(one) for one in done.resolvers)
        lines.append(f"  names may be asked of: {asked}")
        if resolv_conf.asks_resolved():
            lines.append(
                "  names asked of systemd-resolved by its own socket open nothing: say `hosts: files dns` in"
                " /etc/nsswitch.conf, where it says `resolve` now"
            )
    if done.cut:
        lines.append(f"  {done.cut} open connection{'s' if done.cut > 1 else ''} cut")
    what = "would be denied" if policy.mode is Mode.AUDIT else "is denied"
    lines.append(f"see what {what}: tattle watch {name}{option}; lift it: tattle unblock {name}{option}")
    return "\n".join(lines) + "\n"


def _add_block(parser: argparse.ArgumentParser) -> None:
    parser.usage = "tattle block [options] TARGET, or: tattle block [options] -- COMMAND..."
    parser.add_argument("target", nargs="?", metavar="TARGET")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PURPOSE",
        help="let the hosts pass that the target's profile lists under this purpose (pull, cloud ...), each "
        "only while such a request is in flight; may be repeated",
    )
    for name, does in (("allow", "let this pass"), ("deny", "never let this pass: beats --allow")):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="RULE", help=f"{does}; may be repeated"
        )
    parser.add_argument(
        "--default", choices=("deny", "allow"), default="deny", help="for what no rule names; default: deny"
    )
    parser.add_argument("--audit", action="store_true", help="change nothing, count what would be denied")
    parser.add_argument(
        "--strict", action="store_true", help="deny the replies on connections that others made to it, too"
    )
    add_engine(parser)


def _block(arguments: argparse.Namespace) -> int:
    if (arguments.target is None) is (not arguments.words):
        raise UsageError(
            "a target and a command: which is it?"
            if arguments.words
            else "no target and no command to block",
            "tattle block TARGET, or tattle block -- COMMAND",
        )
    policy = Policy(
        arguments.target or "",
        tuple(arguments.allow),
        tuple(arguments.deny),
        arguments.default == "allow",
        Mode.AUDIT if arguments.audit else Mode.ENFORCE,
        arguments.strict,
        tuple(arguments.keep),
    )
    if arguments.words:
        from tracer.cli.confine import confine

        return confine(arguments.instance, policy, arguments.words, arguments.engine)
    return block(arguments.instance, policy, arguments.engine)


_RULES: Final = """\
A RULE is a prefix or an address, 1.2.3.0/24 or [2001:db8::]/32, each with :443 or :443/tcp if only that port
is meant; a name, registry.ollama.ai or *.ollama.ai (all below it, not itself), likewise with a port; or
@loopback, @host, @lan, @internet, @dns. Deny beats allow, allow beats the default. @dns is port 53 at any
address; no other scope lets it pass.

A name lets its own DNS queries pass, to the resolvers of this host or of the target's resolv.conf, and opens
the addresses of the answers that the target receives, by TCP, for as long as they say (60 s at least) and as
long as a connection there is open; those that a hosts file gives the name, too. A new container's resolv.conf
is read while its program begins: its first question may be refused, and asked again it is not. What connects
there must be TLS that names an allowed server, for one address serves many: NAME+plain does without.
NAME:443/udp allows UDP (QUIC), whose server name is not read. NAME+lan lets answers open private addresses.
Of a process in two targets that both have rules by name, those of one are followed: what the other allows by
name only is denied.

What is allowed can be bound to what the runtime does: RULE+pull holds only while a pull is in flight on its
API, RULE+inference, +account, +idle and +startup likewise. --keep PURPOSE does that for all hosts that the
profile lists under a purpose, and is the everyday lock: nothing is open while a prompt is answered."""
_COMMAND: Final = """\
Behind -- stands a command: it runs confined from its first instruction, as the user who called sudo, and so
does all that it starts. Signals and exit code are passed. When it ends, what it has left running is ended,
too, and nothing stays behind. What it has other programs do (D-Bus, docker) they do themselves."""

COMMAND: Final = Command(
    "block",
    "stop what a program starts, in the kernel, from now on",
    "Deny what the target starts: internet, LAN, multicast, every protocol, and DNS even to a resolver "
    "on this host, since names carry data out, too. Its own API keeps working: loopback and this host's "
    "own addresses, and replies to those that connect to it. In force at once and for connections that are "
    "open; kept when tattle is stopped, and over reboots (tattle.service), until tattle unblock."
    f"\n\n{TARGETS}\n\n{_RULES}\n\n{_COMMAND}",
    "  sudo tattle watch ollama                              see what it does\n"
    "  sudo tattle block ollama --audit                      see what would be denied, nothing is\n"
    "  sudo tattle flows ollama                              what is it that it needs?\n"
    "  sudo tattle block ollama --keep pull                  the lock: only a pull that runs gets out\n"
    "  sudo tattle block ollama --allow registry.ollama.ai   that host is open at any time\n"
    "  sudo tattle block ollama --allow 10.0.0.0/8:443/tcp   deny all but that\n"
    "  sudo tattle block --keep pull -- ./llama-server -hf ggml-org/gemma-3-1b-it-GGUF\n"
    "  sudo tattle status                                    verify: active, says the kernel\n"
    "  sudo tattle unblock ollama",
    _add_block,
    _block,
)
