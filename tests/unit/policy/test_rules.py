"""Policies: what the rules say, one by one, is what the tables say at once."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracer.bpf.abi import Abi
from tracer.errors import UsageError
from tracer.policy.rules import (
    PORTS_MAX,
    Addresses,
    Name,
    Policy,
    Prefix,
    ScopeBit,
    compile_policy,
    parse,
)

OBJECT = Path(__file__).resolve().parents[3] / "tracer" / "objects" / "tattle.bpf.o"
PORTS = ("", ":53", ":443", ":443/tcp", ":443/udp", ":8080/tcp")
# Prefixes that lie within each other, and peers inside and outside of them.
V4 = ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "127.0.0.0/8", "203.0.113.0/24")
V6 = ("[::]/0", "[2001:db8::]/32", "[2001:db8:1::]/48", "[2001:db8:1::1]", "[fe80::]/10", "[::1]")
SCOPES = ("@loopback", "@host", "@lan", "@internet", "@dns")
HOSTS = (
    *("10.0.0.1", "10.1.0.1", "10.1.2.4", "10.1.2.3", "127.0.0.1", "203.0.113.9", "198.51.100.1"),
    *("0.0.0.0", "169.254.169.254", "224.0.0.251", "255.255.255.255", "100.64.0.1"),
    *(
        "2001:db8::1",
        "2001:db8:1::1",
        "2001:db8:1::2",
        "fe80::1",
        "::1",
        "ff02::fb",
        "fd00::1",
        "2001:470::1",
    ),
)

rules = st.lists(
    st.one_of(
        st.builds(lambda a, b: a + b, st.sampled_from(V4 + V6), st.sampled_from(PORTS)),
        st.sampled_from(SCOPES),
    ),
    max_size=8,
    unique=True,
)


def raw(host: str) -> bytes:
    """Give 16 bytes, IPv4 mapped."""
    address = ipaddress.ip_address(host)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def place(host: str) -> str:
    """Tell the scope, by the words of the contract and nothing of ours."""
    address = ipaddress.ip_address(host)
    lan = (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fe80::/10",
        "fc00::/7",
    )
    if host in ("0.0.0.0", "::") or address.is_loopback:
        return "@loopback"
    if address.is_multicast or host == "255.255.255.255":
        return "multicast"
    inside = (network for network in map(ipaddress.ip_network, lan) if network.version == address.version)
    return "@lan" if any(address in network for network in inside) else "@internet"


def speaks(text: str, host: str, port: int, proto: str, *, deny: bool) -> bool:
    """Tell whether a rule speaks of a peer: one rule, one peer, no table."""
    if text.startswith("@"):
        if text == "@dns":
            return port == 53
        return place(host) == text and (deny or port != 53)
    network, tail = text, ""
    if text.startswith("["):
        network, _, tail = text.partition("]")
        length, _, tail = tail.partition(":")
        network = network[1:] + length
    elif ":" in text:
        network, _, tail = text.partition(":")
    number, _, name = tail.partition("/")
    inside = ipaddress.ip_network(network)
    address = ipaddress.ip_address(host)
    if inside.version != address.version or address not in inside:
        return False
    return number in ("", str(port)) and name in ("", proto)


def test_a_nat64_address_is_judged_as_the_one_inside() -> None:
    """Rules of IPv4 hold for it, whatever part of the local prefix the network uses; it is never loopback."""
    table = compile_policy(Policy("x", ("203.0.113.7",), ("10.0.0.0/8",), default_allow=True))
    for text, denied in (
        ("64:ff9b::10.1.2.3", True),
        ("64:ff9b::203.0.113.7", False),
        ("64:ff9b:1::10.1.2.3", True),
        ("64:ff9b:1:0a01:0002:0300::", True),  # RFC 6052 2.2, a prefix of 48 bits
        ("64:ff9b:1:000a:0001:0203::", True),  # of 56
        ("64:ff9b:1:0000:000a:0102:0300:0", True),  # of 64
        ("64:ff9b:2::10.1.2.3", False),
    ):
        assert table.judge(raw(text), 443, 6).denied is denied, text
    assert compile_policy(Policy("x")).judge(raw("64:ff9b::127.0.0.1"), 443, 6).denied


def test_an_own_address_is_open_unless_it_is_named() -> None:
    """As loopback is: its range does not matter, a rule for it does, and DNS is none of its business."""
    address = raw("192.168.1.5")
    judged = [
        compile_policy(policy).judge(address, port, 6, own=True).denied
        for policy in (
            Policy("x"),
            Policy("x", (), ("@lan",)),
            Policy("x", (), ("@host",)),
            Policy("x", (), ("192.168.0.0/16",)),
        )
        for port in (443, 53)
    ]
    assert judged == [False, True, False, True, True, True, True, True]


def naive(policy: Policy, host: str, port: int, proto: str) -> bool:
    """Say whether a peer is denied: deny beats allow, allow the default; loopback is let be, but not DNS."""
    if any(speaks(text, host, port, proto, deny=True) for text in policy.deny):
        return True
    if any(speaks(text, host, port, proto, deny=False) for text in policy.allow):
        return False
    if policy.default_allow:
        return False
    return not (place(host) == "@loopback" and port != 53)


policies = st.builds(
    lambda allow, deny, default_allow: Policy("ollama", tuple(allow), tuple(deny), default_allow),
    rules,
    rules,
    st.booleans(),
)
PEERS = [(host, port, proto) for host in HOSTS for port in (53, 443, 8080) for proto in ("tcp", "udp")]


@settings(max_examples=60, deadline=None)
@given(policies)
@example(Policy("x", (), ("@internet",), default_allow=True))
@example(Policy("x", ("[::]/0",)))
@example(Policy("x", ("10.1.0.0/16",), ("10.0.0.0/8:443",)))
@example(Policy("x", ("@internet", "127.0.0.0/8:53")))
def test_tables_say_what_the_rules_say(policy: Policy) -> None:
    """Every peer gets the verdict that the rules one by one give, and the rule named speaks of it."""
    table = compile_policy(policy)
    for host, port, proto in PEERS:
        judged = table.judge(raw(host), port, {"tcp": 6, "udp": 17}[proto])
        assert judged.denied == naive(policy, host, port, proto), (host, port, proto)
        if judged.rule:
            way, text = policy.rule_text(judged.rule).split(" ")
            assert way == ("deny" if judged.denied else "allow")
            assert speaks(text, host, port, proto, deny=judged.denied)


@settings(max_examples=60, deadline=None)
@given(rules, rules)
def test_the_longest_prefix_alone_decides(allow: list[str], deny: list[str]) -> None:
    """No prefix has two entries, and none has more rules than the kernel's value has room for."""
    entries = compile_policy(Policy("x", tuple(allow), tuple(deny))).entries
    assert len({entry.prefix for entry in entries}) == len(entries)
    assert all(len(entry.ports) <= PORTS_MAX for entry in entries)


GOOD = {
    "1.2.3.0/24": Addresses(Prefix(0xFFFF_0102_0300, 120), 0, 0),
    "1.2.3.4": Addresses(Prefix(0xFFFF_0102_0304, 128), 0, 0),
    "1.2.3.0/24:443": Addresses(Prefix(0xFFFF_0102_0300, 120), 443, 0),
    "1.2.3.4:443/tcp": Addresses(Prefix(0xFFFF_0102_0304, 128), 443, 6),
    "[2001:db8::]/32": Addresses(Prefix(0x20010DB8 << 96, 32), 0, 0),
    "[2001:db8::1]:53/udp": Addresses(Prefix((0x20010DB8 << 96) + 1, 128), 53, 17),
    "[::ffff:1.2.3.0]/120": Addresses(Prefix(0xFFFF_0102_0300, 120), 0, 0),
    "@dns": ScopeBit.DNS,
    "@lan": ScopeBit.LAN,
    "registry.ollama.ai": Name("registry.ollama.ai", wildcard=False, port=0, proto=0),
    "*.Ollama.ai:443": Name("ollama.ai", wildcard=True, port=443, proto=0),
    "localhost:80/tcp": Name("localhost", wildcard=False, port=80, proto=6),
}


@pytest.mark.parametrize("text", GOOD)
def test_good_rules(text: str) -> None:
    """The grammar of the contract is read as it is meant."""
    assert parse(text, deny=False).match == GOOD[text]


BAD = (
    *(
        "",
        " ",
        "@",
        "@everything",
        "@LAN",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.4/33",
        "1.2.3.4/",
        "1.2.3.4/24",
    ),
    *(
        "01.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:0",
        "1.2.3.4:65536",
        "1.2.3.4:443/",
        "1.2.3.4:443/icmp",
        "1.2.3.4:443/TCP",
    ),
    *(
        "1.2.3.4/tcp",
        "2001:db8::/32",
        "[2001:db8::/32]",
        "[2001:db8::]/129",
        "[2001:db8::1]/32",
        "[fe80::1%eth0]",
    ),
    *(
        "1.2.3.0/24 ",
        "\n1.2.3.4",
        "1.2.3.4\n",
        "a..b",
        "*.",
        "*",
        "a.*.b",
        "-a.b",
        "https://a.b",
        "a/b",
        "a b",
    ),
    *("[1.2.3.4]", "name.ai:99999", "x" * 64 + ".ai", "\x1b[31m", "@dns:53"),
)


@pytest.mark.parametrize("text", BAD)
def test_bad_rules_are_quoted(text: str) -> None:
    """What is no rule is a usage error that quotes it, made safe, and says what would be one."""
    with pytest.raises(UsageError) as refused:
        compile_policy(Policy("ollama", (text,)))
    assert f"'{text}'" in refused.value.message or "\\x" in refused.value.message
    assert refused.value.message.isprintable()
    assert refused.value.hint


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    """No text makes anything but a rule or a usage error."""
    with contextlib.suppress(UsageError):
        assert compile_policy(Policy("ollama", (text,))).policy.allow == (text,)


def test_a_name_carries_the_rules_of_wildcards_above_it() -> None:
    """The kernel finds the longest name only: denials of wider ones come first there, too."""
    policy = Policy("ollama", ("*.ollama.ai:443", "registry.ollama.ai:8443"), ("*.ai:80",))
    entries = {str(entry.pattern): entry for entry in compile_policy(policy).names}
    assert [(port.port, port.deny, port.rule) for port in entries["registry.ollama.ai"].ports] == [
        (80, True, 1),
        (443, False, 2),
        (8443, False, 3),
    ]
    assert [port.port for port in entries["*.ollama.ai"].ports] == [80, 443]
    assert not entries["*.ollama.ai"].deny  # its question may be asked
    assert entries["*.ai"].deny  # nothing at all is allowed of it


def test_a_name_has_one_number_in_every_policy() -> None:
    """Addresses that were opened for it stay open when the policy is replaced."""
    one = compile_policy(Policy("x", ("registry.ollama.ai",))).names
    other = compile_policy(Policy("y", ("a.example", "registry.ollama.ai:443/udp"), ("z.example",))).names
    assert one[0].id in {entry.id for entry in other}


def test_a_name_allows_tcp_unless_it_says_otherwise() -> None:
    """The server's name can be read in TLS over TCP; `+plain` does without, for that rule alone."""
    policy = Policy("x", ("a.example", "b.example:443/udp", "c.example:22+plain", "d.example+lan+plain"))
    names = {entry.pattern.name: entry for entry in compile_policy(policy).names}
    ports = {name: entry.ports[0] for name, entry in names.items()}
    assert [ports[name].proto for name in sorted(ports)] == [6, 17, 6, 6]
    assert [ports[name].plain for name in sorted(ports)] == [False, False, True, True]
    assert [names[name].lan for name in sorted(ports)] == [False, False, False, True]


def test_a_name_that_does_not_fit_is_refused() -> None:
    """120 bytes as DNS writes them; the rule is quoted."""
    long = ".".join(["a" * 60, "b" * 60, "example"])
    with pytest.raises(UsageError, match="too long") as refused:
        compile_policy(Policy("x", (long,)))
    assert "aaaa" in refused.value.message


def test_a_name_as_dns_writes_it() -> None:
    """Each label after its length, and the root (RFC 1035 3.1)."""
    entry = compile_policy(Policy("x", ("*.Ollama.AI.",))).names[0]
    assert entry.pattern.wire == b"\x06ollama\x02ai\x00"
    assert entry.pattern.wildcard


def test_too_many_ports_name_the_rules() -> None:
    """More port rules than a prefix has room for are refused by name, wider prefixes' included."""
    wide = tuple(f"10.0.0.0/8:{port}" for port in range(1, PORTS_MAX + 1))
    compile_policy(Policy("x", wide))
    with pytest.raises(UsageError) as refused:
        compile_policy(Policy("x", (*wide, "10.1.0.0/16:99")))
    assert "10.1.0.0/16" in refused.value.message
    assert "'10.1.0.0/16:99'" in refused.value.message
    assert "'10.0.0.0/8:7'" in refused.value.message


def test_what_changes_nothing_takes_no_room() -> None:
    """A rule without port makes narrower ones of its kind superfluous; a denial all others."""
    many = tuple(f"10.0.0.0/8:{port}" for port in range(1, 40))
    allowed = compile_policy(Policy("x", ("10.0.0.0/8", *many))).entries
    denied = compile_policy(Policy("x", many, ("10.0.0.0/8",))).entries
    assert [len(entry.ports) for entry in (*allowed, *denied)] == [1, 1]


def test_ten_thousand_prefixes() -> None:
    """Thousands of prefixes make as many entries, each with its own rule and the wider one's."""
    nets = tuple(f"10.{i >> 8}.{i & 255}.0/24:443" for i in range(10_000))
    entries = compile_policy(Policy("x", (*nets, "10.0.0.0/8:80"))).entries
    assert len(entries) == 10_001
    assert [len(entry.ports) for entry in entries] == [1] + [2] * 10_000


def test_numbers_agree_with_the_kernel_half() -> None:
    """Scope bits, modes and the room for port rules are those of bpf/abi.h."""
    enums = Abi.from_object(OBJECT.read_bytes()).enums
    assert {f"SCOPE_{bit.name}": 1 << bit for bit in ScopeBit} == enums["scope_bit"]
    assert enums["limits"]["RULE_PORTS"] == PORTS_MAX
