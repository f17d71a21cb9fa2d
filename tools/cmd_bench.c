/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xvm bench: the ring against plain TCP, on the same path and in one run.
 *
 * In each round a plain and a preloaded pair of processes (peer.c) are there at once, and
 * timed slices of the two alternate, who goes first alternating too: so whatever else the machine
 * does hits both. The preloaded pair must be on the ring before it is timed, and xvmd's
 * byte counts must say afterwards that the ring is where the bytes went.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "detect/client.h"
#include "tools/addr.h"
#include "tools/ask.h"
#include "tools/bench.h"
#include "tools/find.h"
#include "tools/pair.h"
#include "tools/private.h"
#include "tools/tool.h"

#define CASES_MAX 64
#define SIZES_MAX 8
#define SLICE_PARTS 3  /* of --seconds: load comes and goes, and is to hit neighbours alike */
#define SLICES 3       /* in a round */
#define OTHER_SLICES 6 /* a ratio near 1 needs more samples than one near 10 */
#define WARM_MS 50     /* of a pair that is not to enter the ring */

static const char help[] =
	"usage: xvm bench [OPTION…] [CASE…]\n\n"
	"Measures preloaded programs against plain ones over the same addresses, in turns.\n"
	"Takes a minute.\n\n"
	"Cases (all, unless some are named):\n"
	"  rtt1    round trips of 1 byte, blocking\n"
	"  stream  bytes in one direction, by writes of --sizes\n"
	"  crr     connect, 64 bytes there, 64 bytes back, close\n"
	"  other   rtt1 and stream with only the client preloaded: what xvm costs\n"
	"          (of --sizes the last)\n\n"
	"  --pin HOW       split: client and server on a CPU each; same: both on one; none: as "
	"the\n"
	"                  kernel likes; both (default): split and same\n"
	"  --sizes LIST    of writes in stream, such as 1K,16K,128K (default: 64,4K,128K)\n"
	"  --seconds N     of a round, for the plain and for the preloaded pair (default: 0.3)\n"
	"  --rounds N      with new processes each (default: 5)\n"
	"  --addr ADDR     the server's address (default: 127.0.0.1)\n"
	"  --netns A,B     client in network namespace A, server in B (as `ip netns` names them)\n"
	"  --socket PATH   the xvmd to use (default: as `xvm run`)\n"
	"  --lib PATH      the libxvm.so to preload\n"
	"  --json          with all samples\n\n"
	"Exit status: 1 if a connection was not on the ring that should have been, or if bytes\n"
	"came wrong.\n";

static const struct option options[] = {
	{"pin", required_argument, NULL, 'p'},	   {"sizes", required_argument, NULL, 'z'},
	{"seconds", required_argument, NULL, 't'}, {"rounds", required_argument, NULL, 'n'},
	{"addr", required_argument, NULL, 'a'},	   {"netns", required_argument, NULL, 'N'},
	{"socket", required_argument, NULL, 's'},  {"lib", required_argument, NULL, 'L'},
	{"json", no_argument, NULL, 'j'},	   {0},
};

struct bench {
	struct xvm_bench_setup setup;
	const char *lib;
	struct xvm_ask ask;
	int ns_client, ns_server;
	int cpu[2];
	unsigned ncpu;
	bool progress;
	struct xvm_bench_case *cases;
	unsigned n;
};

/* ---- which cases ---- */

static void size_name(unsigned size, char *buf, size_t len)
{
	if (size % 1024 == 0)
		snprintf(buf, len, "%uK", size / 1024);
	else
		snprintf(buf, len, "%u", size);
}

static unsigned parse_sizes(const char *list, unsigned sizes[SIZES_MAX])
{
	unsigned long v;
	unsigned n = 0;
	char *end;

	for (;;) {
		v = strtoul(list, &end, 10);
		if (*end == 'K' || *end == 'k') {
			v *= v <= 64 << 20 ? 1024 : 1;
			end++;
		}
		if (*list < '0' || *list > '9' || (*end && *end != ',') || v < 16 || v > 16 << 20 ||
		    n == SIZES_MAX)
			xvm_misuse(
				"--sizes takes up to %d sizes from 16 to 16384K, such as 1K,128K",
				SIZES_MAX);
		sizes[n++] = (unsigned)v;
		if (!*end)
			return n;
		list = end + 1;
	}
}

static void add_case(struct bench *b, const char *pin, const char *mode, unsigned size, bool other)
{
	struct xvm_bench_case *c = &b->cases[b->n];
	char name[16];

	if (b->n == CASES_MAX)
		xvm_misuse("that is more than %d cases", CASES_MAX);
	b->n++;
	c->mode = mode;
	c->pin = pin;
	c->size = size;
	c->other = other;
	c->ring = !other && strcmp(mode, "crr") != 0;
	c->unit = !strcmp(mode, "stream") ? "B" : "";
	size_name(size, name, sizeof(name));
	if (!strcmp(mode, "crr"))
		snprintf(c->name, sizeof(c->name), "crr");
	else
		snprintf(c->name, sizeof(c->name), "%s%s%s", other ? "other-" : "", mode, name);
}

static void add_cases(struct bench *b, const char *pin, int named, char **names,
		      const unsigned *sizes, unsigned nsizes)
{
	static const char *const all[] = {"rtt1", "stream", "crr", "other"};
	const char *const *what = named ? (const char *const *)names : all;
	int i, count = named ? named : 4;
	unsigned z;

	for (i = 0; i < count; i++) {
		if (!strcmp(what[i], "rtt1")) {
			add_case(b, pin, "rtt", 1, false);
		} else if (!strcmp(what[i], "stream")) {
			for (z = 0; z < nsizes; z++)
				add_case(b, pin, "stream", sizes[z], false);
		} else if (!strcmp(what[i], "crr")) {
			add_case(b, pin, "crr", 64, false);
		} else if (!strcmp(what[i], "other")) {
			add_case(b, pin, "rtt", 1, true);
			add_case(b, pin, "stream", sizes[nsizes - 1], true);
		} else {
			xvm_misuse("unknown case '%s'", what[i]);
		}
	}
}

static void find_cpus(struct bench *b)
{
	cpu_set_t set;
	int i;

	if (sched_getaffinity(0, sizeof(set), &set))
		return;
	for (i = 0; i < CPU_SETSIZE && b->ncpu < 2; i++)
		if (CPU_ISSET(i, &set))
			b->cpu[b->ncpu++] = i;
}

static int open_netns(const char *name)
{
	char path[256];
	int fd;

	if (!*name || strchr(name, '/') || *name == '.')
		xvm_misuse("'%s' is not the name of a network namespace", name);
	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		xvm_die("cannot open network namespace %s: %s", name, strerror(errno));
	return fd;
}

static void parse_netns(struct bench *b, char *arg)
{
	char *comma = strchr(arg, ',');

	if (!comma || strchr(comma + 1, ','))
		xvm_misuse("--netns takes two names: client's,server's");
	*comma = 0;
	b->ns_client = open_netns(arg);
	b->ns_server = open_netns(comma + 1);
	*comma = ',';
	b->setup.where = arg;
}

/* ---- measuring ---- */

static void fail(struct xvm_bench_case *c, const char *which, const char *why)
{
	c->ok = false;
	snprintf(c->why, sizeof(c->why), "%s: %.180s", which, why);
}

static void note_path(struct xvm_bench_case *c, const struct xvm_msg_row *r)
{
	if (!r->tx_path == !r->rx_path)
		snprintf(c->path, sizeof(c->path), "%s", r->tx_path ? "ring" : "tcp");
	else
		snprintf(c->path, sizeof(c->path), "%s", r->tx_path ? "ring/tcp" : "tcp/ring");
	snprintf(c->reason, sizeof(c->reason), "%s", xvm_reason_name(r->reason));
}

static void note_bytes(const struct xvm_bench_case *c, const struct xvm_msg_row *before,
		       const struct xvm_msg_row *after, double *ring, double *tcp)
{
	*ring += after->tx_ring - before->tx_ring;
	*tcp += after->tx_tcp - before->tx_tcp;
	/* A stream's way back carries nothing to speak of. */
	if (!strcmp(c->mode, "stream"))
		return;
	*ring += after->rx_ring - before->rx_ring;
	*tcp += after->rx_tcp - before->rx_tcp;
}

/* Seconds of CPU so far. Both have one thread. 0: this kernel does not count them. */
static double used(const struct xvm_pair *p)
{
	const pid_t pid[] = {p->client.pid, p->server.pid};
	unsigned long long ns;
	double sum = 0;
	char path[64];
	FILE *f;
	int i;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)pid[i]);
		f = fopen(path, "re");
		if (!f)
			return 0;
		if (fscanf(f, "%llu", &ns) == 1)
			sum += (double)ns * 1e-9;
		fclose(f);
	}
	return sum;
}

static int timed(struct bench *b, struct xvm_pair *p, struct xvm_samples *to,
		 struct xvm_samples *cpu)
{
	struct xvm_slice slice;
	double before = used(p);
	int ret = xvm_pair_slice(p, (int)(b->setup.seconds * 1000 / SLICE_PARTS), &slice);

	if (ret)
		return ret;
	xvm_samples_add(to, slice.count / slice.seconds);
	if (slice.count > 0 && used(p) > before)
		xvm_samples_add(cpu, (used(p) - before) / slice.count);
	return 0;
}

static int timed_xvm(struct bench *b, struct xvm_bench_case *c, struct xvm_pair *p, double *ring,
		     double *tcp)
{
	struct xvm_msg_row before = {0}, after = {0};
	int ret = 0;

	/* A crr client has no connection that lasts. */
	if (!strcmp(c->mode, "crr")) {
		snprintf(c->path, sizeof(c->path), "%s", "-");
		return timed(b, p, &c->xvm, &c->xvm_cpu);
	}
	ret = xvm_pair_row(p, &b->ask, &before);
	if (!ret)
		ret = timed(b, p, &c->xvm, &c->xvm_cpu);
	if (!ret)
		ret = xvm_pair_row(p, &b->ask, &after);
	if (!ret) {
		note_bytes(c, &before, &after, ring, tcp);
		note_path(c, &after);
	}
	return ret;
}

static int one_round(struct bench *b, struct xvm_bench_case *c, unsigned round, double *ring,
		     double *tcp)
{
	bool same = !strcmp(c->pin, "same"), none = !strcmp(c->pin, "none");
	struct xvm_pair_spec s = {
		.mode = c->mode,
		.size = c->size,
		.addr = b->setup.addr,
		.lib = b->lib,
		.socket = b->ask.path,
		.ns_client = b->ns_client,
		.ns_server = b->ns_server,
		.cpu_server = none ? -1 : b->cpu[0],
		.cpu_client = none ? -1 : b->cpu[!same],
	};
	unsigned i, slices = c->other ? OTHER_SLICES : SLICES;
	struct xvm_pair plain, xvm;
	struct xvm_msg_row row;
	int ret;

	ret = xvm_pair_start(&plain, &s);
	if (!ret)
		ret = xvm_pair_warm(&plain, &s, WARM_MS, NULL, &row);
	if (ret) {
		fail(c, "plain", plain.why);
		goto out_plain;
	}
	s.xvm_client = true;
	s.xvm_server = !c->other;
	ret = xvm_pair_start(&xvm, &s);
	if (!ret)
		ret = xvm_pair_warm(&xvm, &s, WARM_MS, c->ring ? &b->ask : NULL, &row);
	for (i = 0; i < slices && !ret; i++) {
		if ((round + i) % 2) {
			ret = timed_xvm(b, c, &xvm, ring, tcp);
			if (ret)
				break;
		}
		ret = timed(b, &plain, &c->plain, &c->plain_cpu);
		if (ret) {
			fail(c, "plain", plain.why);
			goto out;
		}
		if (!((round + i) % 2))
			ret = timed_xvm(b, c, &xvm, ring, tcp);
	}
	if (ret)
		fail(c, "xvm", xvm.why);
out:
	xvm_pair_end(&xvm);
out_plain:
	xvm_pair_end(&plain);
	return ret;
}

static void run_case(struct bench *b, struct xvm_bench_case *c)
{
	double ring = 0, tcp = 0;
	unsigned round;

	c->ok = true;
	for (round = 0; round < b->setup.rounds; round++) {
		if (b->progress)
			fprintf(stderr, "\r\033[K%u of %u: %s, cpus %s: round %u of %u",
				(unsigned)(c - b->cases) + 1, b->n, c->name, c->pin, round + 1,
				b->setup.rounds);
		if (one_round(b, c, round, &ring, &tcp))
			break;
	}
	if (b->progress)
		fputs("\r\033[K", stderr);
	c->ring_share = ring + tcp > 0 ? ring / (ring + tcp) : 0;
	if (!c->ok)
		return;
	/* The figure would be another path's than it says. */
	if (c->ring && c->ring_share < 0.99) {
		c->ok = false;
		snprintf(c->why, sizeof(c->why), "only %.1f %% of the bytes went by the ring (%s)",
			 100 * c->ring_share, c->reason);
	} else if (c->other && c->ring_share > 0) {
		c->ok = false;
		snprintf(c->why, sizeof(c->why), "%s",
			 "bytes went by a ring that should not be there");
	}
}

static void open_daemon(struct bench *b, const char *socket)
{
	char why[XVM_WHY];
	int ret;

	if (socket)
		xvm_ask_check_path(socket);
	ret = xvm_private_choose(&b->ask, socket, false, true);
	if (ret)
		xvm_die("%s", xvm_ask_why(&b->ask, ret, why));
}

static double parse_seconds(const char *s)
{
	char *end;
	double v = strtod(s, &end);

	if (*s < '0' || *s > '9' || *end || !(v >= 0.01 && v <= 3600))
		xvm_misuse("--seconds is from 0.01 to 3600, not '%s'", s);
	return v;
}

static void add_pins(struct bench *b, const char *pin, int named, char **names,
		     const unsigned *sizes, unsigned nsizes)
{
	bool both = !strcmp(pin, "both");

	if (!both && strcmp(pin, "split") != 0 && strcmp(pin, "same") != 0 &&
	    strcmp(pin, "none") != 0)
		xvm_misuse("--pin is split, same, both or none, not '%s'", pin);
	if (!strcmp(pin, "split") && b->ncpu < 2)
		xvm_die("there is one CPU only: no --pin split");
	if (both && b->ncpu < 2) {
		xvm_warn("one CPU only: no --pin split");
		pin = "same";
	}
	if (!both)
		add_cases(b, pin, named, names, sizes, nsizes);
	else if (b->ncpu >= 2)
		add_cases(b, "split", named, names, sizes, nsizes);
	if (both)
		add_cases(b, "same", named, names, sizes, nsizes);
}

int xvm_cmd_bench(int argc, char **argv)
{
	struct bench b = {
		.setup = {.where = "loopback", .addr = "127.0.0.1", .seconds = 0.3, .rounds = 5},
		.ask = {.sock = -1},
		.ns_client = -1,
		.ns_server = -1,
	};
	const char *socket = NULL, *option = NULL, *pin = "both", *given = NULL;
	unsigned sizes[SIZES_MAX] = {64, 4 << 10, 128 << 10}, nsizes = 3, i;
	bool json = false, ok = true;
	uint8_t addr[16];
	int c;

	while ((c = xvm_getopt(argc, argv, options, help)) != -1) {
		switch (c) {
		case 'p':
			pin = optarg;
			break;
		case 'z':
			nsizes = parse_sizes(optarg, sizes);
			break;
		case 't':
			b.setup.seconds = parse_seconds(optarg);
			break;
		case 'n':
			b.setup.rounds = (unsigned)xvm_number(
				optarg, 1, XVM_SAMPLES_MAX / OTHER_SLICES, "--rounds");
			break;
		case 'a':
			given = optarg;
			break;
		case 'N':
			parse_netns(&b, optarg);
			break;
		case 's':
			socket = optarg;
			break;
		case 'L':
			option = optarg;
			break;
		case 'j':
			json = true;
			break;
		}
	}
	if (given && xvm_addr_parse(given, addr))
		xvm_misuse("'%s' is not an IPv4 or IPv6 address", given);
	if (b.ns_client >= 0 && !given)
		xvm_misuse("--netns needs --addr: the server's address in its namespace");
	if (given) {
		b.setup.addr = given;
		if (b.ns_client < 0)
			b.setup.where = "one namespace";
	}
	find_cpus(&b);
	b.cases = calloc(CASES_MAX, sizeof(*b.cases));
	if (!b.cases)
		xvm_die("no memory");
	add_pins(&b, pin, argc - optind, argv + optind, sizes, nsizes);
	b.lib = xvm_find_lib_or_die(option);
	open_daemon(&b, socket);
	b.progress = isatty(2);

	for (i = 0; i < b.n; i++) {
		run_case(&b, &b.cases[i]);
		ok = ok && b.cases[i].ok;
	}
	if (json)
		xvm_bench_json(&b.setup, b.cases, b.n);
	else
		xvm_bench_table(&b.setup, b.cases, b.n);
	free(b.cases);
	return ok ? 0 : 1;
}
