/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How much of what leaves is data and no header, so that keep-alives and bare ACKs are not taken for it.
 *
 * Of TCP it is how far the sequence numbers of the data advance: a byte that is sent again is the same
 * byte, and a keep-alive, which repeats a number that was sent (RFC 9293 3.8.4), carries none whether it
 * has a garbage byte or not. Of a socket that was open before us the first packet with data tells where it
 * stands, and counts whole. MPTCP may send a byte on two connections: then it counts on both.
 * Of a datagram it is what stands behind the UDP header, of other protocols behind the IP header.
 */
#ifndef TATTLE_PAYLOAD_BPF_H
#define TATTLE_PAYLOAD_BPF_H

#include "socket.bpf.h"

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4 }; /* RFC 9293 3.1 */

static __noinline __u32 tcp_payload(struct __sk_buff *skb, struct socket_state *state)
{
	__u32 header = transport_header(skb), offset = header & 0xffff, end, length;
	struct {
		__be32 sequence, acknowledged;
		__u8 words, flags;
	} tcp;
	__s32 fresh;

	if (!header || skb->len <= offset || !load(skb, transport_at(header) + 4, &tcp))
		return 0;
	length = skb->len - offset;
	end = bpf_ntohl(tcp.sequence) + !!(tcp.flags & TCP_SYN) + length;
	fresh = state->flags & SOCKET_SENT_TO ? (__s32)(end - state->sent_to) : (__s32)length;
	if (fresh <= 0)
		return 0;
	state->sent_to = end;
	state->flags |= SOCKET_SENT_TO;
	return (__u32)fresh < length ? (__u32)fresh : length;
}

static __noinline __u32 datagram_payload(struct __sk_buff *skb)
{
	__u32 header = transport_header(skb), offset = header & 0xffff;
	struct peer peer = {};

	if (header && read_peer(skb, true, &peer) && peer.proto != PROTO_UDP && peer.proto != PROTO_UDPLITE)
		offset = header >> 16;
	return header && skb->len > offset ? skb->len - offset : 0;
}

static __always_inline void measure_datagram(struct __sk_buff *skb, struct amount *amount, bool out)
{
	measure_wire(skb, amount);
	if (out)
		amount->payload = datagram_payload(skb);
}

/* Of a socket with one peer. */
static __always_inline void measure(struct __sk_buff *skb, struct socket_state *state, struct amount *amount,
				    bool out)
{
	measure_wire(skb, amount);
	if (out && state->flow.proto == PROTO_TCP)
		amount->payload = tcp_payload(skb, state);
	else if (out)
		amount->payload = datagram_payload(skb);
}

#endif /* TATTLE_PAYLOAD_BPF_H */
