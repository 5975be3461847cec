/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Every structure and number that the kernel half and the user half share, once.
 *
 * The user half never repeats a layout: it reads these types from the BTF of the object that it
 * loads (tracer/bpf/abi.py) and refuses to start where a field that it needs is missing. Hence numbers
 * are enums (a #define is not in BTF), addresses are 16 bytes (IPv4 as ::ffff:a.b.c.d, RFC 4291
 * 2.5.5.2), and what is in network byte order has a __be type.
 */
#ifndef TATTLE_ABI_H
#define TATTLE_ABI_H

#include <linux/bpf.h>
#include <linux/types.h>

enum limits {
	COMM_LEN = 16, /* TASK_COMM_LEN, include/linux/sched.h */
	ADDRESS_LEN = 16,
	EXE_PART_LEN = 128,
	EXE_ROOM = 512, /* a part may start below; a power of two */
	EXE_LEN = EXE_ROOM + EXE_PART_LEN,
	EXE_PARTS = 32,
	RULE_PORTS = 16,       /* port rules that one prefix can have, wider prefixes' included */
	CGROUP_DEPTH = 16,     /* levels that are searched for a target above an unknown cgroup */
	REPLY_SECONDS = 60,    /* a datagram server may answer so long after it was asked */
	DENY_REPORT_MS = 1000, /* denials of one flow are reported so often, with their number */
	FLUSH_SLOTS = 256,     /* slots that one run of `flush` folds */
	CGROUP_PATH_LEN = 256,
	SAMPLE_SHORT = 512, /* bytes of a packet that a sample of either size has room for */
	SAMPLE_LONG = 2048,
	HELLO_PACKETS = 8,   /* of data, that a client's socket is looked at for its first words */
	HELLO_PIECES = 64,   /* so many, once a TLS hello has begun */
	HELLO_DATAGRAMS = 3, /* so many, of QUIC: a hello may need two */
	NAME_LEN = 120,	     /* bytes of a name in a rule, as DNS writes it (RFC 1035 3.1) */
	LABELS = 16,	     /* labels of a name that may match a rule */
	OPENINGS = 4,	     /* names that can open one address at the same time */
	LOOKUPS = 64,	     /* queries that wait for their answer on one socket */
	LOOKUP_SECONDS = 10, /* an answer that is later opens nothing */
	FOREIGN_SECONDS = 2, /* an address that was another host's is taken for one so long */
	OPEN_SECONDS = 60,   /* an answer opens for its TTL, but at least so long */
	PIECES_ROOM = 16384, /* bytes of a stream that wait for the rest of their message; a power of two */
	PIECE_LEN = 512,     /* so many are copied in one go */
	CUT_MS = 1200,	     /* a connection that is denied ends by itself so long after its first timer */
	OPEN_SECONDS_MAX = 86400,
	PATH_LEN = 64,	       /* bytes of a request line that are looked at */
	PHASE_ROOM = 8,	       /* counts of requests by phase; a power of two */
	TALK_DEPTH = 8,	       /* requests that one connection may have in flight; a power of two */
	GRACE_SECONDS = 5,     /* a server that has begun to listen is starting up so much longer */
	SET_MEMBERS = 4,       /* targets that one process or socket can be in */
	SETS_FROM = 1 << 16,   /* numbers from here on stand for a set of targets */
	SETS = 4096,	       /* sets that can be known */
	TARGET_HELD = 1 << 30, /* bit of a target's number: undecided, its packets are dropped */
	PART_LEN = 124,	    /* bytes of a part of an executable's path that a rule may name, with its NUL */
	TEXT_LEN = 4096,    /* PATH_MAX, include/uapi/linux/limits.h */
	PROGRAM_DEPTH = 32, /* parts of a path that are compared with rules */
	GLOBS = 32,
	GLOB_LEN = 56,	/* bytes before and behind the `*` of a pattern; whole words */
	ARGUMENTS = 12, /* arguments that are searched for an interpreter's script */
};

enum event_kind {
	EVENT_CONNECT = 1,
	EVENT_ESTABLISHED,
	EVENT_SEND,
	EVENT_CLOSE,
	EVENT_DENY,
	EVENT_ACCEPT,
};

enum direction {
	DIRECTION_OUT = 0,
	DIRECTION_IN = 1,
};

enum verdict {
	VERDICT_ALLOWED = 0,
	VERDICT_DENIED = 1,
	VERDICT_WOULD_DENY = 2,
};

/* What a runtime was doing when a byte left: its own API says so (see http.bpf.h). */
enum phase {
	PHASE_UNKNOWN = 0, /* no runtime, or none whose API is known */
	PHASE_STARTUP,	   /* from its start to its first listening socket, and a grace */
	PHASE_IDLE,
	PHASE_INFERENCE,
	PHASE_PULL,
	PHASE_ACCOUNT,
	PHASES,
};

/* Packets of which a part is copied to user space, see struct sample. */
enum sample_kind {
	SAMPLE_DNS = 1,	    /* to or from port 53: the payload; of TCP with its two bytes of length */
	SAMPLE_HELLO,	    /* what a client says first: TLS, HTTP, QUIC */
	SAMPLE_REQUEST,	    /* an API request begins: its request line, nothing of its body */
	SAMPLE_REQUEST_END, /* it is over; no data */
};

/* What a target's policy does. */
enum policy_mode {
	POLICY_OBSERVE = 0,
	POLICY_AUDIT = 1, /* judge, count, let pass */
	POLICY_ENFORCE = 2,
};

/* Bits of policy.allow_scopes and deny_scopes: where a remote address is, and DNS. */
enum scope_bit {
	SCOPE_LOOPBACK = 1,
	SCOPE_LAN = 2,
	SCOPE_MULTICAST = 4,
	SCOPE_INTERNET = 8,
	SCOPE_DNS = 16,	 /* port 53 of any address: no other scope's bit speaks for it */
	SCOPE_HOST = 32, /* an address of this host, in the network namespace of the socket */
};

/* What an event's result says when the kernel has not said it yet. */
enum result {
	RESULT_OK = 0,
	RESULT_UNKNOWN = -1,
};

/* Index into the map `losses`. What is lost is counted here or it is not lost. */
enum loss_reason {
	LOSS_RING_FULL = 0,  /* an event did not fit into the ring */
	LOSS_FLOWS_FULL,     /* no room for a flow: its traffic is in `overflow` */
	LOSS_PROCESSES_FULL, /* no room for a process: its flows have none */
	LOSS_CGROUPS_FULL,   /* no room for a new cgroup: its path is unknown */
	LOSS_SLOTS_FULL,     /* no slot for a socket: counted right, but slower and without totals at close */
	LOSS_STORAGE_REFUSED,	/* the kernel gave no memory for a socket's state */
	LOSS_HANDSHAKES_FULL,	/* no room for a half-open accept: its handshake is in `overflow` */
	LOSS_NAME_UNREADABLE,	/* a process name or executable could not be read */
	LOSS_PACKET_UNREADABLE, /* a packet of an unconnected socket had no readable addresses */
	LOSS_SAMPLES_FULL,	/* a copy of a packet did not fit into its ring: a name is not known */
	LOSS_OPENINGS_FULL,	/* no room for an address that an answer has opened: it stays closed */
	LOSS_MARKS_FULL,	/* no room for a process of a target: it is in none */
	LOSS_SETS_FULL,		/* no room for a set of targets: its members are held */
	LOSS_NOTICES_FULL,	/* user space was not told of a candidate or of a new member */
	LOSS_REASONS,
};

enum flow_flags {
	FLOW_VIA_LOOPBACK = 1, /* left by the loopback device: the remote address is the host's own */
	FLOW_PREEXISTING = 2,  /* has traffic of a socket that was open before tattle started */
	FLOW_OVERLAP = 4,      /* some of it passed while requests of several phases were in flight: it may be
				  another's */
};

/* How the packets of a socket find their flow. */
enum socket_mode {
	MODE_IGNORED = 0, /* loopback that nobody asked for */
	MODE_FIXED,	  /* one peer: counters in the socket */
	MODE_PER_PACKET,  /* no peer, or several: each packet looks its flow up */
	MODE_LISTENER,	  /* packets of handshakes: the peer is in the packet */
};

enum socket_flags {
	SOCKET_CLOSED = 1,   /* folded for the last time: later packets go to the flow at once */
	SOCKET_STATE_CB = 2, /* its TCP states are reported: folds at TCP_CLOSE, not at release */
	SOCKET_ESTABLISHED = 4,
	SOCKET_PREEXISTING = 8,
	SOCKET_SENT = 32,	/* a first packet was seen: scope decided, `send` reported */
	SOCKET_ASK_AGAIN = 128, /* sendmsg to `asked` was allowed this once */
	SOCKET_LOOPBACK = 64,	/* somebody asked to see its loopback traffic */
	SOCKET_WATCHED = 4096,	/* its segments are told of, see watch_writes() */
	SOCKET_ENDED = 2048,	/* denied for what it said, and told of */
	SOCKET_NAMED = 256,	/* its server's name was seen and may be spoken to */
	SOCKET_SENT_TO = 512,	/* `sent_to` is known */
	SOCKET_OVER = 8192,  /* it has spoken outside of its phase: what waits there must not leave later */
	SOCKET_INNER = 1024, /* a child of its client's serves it: the client's own client is waiting */
};

/* What a socket's packets need beside being counted. */
enum care {
	CARE_HELLO = 1,	 /* the client has not said its first words yet */
	CARE_DNS = 2,	 /* port 53: copied */
	CARE_QUERY = 4,	 /* port 53 of a target with rules by name: questions and answers are read */
	CARE_SNI = 8,	 /* allowed as far as its server's name is */
	CARE_PHASE = 16, /* of a target whose phases are known */
	CARE_TALK = 32,	 /* its peer speaks to the API of such a target */
	CARE_HOST = 64,	 /* allowed as long as its peer's address is this host's */
	CARE_END = 128,	 /* older than we are and accepted: its packets tell when it ends */
};

/* What the policies of a socket's targets are, beside what they say. */
enum manner {
	MANNER_POLICED = 1, /* there is one */
	MANNER_STRICT = 2,
	MANNER_STRICT_ENFORCED = 4,
	MANNER_NAMES = 8, /* it has rules by name */
	MANNER_NAMES_ENFORCED = 16,
	MANNER_ENFORCED = 32, /* one of them does not only count */
};

/* Why a candidate is held until user space has decided on it: index into `held`. */
enum hold_reason {
	HOLD_NONE = 0,
	HOLD_CONTAINER, /* a cgroup of a container that no engine has told of yet */
	HOLD_ARGUMENTS, /* a program whose arguments could not be read */
	HOLD_SETS,	/* in more targets than can be told apart: never released by itself */
	HOLD_REASONS,
};

/* What the ring `notices` tells. */
enum notice_kind {
	NOTICE_HELD_CGROUP = 1, /* `id` is a cgroup's, `reason` an enum hold_reason */
	NOTICE_HELD_PROCESS,	/* `id` is a tgid */
	NOTICE_APPEARED,	/* a process (tgid) has executed a program of a target */
	NOTICE_MOVED,		/* a process (tgid) of a target has left its cgroup for `cgroup` */
	NOTICE_CGROUP,		/* a cgroup (`id`) has been made in a target, while a policy is in force */
};

enum cgroup_flags {
	CGROUP_PATH_CUT = 1, /* the path is longer than CGROUP_PATH_LEN - 1 */
};

enum process_flags {
	PROCESS_READY = 1,	 /* all fields are filled in */
	PROCESS_EXE_CUT = 2,	 /* the executable's path did not fit: its head is missing */
	PROCESS_EXE_UNKNOWN = 4, /* no executable (a kernel thread), or unreadable */
};

/* Who: one snapshot of a process. Any of these changed makes another process of it. */
struct process_key {
	__u64 start_ns;	     /* group leader, CLOCK_BOOTTIME */
	__u64 cgroup;	     /* cgroup v2 id */
	__u32 tgid;	     /* as the initial pid namespace has it */
	__u32 exec_id;	     /* task_struct.self_exec_id: grows with each execve */
	__u32 uid;	     /* effective, as the initial user namespace has it */
	__u32 target;	     /* 0: not in a target */
	char comm[COMM_LEN]; /* of the group leader */
};

/* Value of `processes`; the key there is a 64-bit mix of process_key. */
struct process {
	struct process_key key;
	__u32 ppid;
	__u32 flags;
	char parent_comm[COMM_LEN];
	char cgroup_path[CGROUP_PATH_LEN]; /* empty: not known */
	__u32 exe_used;			   /* bytes of exe that are filled */
	__u32 reserved;
	char exe[EXE_LEN]; /* path parts from the file name upwards, each with its NUL */
};

/* Value of `cgroups`; the key there is the cgroup id. */
struct cgroup_entry {
	__u32 target;		    /* a target's number, a set's, 0; with TARGET_HELD while undecided */
	__u32 flags;		    /* enum cgroup_flags */
	__u64 held_ns;		    /* CLOCK_BOOTTIME since when it is held */
	__u32 reason;		    /* enum hold_reason */
	__u32 node;		    /* of its path in the tree of patterns, see struct part_key; 0: in none */
	char path[CGROUP_PATH_LEN]; /* its last bytes, where it is longer */
};

/* Value of `marks`, by tgid: the targets of a process beside those of its cgroup. */
struct mark {
	__u32 target;	/* as in struct cgroup_entry */
	__u32 reason;	/* enum hold_reason */
	__u64 start_ns; /* of the group leader, CLOCK_BOOTTIME; 0: whichever runs under this tgid */
	__u64 held_ns;
};

/* Value of `sets`, by a number from SETS_FROM on: which targets it stands for, the nearest first. */
struct target_set {
	__u16 members[SET_MEMBERS];
};

/* Key of `unions`, to the number that stands for both. */
struct target_pair {
	__u32 one;
	__u32 other;
};

/*
 * Key of `parts`: trees of the parts of paths. One of programs, from the file's name upwards: its root is
 * PROGRAM_ROOT, the empty part the root of the file system. One of cgroups, from CGROUP_ROOT downwards.
 */
struct part_key {
	__u32 node;
	char part[PART_LEN]; /* zero behind its end */
};

/* Bits of part_key.node: other tables that share the map, by target. */
enum part_table {
	PARTS_CLIENT = 1 << 29, /* first words with which the program is no member of this target; "": none */
	PARTS_PARENT = 1 << 28, /* nor is it where its parent executes a file of this name */
	PARTS_INTERPRETER = 1 << 27, /* names of programs whose argument is the program */
	PROGRAM_ROOT = 1,
	CGROUP_ROOT = 2,
	NAME_ROOT = 3, /* the last part of a cgroup's path, wherever that is */
};

/* Value of `parts`: what a path with these parts means. */
struct part_rule {
	__u32 next;   /* node of the parts that follow; 0: none is named */
	__u32 always; /* in this target or set */
	__u32 asked;  /* in these, unless one of the tables above speaks against it */
	__u32 reserved;
};

/* Value of `globs`: a part with one `*`. */
struct part_glob {
	__u32 node;
	__u32 reserved;
	__u32 head_len;
	__u32 tail_len;
	char head[GLOB_LEN];
	char head_mask[GLOB_LEN]; /* all ones where head has a byte */
	char tail[GLOB_LEN];
	char tail_mask[GLOB_LEN];
	struct part_rule rule;
};

/* What the ring `notices` carries. */
struct notice {
	__u64 time_ns; /* CLOCK_BOOTTIME */
	__u64 id;
	__u64 cgroup;
	__u32 kind;   /* enum notice_kind */
	__u32 target; /* what it is in now */
	__u32 reason; /* enum hold_reason */
	__u32 reserved;
};

/* Value of `held`, by enum hold_reason. */
struct held_count {
	__u64 candidates; /* that were held, ever */
	__u64 packets;	  /* that were dropped meanwhile */
};

/* Key of `flows`. */
struct flow_key {
	__u64 process; /* key of `processes`; 0: not known */
	__u8 remote[ADDRESS_LEN];
	__be16 remote_port; /* 0: the protocol has none */
	__u8 proto;	    /* IANA protocol number */
	__u8 direction;
	__u8 phase; /* enum phase */
	__u8 reserved[3];
};

/*
 * Address of the row of process 0 that sums up what the kernel sends by itself (resets of closed ports,
 * ICMP): 100::/64, where no packet goes (RFC 6666), with an enum scope_bit behind it for all that is there.
 */
enum sum_address { SUM_PREFIX = 0x0100 };

/*
 * Value of `flows`. Bytes are bytes of IP packets, headers included. Payload is what TCP carries, each byte
 * once however often it is sent, and what datagrams carry: see payload.bpf.h.
 */
struct flow {
	__u64 attempts;
	__u64 established;
	__u64 denied;
	__u64 would_deny;
	__u64 denied_packets;
	__u64 bytes_out;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 packets_in;
	__u64 payload_out;
	__u64 denials_reported; /* denied + would_deny as the last event `deny` had it */
	__u64 denial_ns;	/* when that was */
	__u64 first_ns;		/* CLOCK_BOOTTIME */
	__u64 last_ns;		/* CLOCK_BOOTTIME, of the last fold that moved anything */
	__u32 flags;
	__u16 rule; /* that denied last */
	__u16 reserved;
};

struct counters {
	__u64 bytes_out;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 packets_in;
	__u64 payload_out;
};

/* What a flow owes to one socket and does not have yet. */
struct fresh {
	struct counters traffic;
	__u64 attempts;
	__u64 established;
};

/*
 * Value of `slots`: the counters of one socket that has one peer. What its packets add to lies more than a
 * cache line away from what another socket's do.
 */
struct slot {
	struct flow_key flow;
	struct fresh fresh;
	struct counters folded; /* in the flow already */
	__u64 first_ns;		/* CLOCK_BOOTTIME of the connect or of the first datagram */
	__u32 flags;		/* enum flow_flags, for the flow */
	__u32 reserved;
};

/* Value of `sockets`, the socket storage. */
struct socket_state {
	struct flow_key flow;
	__u64 opened_ns;
	__u64 listener;		 /* cookie, for MODE_LISTENER: accepted sockets start as its copy */
	__u64 sender_start_ns;	 /* of the process that sent last, for MODE_PER_PACKET */
	__u8 asked[ADDRESS_LEN]; /* where sendmsg wanted to go, before any NAT */
	__u32 sender_exec_id;
	__u32 flags;
	__u32 slot;		/* index into `slots`; 0: none */
	__u32 generation;	/* of the policies when the socket was judged */
	__u32 policed;		/* targets of its cgroup and its process, where one has a policy or is held */
	__u32 asked_target;	/* for which target sendmsg has let `asked` pass, */
	__u32 asked_generation; /* under which policies, */
	__be16 asked_port;
	__u16 rule; /* that denies it */
	__u8 verdict;
	__u8 mode;
	__u8 care;	     /* enum care */
	__u8 hello_seen;     /* packets of data that were looked at */
	__u16 hello_left;    /* bytes of a ClientHello that are still to come */
	__u8 own_phase;	     /* of the requests that this connection serves, see socket.bpf.h; 0: not known */
	__u8 manner;	     /* enum manner */
	__u16 terms;	     /* enum terms: what the verdict depends on beside the policies */
	__u16 asked_terms;   /* on which terms sendmsg has let `asked` pass */
	__u32 target;	     /* whose phases it is counted by, as of `generation` */
	__u32 name;	     /* the rule by name that has let it pass, see struct name_rules */
	__u32 foreign_until; /* CLOCK_BOOTTIME, seconds: `asked` is no address of this host, a packet has
				shown */
	__u32 held_target;   /* whose opening this connection keeps; 0: none */
	__u32 held_name;     /* and by which name */
	__u32 sent_to;	     /* TCP's sequence number behind the payload that was sent, with SOCKET_SENT_TO */
	__u32 marked;	     /* targets of the process that used it last */
	__u32 denier;	     /* the target whose policy denies it */
	__u32 named;	     /* the one of its targets whose rules by name its contents are held against */
	__u32 reserved;
};

/* Key and value of `handshakes`: packets of a connection that nobody accepted yet. */
struct handshake_key {
	__u64 listener; /* socket cookie */
	__u8 remote[ADDRESS_LEN];
	__be16 remote_port;
	__u16 reserved[3];
};

struct handshake {
	struct counters fresh;
	__u64 process;
	__u64 seen_ns;
};

enum engine {
	ENGINE_LIBBPF = 0,
	ENGINE_BCC = 1,
};

/* Value of `settings`, one element. */
struct settings {
	__u32 loopback;	  /* 1: count loopback of all processes, 0: of targets only */
	__u32 targets;	  /* how many targets there are: with none, no cgroup is looked up for them */
	__u32 wake_bytes; /* wake the reader of the ring when so many bytes wait */
	__u32 generation; /* grows with each change of a policy: sockets are judged anew; 0: never any */
	__u32 ported_max; /* accepted flows that keep the port of their peer, see enum usage */
	__u32 engine;	  /* enum engine: who made these programs */
	__u32 marking;	  /* 1: processes are marked; 2: and births of unmarked ones are told, see `births` */
	__u32 globs;	  /* how many of `globs` are in use */
	__u32 hold;	  /* 1: cgroups of containers that are not known are held */
	__u32 policed;	  /* 1: what is in a target's cgroup stays in it when it moves away */
};

/*
 * Value of `policies`, by target id. Rules stand in `rules` under the policy's own number, so that a
 * new policy is complete before the one write that puts it in force.
 */
struct policy {
	__u32 number; /* first word of the keys in `rules` */
	__u32 mode;
	__u32 default_allow; /* 0: deny what no rule names, but loopback */
	__u32 strict;	     /* 1: deny replies on accepted connections, too */
	__u32 names;	     /* enum name_kinds: which kinds of rules by name it has */
	__u32 unasked;	/* enum unasked: sockets that may be made because a rule allows something of them */
	__u32 requests; /* target whose requests open rules that are bound to a phase; 0: no such rule */
	__u32 allow_scopes;
	__u32 deny_scopes;
	__u16 allow_rule[8]; /* by bit number of the scope: which rule said so */
	__u16 deny_rule[8];
	__u8 allow_phases[8]; /* as rule_port.phases */
	__u64 until;	      /* CLOCK_BOOTTIME, ns: lifted until then; 0: not lifted */
};

/*
 * What a target's verdicts depend on beside the policies. In the low byte the phases that requests in
 * flight tell, 1 << enum phase. When this changes, a socket is judged anew.
 */
enum terms {
	TERMS_NONE = 0,
	TERMS_PHASES = 0x100, /* rules are bound to phases */
	TERMS_LIFTED = 0x200, /* the policy is lifted, and will be back */
};

/* Bits of policy.unasked: protocols whose connect no hook is asked about. */
enum unasked {
	UNASKED_SCTP = 1,
	UNASKED_DCCP = 2,
};

/* Key of `rules`, a longest-prefix map; prefix_bits counts the policy's number, too. */
struct rule_key {
	__u32 prefix_bits; /* 32 + bits of the address; an IPv4 prefix of n bits is 96 + n */
	__u32 policy;
	__u8 address[ADDRESS_LEN];
};

struct rule_port {
	__u16 port;  /* host byte order; 0: all */
	__u8 proto;  /* 0: all */
	__u8 deny;   /* 0: allow; those that deny stand first */
	__u16 rule;  /* its number in the policy, from 1 */
	__u8 plain;  /* 1: of a name whose connections need not be TLS */
	__u8 phases; /* bits 1 << enum phase: it speaks in these only; 0: always */
};

/* Value of `rules`: all that rules say of this prefix, those of wider ones included. */
struct rules {
	__u32 count;
	struct rule_port ports[RULE_PORTS];
};

/* Bits of policy.names. */
enum name_kinds {
	NAMES_ALLOWED = 1,
	NAMES_DENIED = 2,
};

/* How a name is written in name_key.text, in lower case, and whether it stands for those below it. */
enum name_form {
	NAME_WIRE = 0,	     /* as DNS has it: each label after its length, the root included */
	NAME_WIRE_BELOW = 1, /* *.name */
	NAME_TEXT = 2,	     /* as TLS has it: with dots */
	NAME_TEXT_BELOW = 3,
};

/* Key of `names`. */
struct name_key {
	__u32 policy; /* number of the policy */
	__u16 form;
	__u16 length;
	char text[NAME_LEN]; /* zero behind its end */
};

/* Value of `names` and `named`: all that rules say of this name, those of wider ones included. */
struct name_rules {
	__u32 id;   /* the same for the same name in each policy; 0: only asked for, see search domains */
	__u8 deny;  /* 1: not even its DNS query may leave */
	__u8 lan;   /* 1: its answers may open private addresses */
	__u16 rule; /* that decides on the query */
	struct rules rules;
	__u8 phases; /* as rule_port.phases, for the query */
	__u8 reserved[3];
};

/* Key of `named`. */
struct named_key {
	__u32 policy; /* number of the policy */
	__u32 id;
};

/*
 * Key of `openings` (number: the target's), of `resolvers` and `hosted` (number: the policy's) and of
 * `own_addresses` (number: the network namespace's, as its inode number tells it).
 */
struct numbered_address {
	__u32 number;
	__u8 address[ADDRESS_LEN];
};

/* Value of `openings`: the names for which the target was given this address. */
struct opening {
	struct {
		__u32 name;  /* struct name_rules.id; 0: none */
		__u32 until; /* CLOCK_BOOTTIME, seconds */
		__u32 told;  /* likewise: when the last answer came */
		__u32 open;  /* connections to it, for as long as which it stays open */
	} by[OPENINGS];
};

/* Value of `hosted`: the names that a hosts file gives this address. Written by the user half only. */
struct hosted {
	__u32 names[OPENINGS]; /* struct name_rules.id; 0: none */
};

/* A question that a target's socket has asked and that its policy allows. */
struct lookup {
	__u8 resolver[ADDRESS_LEN];
	__u64 asked_ns;
	__u32 name; /* struct name_rules.id; 0: no question */
	__u16 id;   /* RFC 1035 4.1.1, as it stands in the message */
	__u16 type;
};

/* How far a stream of messages has been read. */
struct reading {
	__u32 next; /* sequence number of the byte that is to come */
	__u32 skip; /* bytes of a message that is not read */
	__u8 begun; /* 1: `next` is known */
	__u8 reserved[3];
};

/* Value of `lookups`, a socket storage. `heard` and `said` are for TCP. */
struct lookups {
	struct lookup asked[LOOKUPS];
	__u32 next;
	struct reading heard, said;
	__u32 reserved;
};

/*
 * Value of `pieces`, the storage of a socket one of whose messages came in several packets: its bytes so
 * far. What leaves stands at the front, what comes in the second half.
 */
struct pieces {
	__u32 left; /* how many bytes have left, */
	__u32 next; /* up to which sequence number (TLS), */
	__u32 came; /* and how many came */
	__u32 reserved;
	__u8 bytes[PIECES_ROOM + PIECE_LEN];
};

/* Key of `asked_peers`: who has sent a datagram to a socket of a target lately, and may be answered. */
struct peer_key {
	__u64 socket; /* cookie */
	__u8 remote[ADDRESS_LEN];
	__be16 port;
	__u16 reserved[3];
};

/* Key of `denied_streams`, to the time (CLOCK_BOOTTIME, ns): connections denied for what they said. */
struct stream_key {
	__u8 remote[ADDRESS_LEN];
	__be16 remote_port;
	__be16 local_port;
	__u32 reserved;
};

/* Value of `phased`, by target id; written by the user half only. */
struct phased {
	__u32 phased;	 /* 1: its API is known, see `api_paths` */
	__u32 listeners; /* listening sockets that were there before the kernel half counted */
};

/* Value of `phases`, by target id; written by the kernel half only. */
struct phase_state {
	__u64 listening_ns;	    /* CLOCK_BOOTTIME, of the first listening socket; 0: before us */
	__u32 inflight[PHASE_ROOM]; /* requests, by the phase that their path tells */
	__u32 inner[PHASE_ROOM];    /* likewise, of the target's own processes to their children */
	__u32 listeners;	    /* sockets, beside those that user space counted; may be below zero */
	__u32 answers;		    /* 1: requests come, though no socket of its own listens */
};

/*
 * Key of `api_paths`, a longest-prefix map, to an enum phase: how the request line begins. A rule for
 * one path has two entries, "POST /api/chat " and "POST /api/chat?"; one for all below has "GET /api/".
 */
struct api_path_key {
	__u32 prefix_bits; /* 32 + those of the text */
	__u32 target;
	char text[PATH_LEN];
};

/* A request that waits for its response. */
struct asked {
	__u64 began_ns; /* CLOCK_BOOTTIME */
	__u32 target;
	__u8 phase;
	__u8 head_only; /* HEAD: the response has no body, RFC 9110 9.3.2 */
	__u8 inner;	/* counted as such */
	__u8 reserved;
};

/* Where we are in an HTTP message, see http.bpf.h. */
struct message {
	__u64 before, window; /* the last 16 bytes of its head */
	__u64 left;	      /* bytes of its body that are to come */
	__u32 seen;	      /* bytes of its head */
	__u32 status;	      /* three digits as they stand there */
	__u8 ending;
	__u8 ended; /* the head is */
	__u8 has_length;
	__u8 in_length;
	__u8 chunked;
	__u8 alien; /* no HTTP */
	__u16 reserved;
};

/* Value of `talks`, the storage of accepted sockets of targets whose API is known. */
struct talk {
	struct bpf_spin_lock lock; /* of first, waiting, closed and asked */
	__u32 heard_to;		   /* sequence number of the byte of the client's that is next of interest, */
	__u32 said_to;		   /* and of the server's */
	__u8 first, waiting, closed;
	__u8 hears, says; /* 1: heard_to, said_to are known */
	__u8 exact;	  /* 1: at heard_to the next request may begin, also while this one waits */
	__u8 reserved[6];
	struct message messages[2]; /* the client's, the server's */
	struct asked asked[TALK_DEPTH];
};

/*
 * Index into the map `usage`. Every client of a server comes from another port: so many accepted flows
 * have a row each, those beyond count in one row an address (remote_port 0).
 */
enum usage {
	USAGE_PORTED_MADE = 0, /* written by the kernel half only */
	USAGE_PORTED_GONE = 1, /* written by the user half only, as it deletes them */
	USAGE_MPTCP_OLDER =
		2, /* 1: the inventory has found MPTCP sockets; of their subflows nobody has told us */
	USAGE_STREAMS_DENIED = 3, /* connections denied after they had begun, see `denied_streams` */
	USAGES,
};

/* Value of `clock`, one element: the time as it was at the last tick that asked. */
struct clock {
	__u64 jiffies;
	__u64 boot_ns; /* CLOCK_BOOTTIME */
};

/* What reading `inventory` gives: one record for each descriptor of a socket. */
struct descriptor {
	__u64 process; /* key of `processes` */
	__u64 inode;   /* of the socket, as fstat() tells it */
	__u32 tgid;    /* as the initial pid namespace has it */
	__u32 fd;
	__u32 counted; /* of an MPTCP listener: the target under which it is counted; 0: it is not */
	__u32 reserved;
};

/* What the ring `events` carries; all records have this one size. */
struct event {
	__u64 time_ns; /* CLOCK_BOOTTIME */
	__u64 process;
	__u64 socket; /* cookie */
	__u64 bytes_out;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 packets_in;
	__u64 duration_ns;
	__u8 local[ADDRESS_LEN]; /* all zero: not known (yet) */
	__u8 remote[ADDRESS_LEN];
	__be16 local_port;
	__be16 remote_port;
	__s32 result; /* 0, an errno, or RESULT_UNKNOWN */
	__u8 kind;
	__u8 proto;
	__u8 direction;
	__u8 verdict;
	__u8 flags; /* enum flow_flags */
	__u8 phase; /* enum phase */
	__u16 rule;
	__u32 target; /* whose rule it is; 0: the process's own target */
	__u32 reserved;
};

/*
 * What the ring `samples` carries: a header, then `length` bytes of the packet's payload. A record has
 * room for SAMPLE_SHORT or SAMPLE_LONG of them.
 */
struct sample {
	__u64 time_ns;		  /* CLOCK_BOOTTIME */
	__u64 process;		  /* key of `processes` */
	__u64 socket;		  /* cookie */
	__u64 duration_ns;	  /* of a request that is over */
	__u8 remote[ADDRESS_LEN]; /* as the program asked for it, before any NAT */
	__be16 remote_port;
	__be16 local_port; /* 0: not known */
	__u32 sequence;	   /* of the first payload byte: TCP's own number; 0 for others */
	__u32 payload;	   /* bytes of payload that the packet had */
	__u16 length;	   /* bytes of it that follow here */
	__u8 kind;	   /* enum sample_kind */
	__u8 proto;
	__u8 direction; /* of the flow */
	__u8 outgoing;	/* 1: the packet left, 0: it came */
	__u8 phase;
	__u8 verdict; /* denied: a rule by name has kept it from leaving */
	__u8 reserved[4];
};

#define ABI_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " has changed its size")
ABI_SIZE(struct process_key, 48);
ABI_SIZE(struct process, 48 + 8 + COMM_LEN + CGROUP_PATH_LEN + 8 + EXE_LEN);
ABI_SIZE(struct cgroup_entry, 24 + CGROUP_PATH_LEN);
ABI_SIZE(struct mark, 24);
ABI_SIZE(struct target_set, 8);
ABI_SIZE(struct part_key, 128);
ABI_SIZE(struct part_glob, 32 + 4 * GLOB_LEN);
ABI_SIZE(struct part_rule, 16);
ABI_SIZE(struct notice, 40);
ABI_SIZE(struct flow_key, 32);
ABI_SIZE(struct flow, 120);
ABI_SIZE(struct policy, 88);
ABI_SIZE(struct name_key, 128);
ABI_SIZE(struct name_rules, 8 + 4 + 8 * RULE_PORTS + 4);
ABI_SIZE(struct lookup, 32);
ABI_SIZE(struct rule_key, 24);
ABI_SIZE(struct rules, 4 + 8 * RULE_PORTS);
ABI_SIZE(struct peer_key, 32);
ABI_SIZE(struct stream_key, 24);
ABI_SIZE(struct slot, 144);
ABI_SIZE(struct socket_state, 160);
ABI_SIZE(struct opening, 16 * OPENINGS);
ABI_SIZE(struct lookups, 32 * LOOKUPS + 32);
ABI_SIZE(struct pieces, 16 + PIECES_ROOM + PIECE_LEN);
ABI_SIZE(struct handshake_key, 32);
_Static_assert((int)PHASES <= (int)PHASE_ROOM, "each phase has its count");
ABI_SIZE(struct phase_state, 80);
ABI_SIZE(struct api_path_key, 72);
ABI_SIZE(struct message, 40);
ABI_SIZE(struct talk, 24 + 2 * 40 + 16 * TALK_DEPTH);
ABI_SIZE(struct handshake, 56);
ABI_SIZE(struct descriptor, 32);
ABI_SIZE(struct event, 120);
ABI_SIZE(struct sample, 72);

#endif /* TATTLE_ABI_H */
