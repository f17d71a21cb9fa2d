/* SPDX-License-Identifier: Apache-2.0 */
/* xvm check: tries what xvm needs, here and now, and says what to do about what does not work. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "detect/client.h"
#include "tools/addr.h"
#include "tools/ask.h"
#include "tools/check.h"
#include "tools/find.h"
#include "tools/pair.h"
#include "tools/preload.h"
#include "tools/private.h"
#include "tools/program.h"
#include "tools/tool.h"

static const char help[] =
	"usage: xvm check [--socket PATH] [--lib PATH] [--program FILE] [ADDR[:PORT]]\n\n"
	"Tests live what xvm needs. A line each: ok, warn or FAIL, what, and why or what to do.\n"
	"With an address: does it live on this host? With a port as well: connects there (without\n"
	"sending anything) and tells what stands between that connection and the ring. An IPv6\n"
	"address with a port is written [ADDR]:PORT.\n\n"
	"  --program FILE  can the library be preloaded into it? (not into static or set-user-ID "
	"ones)\n"
	"  --socket PATH   the xvmd to use (default: as `xvm run`)\n"
	"  --lib PATH      the libxvm.so to preload\n\n"
	"Exit status: 1 if something failed.\n";

static const struct option options[] = {
	{"socket", required_argument, NULL, 's'},
	{"lib", required_argument, NULL, 'L'},
	{"program", required_argument, NULL, 'P'},
	{0},
};

static int worst;

void xvm_check_tell(enum xvm_verdict v, const char *what, const char *fmt, ...)
{
	static const char *const words[] = {"ok", "warn", "FAIL"};
	char why[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	if ((int)v > worst)
		worst = v;
	printf("%-4s  %-14s  (%s)\n", words[v], what, why);
	fflush(stdout);
}

static const char *check_lib(const char *option)
{
	static char path[PATH_MAX];
	const char *lib = option ? realpath(option, path) : xvm_find_lib();

	if (!lib || access(lib, R_OK)) {
		xvm_check_tell(XVM_FAIL, "library",
			       "cannot read %s: %s; build or install it, or say where it is: --lib",
			       option ? option : XVM_LIB_INSTALLED, strerror(errno));
		return NULL;
	}
	if (!xvm_preload_possible(lib)) {
		xvm_check_tell(
			XVM_FAIL, "library",
			"%s: LD_PRELOAD can name no path with a blank or colon in it; move it",
			lib);
		return NULL;
	}
	xvm_check_tell(XVM_OK, "library", "%s", lib);
	return lib;
}

static void check_program(const char *name)
{
	char path[PATH_MAX], why[PATH_MAX + 128];
	int ret = xvm_program_find(name, path, sizeof(path));

	if (ret)
		snprintf(why, sizeof(why), "%s: %s", name, strerror(-ret));
	else
		ret = xvm_program_judge(path, why, sizeof(why));
	xvm_check_tell(ret ? XVM_FAIL : XVM_OK, "program", "%s%s", why,
		       ret > 0 ? "; it stays on TCP" : "");
}

static void check_memfd(void)
{
	int fd = memfd_create("xvm-check", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
	void *p = MAP_FAILED;
	int ret;

	if (fd < 0) {
		xvm_check_tell(XVM_FAIL, "memfd", "memfd_create: %s; no ring can be made",
			       strerror(errno));
		return;
	}
	ret = ftruncate(fd, 4096);
	if (!ret)
		p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ret || p == MAP_FAILED)
		xvm_check_tell(XVM_FAIL, "memfd", "cannot map one: %s", strerror(errno));
	else if (fcntl(fd, F_ADD_SEALS, seals))
		xvm_check_tell(XVM_FAIL, "memfd", "cannot seal it: %s; needs Linux 5.1 or later",
			       strerror(errno));
	else if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
		xvm_check_tell(XVM_FAIL, "memfd", "the seal against writing has no effect");
	else
		xvm_check_tell(XVM_OK, "memfd", "made, mapped, sealed");
	if (p != MAP_FAILED)
		munmap(p, 4096);
	close(fd);
}

static void check_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t one = 1;

	if (fd < 0)
		xvm_check_tell(XVM_WARN, "eventfd",
			       "%s; sleepers are woken over TCP, which is slower", strerror(errno));
	else if (write(fd, &one, sizeof(one)) != sizeof(one) || poll(&p, 1, 0) != 1)
		xvm_check_tell(XVM_WARN, "eventfd", "does not wake; sleepers are woken over TCP");
	else
		xvm_check_tell(XVM_OK, "eventfd", "wakes");
	if (fd >= 0)
		close(fd);
}

static void check_files(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r))
		return;
	/* The common default. A ring keeps no descriptor; the daemon link, wakers and peers do. */
	if (r.rlim_cur == r.rlim_max && r.rlim_cur < XVM_FEW_FDS)
		xvm_check_tell(
			XVM_FAIL, "open files",
			"%llu at most: with fewer than %d the library does nothing; raise the hard "
			"limit "
			"(ulimit -Hn, LimitNOFILE=)",
			(unsigned long long)r.rlim_cur, XVM_FEW_FDS);
	else if (r.rlim_cur < 1024)
		xvm_check_tell(XVM_WARN, "open files",
			       "%llu at most; connections stay on TCP (no-memory) when they run "
			       "out: ulimit "
			       "-n",
			       (unsigned long long)r.rlim_cur);
	else
		xvm_check_tell(XVM_OK, "open files", "%llu at most",
			       (unsigned long long)r.rlim_cur);
}

static void check_address_space(void)
{
	struct rlimit r;

	if (!getrlimit(RLIMIT_AS, &r) && r.rlim_cur != RLIM_INFINITY)
		xvm_check_tell(
			XVM_FAIL, "address space",
			"limited: the library does nothing; lift the limit (ulimit -v, LimitAS=)");
}

static void check_seccomp(void)
{
	char line[256];
	int mode = 0;
	FILE *f = fopen("/proc/self/status", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Seccomp: %d", &mode) == 1)
			break;
	if (f)
		fclose(f);
	if (mode)
		xvm_check_tell(
			XVM_WARN, "seccomp",
			"a filter is in force here: what it forbids may keep programs on TCP");
	else
		xvm_check_tell(XVM_OK, "seccomp", "no filter");
}

/* The daemon that a program would use; where none answers, a private one. */
static bool check_daemon(struct xvm_ask *a, const char *socket)
{
	struct xvm_msg m = {.type = XVM_MSG_STATUS};
	char why[XVM_WHY];
	int ret, first;

	first = xvm_ask_open_at(a, socket ? socket : xvm_client_path());
	if (first) {
		xvm_ask_why(a, first, why);
		ret = first == -EPROTONOSUPPORT ? -1 : xvm_private_choose(a, NULL, true, false);
		if (first == -EPROTONOSUPPORT || ret) {
			xvm_check_tell(
				XVM_FAIL, "daemon", "%s; %s", why,
				first == -EPROTONOSUPPORT
					? "install one version of both, and restart xvmd"
					: "nor can a private one be started; start xvmd (see "
					  "xvmd(8))");
			return false;
		}
		xvm_check_tell(
			XVM_WARN, "daemon",
			"%s; `xvm run` uses a private one, other programs stay on TCP: start xvmd "
			"(see xvmd(8))",
			why);
	}
	ret = xvm_ask(a, &m);
	if (ret || m.arg) {
		xvm_check_tell(XVM_FAIL, "daemon", "%s",
			       ret ? xvm_ask_why(a, ret, why) : strerror((int)m.arg));
		return false;
	}
	xvm_check_tell(XVM_OK, first ? "private daemon" : "daemon", "%s, protocol %d%s%s", a->path,
		       XVM_PROTO_VERSION, *m.text ? ", " : "", m.text);
	return true;
}

static void check_pair(struct xvm_ask *a, const char *lib)
{
	struct xvm_pair_spec s = {
		.mode = "rtt",
		.size = 1,
		.addr = "127.0.0.1",
		.lib = lib,
		.socket = a->path,
		.xvm_client = true,
		.xvm_server = true,
		.ns_client = -1,
		.ns_server = -1,
		.cpu_client = -1,
		.cpu_server = -1,
	};
	struct xvm_msg_row row;
	struct xvm_slice slice;
	struct xvm_pair p;
	int ret;

	ret = xvm_pair_start(&p, &s);
	if (!ret && !xvm_pair_mapped(p.client.pid)) {
		xvm_check_tell(XVM_FAIL, "live pair",
			       "%s was not loaded into a program started with it", lib);
		goto out;
	}
	if (!ret)
		ret = xvm_pair_warm(&p, &s, 0, a, &row);
	if (!ret)
		ret = xvm_pair_slice(&p, 200, &slice);
	if (ret)
		xvm_check_tell(XVM_FAIL, "live pair", "%s", p.why);
	else
		xvm_check_tell(XVM_OK, "live pair", "path ring, %.3g us a round trip of 1 byte",
			       1e6 * slice.seconds / slice.count);
out:
	xvm_pair_end(&p);
}

static bool check_resident(struct xvm_ask *a, const uint8_t addr[16], const char *text)
{
	struct xvm_msg m = {.type = XVM_MSG_RESIDENT};
	char why[XVM_WHY];
	int ret;

	memcpy(m.addr, addr, 16);
	ret = xvm_ask(a, &m);
	if (ret)
		xvm_check_tell(XVM_FAIL, text, "%s", xvm_ask_why(a, ret, why));
	else if (!m.arg)
		xvm_check_tell(XVM_OK, text, "lives here: %s", m.text);
	else if (m.arg == EEXIST)
		xvm_check_tell(XVM_FAIL, text,
			       "lives in more than one place here, so it is refused: %s", m.text);
	else
		xvm_check_tell(XVM_FAIL, text,
			       "does not live on this host, as far as xvmd sees%s%s",
			       *m.text ? ": " : "", m.text);
	return !ret && !m.arg;
}

static void tell_probe(const char *text, const struct xvm_msg_row *row)
{
	if (row->state == XVM_EP_PAIRED)
		xvm_check_tell(XVM_OK, text,
			       "connected; the other end is known: bytes will go by the ring");
	else if (row->reason == XVM_R_OFFERED)
		xvm_check_tell(XVM_WARN, text,
			       "connected; offered, but the other end has not answered: it is not "
			       "preloaded, "
			       "or makes no calls until it is spoken to");
	else
		xvm_check_tell(XVM_FAIL, text, "connected; stays on TCP: %s: %s",
			       xvm_reason_name(row->reason), xvm_reason_text(row->reason));
}

/* Connects as a preloaded program would, offers at once, and looks for half a second. */
static void check_port(struct xvm_ask *a, const char *lib, const uint8_t addr[16], int port,
		       const char *text)
{
	struct xvm_spawn spawn = {.lib = lib,
				  .socket = a->path,
				  .netns = -1,
				  .cpu = -1,
				  .env = {"XVM_OFFER_AFTER=0"}};
	char number[16], host[XVM_ADDR_STR], line[160];
	const char *argv[] = {NULL, "peer", "connect", "probe", "4096", host, number, NULL};
	struct xvm_msg_row row = {0};
	struct xvm_pair p = {.server.pid = -1};
	int i, ret;

	snprintf(number, sizeof(number), "%d", port);
	snprintf(p.port, sizeof(p.port), "%.5s", number);
	xvm_addr_str(addr, host);
	ret = xvm_child_start(&p.client, &spawn, argv);
	if (!ret)
		ret = xvm_child_line(&p.client, line, sizeof(line), 5000);
	if (ret || strcmp(line, "up") != 0) {
		xvm_check_tell(XVM_FAIL, text, "%s",
			       ret == -ETIMEDOUT ? "no answer in 5 s: a firewall?"
			       : ret		 ? "the process that tried ended early"
						 : line + strcspn(line, " ") + 1);
		goto out;
	}
	xvm_child_say(&p.client, "warm");
	for (i = 0; i < 25 && row.state != XVM_EP_PAIRED; i++) {
		if (!xvm_child_line(&p.client, line, sizeof(line), 20)) {
			xvm_check_tell(XVM_FAIL, text, "%s", line + strcspn(line, " ") + 1);
			goto out;
		}
		ret = xvm_pair_row(&p, a, &row);
	}
	if (ret)
		xvm_check_tell(XVM_FAIL, text, "%s", p.why);
	else
		tell_probe(text, &row);
out:
	xvm_child_kill(&p.client);
}

int xvm_cmd_check(int argc, char **argv)
{
	const char *socket = NULL, *option = NULL, *lib, *target = NULL;
	const char *program = NULL;
	struct xvm_ask a = {.sock = -1};
	char text[XVM_ADDR_STR];
	uint8_t addr[16];
	int c, port = -1;
	bool up;

	while ((c = xvm_getopt(argc, argv, options, help)) != -1) {
		if (c == 's')
			socket = optarg;
		else if (c == 'L')
			option = optarg;
		else
			program = optarg;
	}
	if (argc - optind > 1)
		xvm_misuse("one address at a time");
	if (optind < argc)
		target = argv[optind];
	if (target && xvm_addr_parse_port(target, addr, &port))
		xvm_misuse("'%s' is not ADDR, ADDR:PORT or [ADDR]:PORT", target);
	if (socket)
		xvm_ask_check_path(socket);

	lib = check_lib(option);
	if (program)
		check_program(program);
	check_memfd();
	check_eventfd();
	check_files();
	check_address_space();
	check_seccomp();
	up = check_daemon(&a, socket);
	if (up)
		xvm_check_devices(&a);
	if (up && lib)
		check_pair(&a, lib);
	if (up && target) {
		xvm_addr_str(addr, text);
		if (check_resident(&a, addr, text) && port > 0 && lib)
			check_port(&a, lib, addr, port, target);
	}
	return worst == XVM_FAIL;
}
