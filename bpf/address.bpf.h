/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses as 16 bytes, and where they stand in a packet. */
#ifndef TATTLE_ADDRESS_BPF_H
#define TATTLE_ADDRESS_BPF_H

#include "maps.h"

union address {
	__u8 bytes[ADDRESS_LEN];
	__u32 words[4]; /* network byte order */
	__u64 halves[2];
};

static __always_inline void from_ipv4(union address *address, __u32 ip)
{
	address->halves[0] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = ip;
}

/*
 * From the words of a context. The context may only be read 32 bits at a time, and volatile keeps the
 * compiler from joining two reads into one.
 */
static __always_inline void from_ipv6(union address *address, const volatile __u32 *words)
{
	address->words[0] = words[0];
	address->words[1] = words[1];
	address->words[2] = words[2];
	address->words[3] = words[3];
}

static __always_inline bool same_address(const void *a, const void *b)
{
	const union address *x = a, *y = b;

	return x->halves[0] == y->halves[0] && x->halves[1] == y->halves[1];
}

/* 127.0.0.0/8 (RFC 1122 3.2.1.3) and ::1; unspecified addresses too: Linux takes them for this host. */
static __always_inline bool is_loopback(const union address *address)
{
	if (address->halves[0])
		return false;
	if (address->words[2] == bpf_htonl(0xffff))
		return !address->words[3] || address->bytes[12] == 127;
	return !address->words[2] && (address->words[3] & bpf_htonl(~1U)) == 0;
}

/*
 * The IPv4 address that a NAT64 speaks to in our place: behind 64:ff9b::/96 (RFC 6052 2.1) in the last four
 * bytes. Behind 64:ff9b:1::/48 (RFC 8215) the network has chosen how much its prefix has of the 96 bits;
 * where it chose less, nothing follows the IPv4 address (RFC 6052 2.2), whose last byte is not 0.
 */
static __always_inline __u32 nat64_inside(const union address *address)
{
	const __u8 *bytes = address->bytes;
	union {
		__u8 bytes[4];
		__u32 word;
	} ip = {.word = address->words[3]};

	if (!address->words[1] || bytes[13] || bytes[14] || bytes[15])
		return ip.word;
	ip.bytes[3] = bytes[12] ? bytes[12] : bytes[11] ? bytes[11] : bytes[10];
	ip.bytes[2] = bytes[12] ? bytes[11] : bytes[11] ? bytes[10] : bytes[9];
	ip.bytes[1] = bytes[12] ? bytes[10] : bytes[11] ? bytes[9] : bytes[7];
	ip.bytes[0] = bytes[12] ? bytes[9] : bytes[11] ? bytes[7] : bytes[6];
	return ip.word;
}

static __always_inline bool is_nat64(const union address *address)
{
	if (address->words[0] != bpf_htonl(0x0064ff9b))
		return false;
	return (!address->words[1] && !address->words[2]) ||
	       (address->words[1] & bpf_htonl(0xffff0000)) == bpf_htonl(0x00010000);
}

/* What a packet says of its peer. */
struct peer {
	union address remote;
	__be16 port; /* 0: the protocol has none */
	__u8 proto;
	__u8 host; /* 1: the address is this host's own */
};

/* All of it but the address, for functions that take numbers only. */
static __always_inline __u32 peer_word(const struct peer *peer)
{
	return (__u32)peer->port << 16 | (__u32)peer->host << 8 | peer->proto;
}

struct ipv4_header { /* RFC 791 3.1 */
	__u8 version_words;
	__u8 tos;
	__be16 length, id, fragment;
	__u8 ttl, proto;
	__be16 checksum;
	__be32 source, destination;
};

enum { IPV6_EXTENSIONS = 6 }; /* so many are looked behind; a packet with more is unreadable */

struct ipv6_header { /* RFC 8200 3 */
	__be32 version_class_label;
	__be16 payload_length;
	__u8 next, hop_limit;
	union address source, destination;
};

/*
 * The kernel pulls the headers that it has parsed into the packet's linear part, and writes its own
 * there; reading them is a load. False: not there. The barrier keeps the pointer that was compared
 * and the one that is read the same to the verifier.
 */
#define load(skb, offset, to)                                               \
	({                                                                  \
		void *_at = (void *)(long)(skb)->data + (offset);           \
		bool _linear = false;                                       \
		asm volatile("" : "+r"(_at));                               \
		if (_at + sizeof(*(to)) <= (void *)(long)(skb)->data_end) { \
			*(to) = *(typeof(to))_at;                           \
			_linear = true;                                     \
		}                                                           \
		_linear;                                                    \
	})

static __always_inline bool has_ports(__u8 proto)
{
	return proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_UDPLITE || proto == PROTO_SCTP ||
	       proto == PROTO_DCCP;
}

static __always_inline bool is_extension(__u8 proto)
{
	return proto == PROTO_HOPOPTS || proto == PROTO_ROUTING || proto == PROTO_DSTOPTS ||
	       proto == PROTO_FRAGMENT || proto == PROTO_AH;
}

/*
 * Behind the extension headers (RFC 8200 4): the transport's offset, with its protocol in the low byte;
 * 0 where that is not to be found.
 */
checked_once __u32 ipv6_transport(struct __sk_buff *skb, __u32 next)
{
	__u32 offset = sizeof(struct ipv6_header);
	__u8 proto = next;
	struct {
		__u8 next, words;
	} head;

	for (int i = 0; i < IPV6_EXTENSIONS && is_extension(proto); i++) {
		if (!load(skb, offset, &head))
			return 0;
		if (proto == PROTO_FRAGMENT)
			offset += 8;
		else if (proto == PROTO_AH)
			offset += (head.words + 2) * 4;
		else
			offset += (head.words + 1) * 8;
		proto = head.next;
	}
	return is_extension(proto) ? 0 : offset << 8 | proto;
}

/* Returns the length of the IP headers, or 0 where the packet cannot be read. */
static __always_inline __u32 read_ipv4(struct __sk_buff *skb, bool out, struct peer *peer)
{
	struct ipv4_header ip;

	if (!load(skb, 0, &ip))
		return 0;
	from_ipv4(&peer->remote, out ? ip.destination : ip.source);
	peer->proto = ip.proto;
	return (ip.version_words & 15) * 4;
}

static __always_inline __u32 read_ipv6(struct __sk_buff *skb, bool out, struct peer *peer)
{
	struct ipv6_header ip;
	__u32 transport;

	if (!load(skb, 0, &ip))
		return 0;
	peer->remote = out ? ip.destination : ip.source;
	transport = ipv6_transport(skb, ip.next);
	peer->proto = transport;
	return transport >> 8 & 0x3fff; /* said again for the verifier */
}

/* Who is at the other end of this packet; false: unreadable. */
static __always_inline bool read_peer(struct __sk_buff *skb, bool out, struct peer *peer)
{
	struct {
		__be16 source, destination;
	} ports;
	__u32 offset =
		skb->protocol == bpf_htons(ETH_P_IP) ? read_ipv4(skb, out, peer) : read_ipv6(skb, out, peer);

	peer->port = 0;
	peer->host = skb->ifindex == LOOPBACK_IFINDEX; /* where the kernel routes what is its own */
	if (!offset)
		return false;
	if (!has_ports(peer->proto))
		return true;
	if (!load(skb, offset, &ports))
		return false;
	peer->port = out ? ports.destination : ports.source;
	return true;
}

/* Where the transport's header starts (upper half) and ends; 0: unreadable. */
checked_once __u32 transport_header(struct __sk_buff *skb)
{
	struct peer peer = {};
	__u32 offset = skb->protocol == bpf_htons(ETH_P_IP) ? read_ipv4(skb, true, &peer)
							    : read_ipv6(skb, true, &peer);
	__u8 words;

	if (!offset)
		return 0;
	if (peer.proto != PROTO_TCP)
		return offset << 16 | (offset + 8); /* UDP, RFC 768 */
	if (!load(skb, offset + 12, &words))
		return 0;
	return offset << 16 | (offset + (words >> 4) * 4); /* RFC 9293 3.1: data offset */
}

/* The verifier wants a bound below 64 KiB. The compiler must not know that there is one anyway. */
static __always_inline __u32 transport_at(__u32 header)
{
	asm volatile("" : "+r"(header));
	return header >> 16 & 0x3fff;
}

/* IP and transport header of a packet, which each further segment repeats. */
static __always_inline __u32 header_bytes(struct __sk_buff *skb)
{
	return transport_header(skb) & 0xffff;
}

static __always_inline bool has_payload(struct __sk_buff *skb)
{
	return skb->len > header_bytes(skb);
}

#endif /* TATTLE_ADDRESS_BPF_H */
