"""`tattle block` and `unblock`."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that the daemon stays small

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.cli.command import TARGETS, Command, add_engine

if TYPE_CHECKING:
    import argparse


def _add_block(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET")
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
    from tracer.cli.block import block
    from tracer.policy.rules import Mode, Policy

    policy = Policy(
        arguments.target,
        tuple(arguments.allow),
        tuple(arguments.deny),
        arguments.default == "allow",
        Mode.AUDIT if arguments.audit else Mode.ENFORCE,
        arguments.strict,
    )
    return block(arguments.instance, policy, arguments.engine)


def _add_unblock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET")


def _unblock(arguments: argparse.Namespace) -> int:
    from tracer.cli.block import unblock

    return unblock(arguments.instance, arguments.target)


_RULES: Final = """\
A RULE is a prefix or an address, 1.2.3.0/24 or [2001:db8::]/32, each with :443 or :443/tcp if only that port
is meant; a name, registry.ollama.ai or *.ollama.ai (all below it, not itself), likewise with a port; or
@loopback, @lan, @internet, @dns. Deny beats allow, allow beats the default. @dns is port 53 at any address;
no other scope lets it pass.

A name lets its own DNS queries pass, to the resolvers of this host or of the target's resolv.conf, and opens
the addresses of the answers that the target receives, by TCP, for as long as they say (10 s at least). A
connection there must be TLS that names an allowed server, for one address serves many: NAME+plain does
without. NAME:443/udp allows UDP (QUIC), whose server name is not read. NAME+lan lets answers open private
addresses."""

COMMANDS: Final = (
    Command(
        "block",
        "stop what a program starts, in the kernel, from now on",
        "Deny what the target starts: internet, LAN, multicast, every protocol, and DNS even to a resolver "
        "on this host, since names carry data out, too. Its own API keeps working: loopback, and replies to "
        "whoever connects to it. In force at once and for connections that are open; kept when tattle is "
        f"stopped, and over reboots (tattle.service), until tattle unblock.\n\n{TARGETS}\n\n{_RULES}",
        "  sudo tattle watch ollama                              see what it does\n"
        "  sudo tattle block ollama --audit                      see what would be denied, nothing is\n"
        "  sudo tattle flows ollama                              what is it that it needs?\n"
        "  sudo tattle block ollama --allow registry.ollama.ai   pulls work, nothing else\n"
        "  sudo tattle block ollama --allow 10.0.0.0/8:443/tcp   deny all but that\n"
        "  sudo tattle status                                    verify: active, says the kernel\n"
        "  sudo tattle unblock ollama",
        _add_block,
        _block,
    ),
    Command(
        "unblock",
        "lift what block has put in force",
        f"Take a target's policy away, from the kernel and from what is kept. {TARGETS}",
        "  sudo tattle unblock ollama",
        _add_unblock,
        _unblock,
    ),
)
