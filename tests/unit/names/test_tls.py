"""What clients say first: TLS, HTTP and QUIC, split and hostile; compared with the clients that said it."""

from __future__ import annotations

import contextlib
import io
import ssl
import struct
from typing import TYPE_CHECKING

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.hellos import QUIC_V1, QUIC_V2, client, extension, in_records, message, quic, server_name
from tracer.names.quic import Initials, Packet, client_keys, decrypt, packets, pieces
from tracer.names.reassembly import AGE_NS
from tracer.names.tls import BROKEN, HELLO_MAX, Hello, Kind, client_hello, hello_message, read

if TYPE_CHECKING:
    from collections.abc import Sequence

NONE = Hello(Kind.NONE)


def sni(name: str) -> Hello:
    """Give a hello with this name."""
    return Hello(Kind.SNI, name)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_clients_hello(newest: ssl.TLSVersion) -> None:
    """OpenSSL's own, in lower case."""
    assert client_hello(client("Registry.Ollama.AI", newest)) == sni("registry.ollama.ai")
    assert client_hello(client(None, newest)) == NONE


def test_every_beginning_waits_for_more() -> None:
    """No prefix of a hello is taken for one, or for broken."""
    whole = client("a.example")
    for cut in range(len(whole)):
        assert client_hello(whole[:cut]) is None, cut


def test_large_hellos() -> None:
    """1,700 bytes with a post-quantum key share, and the largest that is read; a larger one is broken."""
    assert client_hello(in_records(message(server_name(b"a.example"), size=1700))) == sni("a.example")
    assert client_hello(in_records(message(server_name(b"a.example"), size=HELLO_MAX - 8))) == sni(
        "a.example"
    )
    assert client_hello(b"\x16\3\1\x40\0\1" + (HELLO_MAX + 1).to_bytes(3) + bytes(16380)) == BROKEN


def test_split_over_records() -> None:
    """In three records, in the name, after its first byte."""
    hello = message(server_name(b"www.example"))
    at = hello.index(b"www.example")
    for cuts in ((5, at + 3), (1,), (at,), (at + 4, at + 5)):
        assert client_hello(in_records(hello, cuts)) == sni("www.example")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((b"203.0.113.7",), NONE),
        ((b"2001:db8::1",), NONE),
        ((b"a\0b.example",), BROKEN),
        ((b"a" * 256,), BROKEN),
        ((b"a" * 64 + b".example",), NONE),
        ((b"\xff\xfe.example",), BROKEN),
        (("münchen.example".encode(),), BROKEN),
        ((b"a.example", b"b.example"), BROKEN),
        ((b"",), NONE),
        ((b"a..example",), NONE),
        ((b"a.example.",), sni("a.example")),
        ((b"\x1b[31m.example",), sni(r"\027[31m.example")),
        ((b"xn--80ak6aa92e.example",), sni("xn--80ak6aa92e.example")),
    ],
)
def test_odd_names(names: tuple[bytes, ...], expected: Hello) -> None:
    """An address is no name, spoiled ones are broken, and escapes are printable; nothing is printed."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert client_hello(in_records(message(server_name(*names)))) == expected
    assert not said.getvalue()


def test_encrypted_hellos_are_marked() -> None:
    """The outer name is told as such."""
    ech = extension(0xFE0D, b"\0" + bytes(40))
    assert client_hello(in_records(message(server_name(b"outer.example"), ech))) == Hello(
        Kind.ECH, "outer.example"
    )
    assert client_hello(in_records(message(ech))) == Hello(Kind.ECH, None)


def test_extensions_twice_are_broken() -> None:
    """Two servers' names in two extensions: no guess which one the server takes."""
    assert client_hello(in_records(message(server_name(b"a.example"), server_name(b"b.example")))) == BROKEN


def test_no_extensions_at_all() -> None:
    """As clients of long ago."""
    body = b"\3\3" + bytes(32) + b"\0\0\2\0\x2f\1\0"
    assert client_hello(in_records(b"\1" + len(body).to_bytes(3) + body)) in (NONE, BROKEN)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: A.example:8080\r\n\r\n", "a.example"),
        (b"POST /x HTTP/1.1\r\nAccept: */*\r\nhost:b.example\r\n", "b.example"),
        (b"GET / HTTP/1.0\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: 198.51.100.7\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", None),
        (b"CONNECT c.example:443 HTTP/1.1\r\nHost: other.example\r\n\r\n", "c.example"),
        (b"GET / HTTP/1.1\r\nX: y\r\n\r\nHost: body.example\r\n", None),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a.example", None),
        (b"SSH-2.0-x\r\nHost: a.example\r\n", None),
    ],
)
def test_plain_http(said: bytes, name: str | None) -> None:
    """The host of a request's head, not of its body; an address is no name."""
    found = read(said).hello
    assert (found.name if found else None) == name


def test_behind_a_proxy_and_starttls() -> None:
    """The hello that comes later wins: in the same segment, in the next, behind plain text."""
    hello = client("inner.example")
    connect = b"CONNECT proxy.example:443 HTTP/1.1\r\n\r\n"
    assert read(connect + hello).hello == sni("inner.example")
    assert read(connect + hello, [0, len(connect)]).over
    assert read(connect + hello[:50], [0, len(connect)]).hello == Hello(Kind.HOST, "proxy.example")
    plain = b"EHLO x\r\nSTARTTLS\r\n"
    assert read(plain + hello, [0, 8, len(plain)]).hello == sni("inner.example")
    assert read(plain).hello is None


def test_a_hello_inside_of_a_hello_is_not_read() -> None:
    """A segment of a hello that looks like another one cannot replace it."""
    fake = in_records(message(server_name(b"fake.example")))
    real = in_records(message(server_name(b"real.example"), extension(0x1A1A, fake), size=3000))
    at = real.index(fake)
    assert read(real[: at + len(fake)], [0, at]).hello is None
    assert read(real, [0, at]).hello == sni("real.example")


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_mutated_hellos(data: st.DataObject) -> None:
    """Nothing is raised or printed, whatever bytes change."""
    wire = bytearray(
        data.draw(st.sampled_from([client("a.example"), in_records(message(server_name(b"x")))]))
    )
    for at in data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=8)):
        wire[at] = data.draw(st.integers(0, 255))
    read(bytes(wire[: data.draw(st.integers(0, len(wire)))]))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.lists(st.integers(0, 250), max_size=4))
def test_any_bytes(data: bytes, starts: list[int]) -> None:
    """Random bytes raise nothing, alone and as a hello's, a record's or a request's rest."""
    for before in (b"", b"\x16\3\1\0\x40\1\0\0\x3c", b"\x16\3\1", b"GET / HTTP/1.1\r\n"):
        read(before + data, sorted({0, *starts}))
    hello_message(b"\1" + len(data).to_bytes(3) + data)


# RFC 9001 appendix A.1 and RFC 9369 appendix A.1
VECTORS = {
    QUIC_V1: (
        "1f369613dd76d5467730efcbe3b1a22d",
        "fa044b2f42a3fd3b46fb255c",
        "9f50449e04a0e810283a1e9933adedd2",
    ),
    QUIC_V2: (
        "8b1a0bc121284290a29e0971b5cd045d",
        "91f73e2351d8fa91660e909f",
        "45b95e15235d6f45a6b19cbcb0294ba9",
    ),
}
DESTINATION = bytes.fromhex("8394c8f03e515708")


@pytest.mark.parametrize("version", VECTORS)
def test_keys_are_those_of_the_rfcs(version: int) -> None:
    """Key, nonce and header key for the connection id of the appendices."""
    assert tuple(value.hex() for value in client_keys(DESTINATION, version)) == VECTORS[version]


# RFC 9001 A.2: the CRYPTO frame of the sample packet, whose hello names example.com
FRAME = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000"
    "c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e000500"
    "050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003"
    "020304000d0010000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff050480"
    "00ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff"
)
HEAD = bytes.fromhex("c300000001088394c8f03e5157080000449e00000002")


def test_the_sample_packet_of_rfc_9001() -> None:
    """Protected as appendix A.2 says, by another library: its name is read."""
    pair = CryptoPair()
    pair.setup_initial(DESTINATION, is_client=True, version=QuicProtocolVersion.VERSION_1)
    wire = pair.encrypt_packet(HEAD, FRAME.ljust(1162, b"\0"), 2)
    assert wire.hex().startswith("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11")
    assert Initials(pytest.fail).read(1, wire, 0) == sni("example.com")


def initial(
    frames: bytes, number: int = 0, version: int = QUIC_V1, destination: bytes = DESTINATION
) -> bytes:
    """Have aioquic protect an Initial packet with these frames."""
    pair = CryptoPair()
    pair.setup_initial(DESTINATION, is_client=True, version=version)
    frames = frames.ljust(1100, b"\0")
    first = 0xC3 if version == QUIC_V1 else 0xD3
    ids = bytes([len(destination)]) + destination + b"\0"
    length = (0x4000 | 4 + len(frames) + 16).to_bytes(2)
    head = bytes([first]) + version.to_bytes(4) + ids + b"\0" + length + number.to_bytes(4)
    return pair.encrypt_packet(head, frames, number)


def crypto(at: int, data: bytes) -> bytes:
    """Write a CRYPTO frame, RFC 9000 19.6."""
    return b"\6" + (0x80000000 | at).to_bytes(4) + (0x4000 | len(data)).to_bytes(2) + data


def hear(initials: Initials, datagrams: Sequence[bytes]) -> list[Hello | None]:
    """Read datagrams of one connection."""
    return [initials.read("key", datagram, 0) for datagram in datagrams]


@pytest.mark.parametrize("version", [QUIC_V1, QUIC_V2])
def test_a_quic_clients_first_datagram(version: int) -> None:
    """aioquic's, of both versions."""
    assert hear(Initials(pytest.fail), quic("Quic.Example", version)) == [sni("quic.example")]


@pytest.mark.parametrize("version", [QUIC_V1, QUIC_V2])
def test_a_hello_over_several_initials(version: int) -> None:
    """Frames in any order, over two datagrams, with PING, ACK and padding between them, one sent twice."""
    hello = message(server_name(b"www.example"), size=1500)
    parts = [hello[:20], hello[20:700], hello[700:]]
    places = [0, 20, 700]
    one = initial(crypto(20, parts[1]) + b"\1\0\0" + b"\2\0\0\0\0" + crypto(0, parts[0][:5]), 0, version)
    two = initial(crypto(700, parts[2]), 1, version)
    last = initial(crypto(places[0], parts[0]), 2, version)
    assert hear(Initials(pytest.fail), [two, one, one, last, last]) == [
        *(None, None, None),
        sni("www.example"),
        None,
    ]


def test_later_packets_carry_the_servers_id() -> None:
    """Their keys are still those of the first packet's id."""
    hello = message(server_name(b"www.example"))
    one = initial(crypto(0, hello[:50]), 0)
    two = initial(crypto(50, hello[50:]), 1, destination=b"serverid")
    assert hear(Initials(pytest.fail), [one, two]) == [None, sni("www.example")]
    assert hear(Initials(pytest.fail), [two]) == [None]


def test_packets_in_one_datagram() -> None:
    """Several Initials behind each other are all read."""
    hello = message(server_name(b"www.example"))
    assert hear(
        Initials(pytest.fail), [initial(crypto(0, hello[:50])) + initial(crypto(50, hello[50:]), 1)]
    ) == [sni("www.example")]


def test_a_spoiled_packet_is_no_packet() -> None:
    """One bit changed anywhere: nothing is read, nothing raised."""
    wire = quic("a.example")[0]
    _, packet = next(packets(wire))
    for at in range(0, len(packet.data), 31):
        spoiled = bytearray(wire)
        spoiled[at] ^= 0x40
        assert hear(Initials(lambda: None), [bytes(spoiled)]) == [None]


@pytest.mark.parametrize(
    "frames",
    [
        b"\x08\0\0",
        crypto(0, b"\1" + bytes(2000))[:100],
        b"\6\xff\xff\xff\xff\xff\xff\xff\xff\1x",
        b"\x1c",
    ],
)
def test_odd_frames(frames: bytes) -> None:
    """Frames that an Initial packet must not have, or without their end, give no hello."""
    assert hear(Initials(pytest.fail), [initial(frames)]) == [None]


def test_connections_are_bounded() -> None:
    """A flood of beginnings keeps `most`; each one given up is counted, old ones are forgotten."""
    gone: list[int] = []
    initials = Initials(lambda: gone.append(1), most=8)
    begun = initial(crypto(0, message(server_name(b"a"))[:50]))
    for key in range(30):
        initials.read(key, begun, 0)
    assert (len(initials), len(gone)) == (8, 22)
    assert initials.tidy(AGE_NS) == 8
    assert len(initials) == 0


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=120), st.integers(0, 3))
def test_any_datagram(data: bytes, kind: int) -> None:
    """Random bytes behind the head of a packet, and as frames, raise nothing."""
    initials = Initials(lambda: None)
    for version in (QUIC_V1, QUIC_V2):
        head = bytes([0xC0 | kind << 4]) + struct.pack(">I", version)
        initials.read(1, head + data, 0)
        for _, packet in packets(head + data):
            decrypt(packet, client_keys(packet.connection, version))
    initials.read(1, data, 0)
    pieces(data)
    assert isinstance(next(packets(quic("a.example")[0]))[1], Packet)
