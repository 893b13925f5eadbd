//go:build ignore

// The relay's fast path in the network driver. Every packet of an interface comes by:
//
//  1. forward reads it. Whatever is not a whole UDP datagram in an unfragmented IP packet without options goes on to the system.
//  2. The flows map says what becomes of it: a client's ChannelData goes to the peer without its header, a peer's packet to the client with one, and
//     between two clients of this relay the number in the header changes.
//  3. What is over: permission (until), bandwidth and packets (spend), route (the neighbours map), goes on to the system too. There the relay's
//     own process decides, in the same way as without this program.
//  4. What passes gets new headers and leaves, with class of service, congestion marks and DF as they came.
//
// Nothing is decided here: the relay's process puts a flow into the map once policy has allowed it. An entry ends by itself at its time, should
// that process be unable to take it out. The program is held by a bpf_link of the process, and goes with it.
//
// No header is included, so that the object is the same wherever it is built; helpers and layouts are those of the kernel's
// uapi/linux/bpf.h, and none of them asks for a GPL program.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define inline inline __attribute__((always_inline))
#define field(name, value) int(*name)[value]
#define type_of(name, type) type *name

enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6 };
enum { BPF_F_NO_PREALLOC = 1, BPF_F_MMAPABLE = 1 << 10 };
enum { XDP_DROP = 1, XDP_PASS = 2, XDP_TX = 3 };

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*const bpf_get_prandom_u32)(void) = (void *)7;
static long (*const bpf_redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;

// Addresses have 16 bytes, IPv4 as ::ffff:a.b.c.d. What has a byte order has the network's.
struct address {
	u32 word[4];
};

struct key {
	struct address remote, local; // where the packet comes from, and the address of ours that it was sent to
	u16 remote_port, local_port;
	u16 channel; // of a client's ChannelData; 0: from a peer
	u16 inside;  // 1: from another allocation of this relay. Such a packet never comes from outside
};

enum { PAYERS = 3 };

// How a packet leaves: by the interface that it came by and no other; by others too; or redirected in any case, as veth wants it.
enum { SENT_BACK, SENT_ACROSS, REDIRECTED };

struct flow {
	struct address from, to; // of the packet that leaves
	u16 from_port, to_port;
	u16 channel; // 0: to a peer
	u16 hairpin; // 1: to another allocation of this relay; from and to are the relayed addresses of the two
	s64 until;   // Unix time, ns
	struct address next; // the next hop, a neighbour on interface
	u32 interface, mtu;
	u32 leave;         // SENT_BACK, SENT_ACROSS or REDIRECTED
	u32 payer[PAYERS]; // accounts: of the allocation, its user and its client's address
};

struct neighbour {
	struct address ip;
	u32 interface;
};

struct link {
	u8 to[6], from[6];
};

struct purse {
	s64 bytes, packets; // the words of two buckets, as in turnserver's limit.go, which shares this memory
};

struct account {
	struct purse of[2]; // by direction
};

// What an account gains. The times are in ns; 0: no bound.
struct rate {
	s64 byte, byte_burst;     // in which it may send another byte, and how far ahead of time it may be
	s64 packet, packet_burst; // likewise a packet
};

struct tally {
	u64 packets, bytes;
};

enum { TO_PEER, FROM_PEER };

// Why a packet goes on to the system; offload_linux.go has names for them, in this order.
enum {
	NOT_UDP, TOO_LONG, CHECKSUM, NO_FLOW, EXPIRED, NO_WAY_BACK, NO_NEIGHBOUR, OTHER_INTERFACE,
	LIMIT, NO_ROOM, REASONS
};

struct {
	field(type, BPF_MAP_TYPE_HASH);
	field(map_flags, BPF_F_NO_PREALLOC);
	field(max_entries, 1);
	type_of(key, struct key);
	type_of(value, struct flow);
} flows SEC(".maps");

struct {
	field(type, BPF_MAP_TYPE_HASH);
	field(map_flags, BPF_F_NO_PREALLOC);
	field(max_entries, 4096);
	type_of(key, struct neighbour);
	type_of(value, struct link);
} neighbours SEC(".maps");

struct {
	field(type, BPF_MAP_TYPE_ARRAY);
	field(map_flags, BPF_F_MMAPABLE);
	field(max_entries, 1);
	type_of(key, u32);
	type_of(value, struct account);
} accounts SEC(".maps");

struct {
	field(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	field(max_entries, 2);
	type_of(key, u32);
	type_of(value, struct tally);
} carried SEC(".maps");

struct {
	field(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	field(max_entries, REASONS);
	type_of(key, u32);
	type_of(value, u64);
} passed SEC(".maps");

volatile s64 unix_offset;                 // of Unix time to the monotonic clock
volatile const struct rate rates[PAYERS]; // of the accounts of each kind
volatile const u32 longest_datagram;      // a payload of this length or more is the system's

struct ethernet {
	u8 to[6], from[6];
	u16 protocol;
};

struct ipv4 {
	u8 version, tos;
	u16 length, id, fragment;
	u8 ttl, protocol;
	u16 check;
	u32 from, to;
};

struct ipv6 {
	u32 version; // traffic class and flow label too
	u16 length;
	u8 protocol, hops;
	struct address from, to;
};

struct udp {
	u16 from, to, length, check;
};

struct channel_data {
	u16 channel, length;
};

#define swap16 __builtin_bswap16
#define swap32 __builtin_bswap32
#define UDP 17
#define DF 0x4000
#define LONGEST 1608

// sum adds words as the internet checksum does (RFC 1071); fold ends it.
static inline u64 sum(const u32 *words, int count)
{
	u64 total = 0;
#pragma unroll
	for (int i = 0; i < count; i++)
		total += words[i];
	return total;
}

static inline u16 fold(u64 total)
{
	total = (total >> 32) + (u32)total;
	total = (total >> 32) + (u32)total;
	total = (total >> 16) + (u16)total;
	total = (total >> 16) + (u16)total;
	return total;
}

// sum_of_packet adds what is between from and to, LONGEST bytes at most; limit is the end of the packet as the verifier knows it.
static inline u64 sum_of_packet(void *from, void *to, void *limit)
{
	u64 total = 0;
	for (int i = 0; i < LONGEST; i += 2, from += 2) {
		if (from + 2 > limit || from + 2 > to)
			break;
		total += *(u16 *)from;
	}
	if (from + 1 <= limit && from + 1 <= to)
		total += *(u8 *)from; // as the first of two bytes, which it is in memory
	return total;
}

// take is bucket.take of limit.go, on the same word.
static inline int take(s64 *full, s64 cost, s64 burst, s64 now)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		s64 old = *(volatile s64 *)full;
		s64 next = (old > now ? old : now) + cost;
		if (next - now > burst)
			return 0;
		if (__sync_val_compare_and_swap(full, old, next) == old)
			return 1;
	}
	return 0;
}

static inline struct purse *purse_of(const struct flow *flow, int payer, int direction)
{
	u32 number = flow->payer[payer];
	struct account *account = bpf_map_lookup_elem(&accounts, &number);
	return account ? &account->of[direction] : 0;
}

// refund gives back what the first so many payers have paid.
static inline void refund(const struct flow *flow, int direction, u32 bytes, int payers)
{
#pragma unroll
	for (int i = 0; i < PAYERS; i++) {
		struct purse *purse;
		if (i >= payers || !rates[i].byte && !rates[i].packet || !(purse = purse_of(flow, i, direction)))
			continue;
		__sync_fetch_and_add(&purse->bytes, -(s64)(bytes * rates[i].byte));
		__sync_fetch_and_add(&purse->packets, -rates[i].packet);
	}
}

// spend has every payer of a flow pay for a packet, or none (relay.spend in account.go).
static inline int spend(const struct flow *flow, int direction, u32 bytes, s64 now)
{
#pragma unroll
	for (int i = 0; i < PAYERS; i++) {
		if (!rates[i].byte && !rates[i].packet)
			continue;
		struct purse *purse = purse_of(flow, i, direction);
		s64 cost = bytes * rates[i].byte;
		if (purse && (!cost || take(&purse->bytes, cost, rates[i].byte_burst, now))) {
			if (!rates[i].packet || take(&purse->packets, rates[i].packet, rates[i].packet_burst, now))
				continue;
			__sync_fetch_and_add(&purse->bytes, -cost);
		}
		refund(flow, direction, bytes, i);
		return 0;
	}
	return 1;
}

static inline void count(u32 direction, u32 bytes)
{
	struct tally *tally = bpf_map_lookup_elem(&carried, &direction);
	if (tally) {
		tally->packets++;
		tally->bytes += bytes;
	}
}

static inline int pass(u32 reason)
{
	u64 *packets = bpf_map_lookup_elem(&passed, &reason);
	if (packets)
		++*packets;
	return XDP_PASS;
}

static inline struct address mapped(u32 ipv4)
{
	return (struct address){{0, 0, swap32(0xffff), ipv4}};
}

static inline int forward(struct xdp_md *ctx, const int v6)
{
	const int ip_size = v6 ? sizeof(struct ipv6) : sizeof(struct ipv4);
	const int headers = sizeof(struct ethernet) + ip_size + sizeof(struct udp);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (data + headers > end)
		return pass(NOT_UDP);
	struct ethernet *ethernet = data;
	struct udp *udp = data + sizeof *ethernet + ip_size;
	struct channel_data *message = (void *)(udp + 1);
	struct key key = {};
	u32 class = 0, df = 0;
	u16 udp_size = swap16(udp->length);
	if (v6) {
		struct ipv6 *ip = (void *)(ethernet + 1);
		if ((ip->version & swap32(0xf0000000)) != swap32(0x60000000) || ip->protocol != UDP || swap16(ip->length) != udp_size) // extension headers, jumbograms
			return pass(NOT_UDP);
		class = ip->version & swap32(0x0ff00000);
		key.remote = ip->from, key.local = ip->to;
	} else {
		struct ipv4 *ip = (void *)(ethernet + 1);
		if (ip->version != 0x45 || ip->protocol != UDP || ip->fragment & ~swap16(DF) || swap16(ip->length) != udp_size + ip_size)
			return pass(NOT_UDP);
		class = ip->tos;
		df = ip->fragment;
		key.remote = mapped(ip->from), key.local = mapped(ip->to);
	}
	if (udp_size < sizeof *udp || (void *)udp + udp_size > end || ethernet->to[0] & 1)
		return pass(NOT_UDP);
	if (udp_size - sizeof *udp >= longest_datagram)
		return pass(TOO_LONG);
	key.remote_port = udp->from, key.local_port = udp->to;

	// A packet whose checksum is left for the hardware to complete comes with the sum of the pseudo-header there: of a neighbour on the same
	// machine, or of several datagrams that the kernel joined. It is the system's.
	// Of the packets that are complete one in 65,536 looks the same. If those went the longer way they would arrive out of order.
	u16 check = udp->check;
	u64 pseudo = sum(key.remote.word, 8) + swap16(UDP) + udp->length;
	if (!check ? v6 : check == fold(pseudo) && fold(pseudo + sum_of_packet(udp, (void *)udp + udp_size, end)) != 0xffff)
		return pass(CHECKSUM);

	u16 size = udp_size - sizeof *udp; // of the payload
	u64 old = sum(key.remote.word, 9) + udp->length + udp->length; // addresses and ports; the length is in the pseudo-header too
	struct flow *flow = 0;
	if ((void *)(message + 1) <= end && (message->channel & swap16(0xc000)) == swap16(0x4000) &&
	    swap16(message->length) + sizeof *message == size) { // RFC 8656 section 12.4, without padding
		key.channel = message->channel;
		flow = bpf_map_lookup_elem(&flows, &key);
	}
	int delta = sizeof *message; // by which the packet grows
	if (flow) {
		old += message->channel + message->length;
		size -= sizeof *message;
		delta = -delta;
	}
	if (!flow) {
		key.channel = 0;
		flow = bpf_map_lookup_elem(&flows, &key);
	}
	if (!flow)
		return pass(NO_FLOW);
	s64 now = bpf_ktime_get_ns() + unix_offset;
	if (now >= flow->until)
		return pass(EXPIRED);

	struct flow *out = flow;
	if (flow->hairpin) {
		struct key peer = {.remote = flow->from, .local = flow->to, .remote_port = flow->from_port, .local_port = flow->to_port, .inside = 1};
		out = bpf_map_lookup_elem(&flows, &peer);
		if (!out || now >= out->until)
			return pass(NO_WAY_BACK);
		delta = 0;
	}
	u16 new_udp_size = udp_size + delta;
	struct neighbour next = {.ip = out->next, .interface = out->interface};
	struct link *link = bpf_map_lookup_elem(&neighbours, &next);
	int back = out->interface == ctx->ingress_ifindex;
	if (new_udp_size + ip_size > out->mtu)
		return pass(TOO_LONG);
	if (!back && out->leave == SENT_BACK)
		return pass(OTHER_INTERFACE);
	if (!link)
		return pass(NO_NEIGHBOUR);

	// From here on the packet is ours, so it is paid for.
	int to_peer = key.channel != 0, from_peer = !to_peer || flow->hairpin;
	if (to_peer && !spend(flow, TO_PEER, size, now))
		return pass(LIMIT);
	if (from_peer && !spend(out, FROM_PEER, size, now)) {
		if (to_peer)
			refund(flow, TO_PEER, size, PAYERS);
		return pass(LIMIT);
	}
	if (delta && bpf_xdp_adjust_head(ctx, -delta)) { // a driver without room before the packet
		if (from_peer)
			refund(out, FROM_PEER, size, PAYERS);
		else
			refund(flow, TO_PEER, size, PAYERS);
		return pass(NO_ROOM);
	}
	if (to_peer)
		count(TO_PEER, size);
	if (from_peer)
		count(FROM_PEER, size);

	data = (void *)(long)ctx->data, end = (void *)(long)ctx->data_end;
	if (data + headers > end) // cannot be, but the verifier wants to see it; likewise below
		return XDP_DROP;
	ethernet = data;
	udp = data + sizeof *ethernet + ip_size;
	u16 new_length = swap16(new_udp_size);
	u64 new = sum(out->from.word, 9) + new_length + new_length;
	if (out->channel) {
		message = (void *)(udp + 1);
		if ((void *)(message + 1) > end)
			return XDP_DROP;
		message->channel = out->channel;
		message->length = swap16(size);
		new += message->channel + message->length;
	}
	if (check) { // RFC 1624
		check = ~fold((u16)~check + (u64)(u16)~fold(old) + new);
		if (!check)
			check = 0xffff;
	}
	*udp = (struct udp){.from = out->from_port, .to = out->to_port, .length = new_length, .check = check};
	if (v6) {
		struct ipv6 *ip = (void *)(ethernet + 1);
		*ip = (struct ipv6){.version = swap32(0x60000000) | class, .length = new_length, .protocol = UDP, .hops = 64, .from = out->from, .to = out->to};
	} else {
		struct ipv4 *ip = (void *)(ethernet + 1);
		*ip = (struct ipv4){
			.version = 0x45, .tos = class, .length = swap16(new_udp_size + ip_size), .fragment = df, .ttl = 64, .protocol = UDP,
			.id = df ? 0 : bpf_get_prandom_u32(), // RFC 6864: only of a packet that may be fragmented
			.from = out->from.word[3], .to = out->to.word[3],
		};
		u32 words[5];
		__builtin_memcpy(words, ip, sizeof words);
		ip->check = ~fold(sum(words, 5));
	}
	__builtin_memcpy(ethernet->to, link->to, 6);
	__builtin_memcpy(ethernet->from, link->from, 6);
	ethernet->protocol = v6 ? swap16(0x86dd) : swap16(0x0800);
	return back && out->leave != REDIRECTED ? XDP_TX : bpf_redirect(out->interface, 0);
}

SEC("xdp") int relay(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *ethernet = data;
	if ((void *)(ethernet + 1) > end)
		return pass(NOT_UDP);
	switch (ethernet->protocol) {
	case swap16(0x0800):
		return forward(ctx, 0);
	case swap16(0x86dd):
		return forward(ctx, 1);
	}
	return pass(NOT_UDP);
}

char terms[] SEC("license") = "Apache-2.0";
