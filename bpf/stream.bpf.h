/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Messages in a stream of TCP: several may share a packet, and one may come in several.
 *
 * An incomplete message that a program has not written to its end is held: its packet is dropped, and TCP
 * sends it again together with what is written next. Only a packet that is as large as packets get leaves
 * before its last message is complete; what it had of that is kept in `pieces`. An incomplete message tells
 * the other side nothing, for no server acts on one.
 */
#ifndef TATTLE_STREAM_BPF_H
#define TATTLE_STREAM_BPF_H

#include "address.bpf.h"

enum {
	IN_PIECES = 1 << 20,	       /* an offset into `pieces` instead of into the packet */
	PIECES_CAME = PIECES_ROOM / 2, /* where bytes that came stand there */
	TCP_OPTIONS_MAX = 40,	       /* RFC 9293 3.1; they take room from the segment's data */
};

#define UNREAD (1ULL << 32) /* what word_at() returns for bytes that are not there */

/* Is a packet's content allowed to leave? */
enum passage {
	PASSAGE_YES,
	PASSAGE_NO,
	PASSAGE_ON,   /* it may, and what it is decides what comes next */
	PASSAGE_HELD, /* not yet: it is incomplete */
};

static __always_inline struct pieces *pieces_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? socket_lookup(pieces, sk) : NULL;
}

static __always_inline bool in_pieces(const struct pieces *kept, __u32 at, __u32 size)
{
	__u32 end = at < PIECES_CAME || !kept->came ? kept->left : PIECES_CAME + kept->came;

	return at + size <= end;
}

/* Up to 4 bytes at an offset, as a big-endian number; UNREAD: they are not there. */
checked_once __u64 word_at(struct __sk_buff *skb, __u32 offset, __u32 size)
{
	const struct pieces *kept;
	__be32 word = 0;
	bounded last = size - 1;

	asm volatile("" : "+r"(last));
	if (last > 3)
		return UNREAD;
	if (!(offset & IN_PIECES))
		return bpf_skb_load_bytes(skb, offset, &word, last + 1) ? UNREAD
									: bpf_ntohl(word) >> (3 - last) * 8;
	kept = pieces_of(skb);
	offset &= IN_PIECES - 1;
	if (!kept || !in_pieces(kept, offset, size) ||
	    bpf_probe_read_kernel(&word, last + 1, kept->bytes + (offset & (PIECES_ROOM - 1))))
		return UNREAD;
	return bpf_ntohl(word) >> (3 - last) * 8;
}

/* Copy what stands at an offset; `last` is below a bound that the verifier knows. False: it is not there. */
static __always_inline bool text_at(struct __sk_buff *skb, __u32 offset, void *to, bounded last)
{
	const struct pieces *kept;

	if (!(offset & IN_PIECES))
		return !bpf_skb_load_bytes(skb, offset, to, last + 1);
	kept = pieces_of(skb);
	offset &= IN_PIECES - 1;
	return kept && in_pieces(kept, offset, last + 1) &&
	       !bpf_probe_read_kernel(to, last + 1, kept->bytes + (offset & (PIECES_ROOM - 1)));
}

/* Copy up to PIECE_LEN bytes of a packet to a place in `pieces`; returns how many, 0: none. */
checked_once __u32 copy_piece(struct __sk_buff *skb, __u32 offset, __u32 size, __u32 at)
{
	struct pieces *kept = pieces_of(skb);
	bounded last = (size < PIECE_LEN ? size : PIECE_LEN) - 1, place = at;

	asm volatile("" : "+r"(last), "+r"(place));
	if (!kept || place >= PIECES_ROOM || last >= PIECE_LEN ||
	    bpf_skb_load_bytes(skb, offset, kept->bytes + place, last + 1))
		return 0;
	return last + 1;
}

/* Copy `size` bytes; false: there is no room for them. */
checked_once int copy_pieces(struct __sk_buff *skb, __u32 offset, __u32 size, __u32 at)
{
	if (at + size > PIECES_ROOM)
		return false;
	for (int i = 0; i < PIECES_ROOM / PIECE_LEN && size; i++) {
		__u32 copied = copy_piece(skb, offset, size, at);

		if (!copied)
			return false;
		offset += copied;
		at += copied;
		size -= copied;
	}
	return !size;
}

static __always_inline struct pieces *pieces_new(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk, *whole = sk ? bpf_sk_fullsock(sk) : NULL;
	struct pieces *kept = whole ? socket_create(pieces, whole) : NULL;

	if (!kept)
		lost(LOSS_STORAGE_REFUSED);
	return kept;
}

static __always_inline void pieces_forget(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk, *whole = sk ? bpf_sk_fullsock(sk) : NULL;

	if (whole)
		socket_forget(pieces, whole);
}

/* Is this packet as large as packets of its connection get? Then no waiting makes it larger. */
static __always_inline bool is_full(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk, *whole = sk ? bpf_sk_fullsock(sk) : NULL;
	struct bpf_tcp_sock *tcp = whole ? bpf_tcp_sock(whole) : NULL;
	__u32 payload = skb->len - (transport_header(skb) & 0xffff);

	return !tcp || payload + TCP_OPTIONS_MAX >= tcp->mss_cache;
}

/* TCP's number of the first byte of data (RFC 9293 3.1); a SYN counts as one before. False: unreadable. */
static __always_inline bool read_sequence(struct __sk_buff *skb, __u32 header, __u32 *sequence)
{
	struct {
		__be32 sequence, acknowledged;
		__u8 words, flags;
	} __attribute__((packed)) tcp;

	if (!load(skb, transport_at(header) + 4, &tcp))
		return false;
	*sequence = bpf_ntohl(tcp.sequence) + (tcp.flags >> 1 & 1);
	return true;
}

/* How many bytes of one place in a stream are before another; negative: it is behind. */
static __always_inline __s32 until(__u32 from, __u32 to)
{
	return to - from;
}

#endif /* TATTLE_STREAM_BPF_H */
