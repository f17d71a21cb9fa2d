/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "tools/check.h"

#define DEVICES "/sys/bus/pci/devices"
#define ANSWER_MS 300 /* that the host's xvmd may take: 20 times a second is looked for it */
#define SAMPLE (1u << 20)
#define ROUNDS 4
#define UNCACHED 8 /* times slower than ordinary memory */

static bool is(const char *dir, const char *name, unsigned long want)
{
	char path[300], text[32];
	FILE *f;
	bool ok;

	snprintf(path, sizeof(path), "%.200s/%s", dir, name);
	f = fopen(path, "re");
	ok = f && fgets(text, sizeof(text), f) && strtoul(text, NULL, 16) == want;
	if (f)
		fclose(f);
	return ok;
}

/* The index'th device on the bus, in the order that xvmd has them in, too. */
static bool find(unsigned index, char dir[200])
{
	bool found = false;
	unsigned n = 0;
	size_t i;
	glob_t g;

	if (glob(DEVICES "/*", 0, NULL, &g))
		return false;
	for (i = 0; i < g.gl_pathc && !found; i++)
		if (is(g.gl_pathv[i], "vendor", 0x1af4) && is(g.gl_pathv[i], "device", 0x1110) &&
		    n++ == index) {
			snprintf(dir, 200, "%.199s", g.gl_pathv[i]);
			found = true;
		}
	globfree(&g);
	return found;
}

/* Seconds that copying out of there takes. */
static double copy_time(const void *from, void *to)
{
	struct timespec a, b;
	int i;

	memcpy(to, from, SAMPLE);
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (i = 0; i < ROUNDS; i++) {
		memcpy(to, from, SAMPLE);
		__asm__ volatile("" ::: "memory");
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

/* Only reads, and nothing that it reads matters. */
static void check_memory(const char *dir)
{
	char path[300], *own = malloc(2ul * SAMPLE);
	void *p = MAP_FAILED;
	double device, ordinary;
	int fd;

	snprintf(path, sizeof(path), "%.200s/resource2", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		p = mmap(NULL, SAMPLE, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED || !own) {
		xvm_check_tell(XVM_WARN, "memory", "not measured: %s%s", strerror(errno),
			       geteuid() ? "; root can" : "");
		goto out;
	}
	memset(own, 1, 2ul * SAMPLE);
	ordinary = copy_time(own + SAMPLE, own);
	device = copy_time(p, own);
	if (device > UNCACHED * ordinary)
		xvm_check_tell(
			XVM_WARN, "memory",
			"%.0f MB/s, ordinary memory %.0f: it is not cached. The host maps it "
			"so; some AMD hosts do",
			ROUNDS / device, ROUNDS / ordinary);
	else
		xvm_check_tell(XVM_OK, "memory", "%.0f MB/s, ordinary memory %.0f: it is cached",
			       ROUNDS / device, ROUNDS / ordinary);
out:
	if (p != MAP_FAILED)
		munmap(p, SAMPLE);
	if (fd >= 0)
		close(fd);
	free(own);
}

static bool emulated(void)
{
#ifdef __x86_64__
	unsigned a, b, c, d;

	__cpuid(1, a, b, c, d);
	if (!(c & 1u << 31)) /* no hypervisor's leaves */
		return false;
	__cpuid(0x40000000, a, b, c, d);
	return b == 0x54474354 && c == 0x43544743 && d == 0x47435447; /* "TCGTCGTCGTCG" */
#else
	return false;
#endif
}

/* QEMU's emulator leaves out fences and the locks of instructions for a machine that can never have
 * a second processor (test/vm/README.md, 5): whom nobody wakes then sleeps for good. */
static void check_processors(void)
{
	char possible[32] = "";
	FILE *f = fopen("/sys/devices/system/cpu/possible", "re");

	if (f && !fgets(possible, sizeof(possible), f))
		*possible = '\0';
	if (f)
		fclose(f);
	if (emulated() && !strcmp(possible, "0\n"))
		xvm_check_tell(XVM_FAIL, "processors",
			       "one, emulated by QEMU (TCG): writes to shared memory then have no "
			       "order, and "
			       "connections may hang. Give the VM a second one, or room for it: "
			       "-smp 1,maxcpus=2");
}

static void check_host(const struct xvm_msg *m)
{
	if (!(m->arg2 & XVM_DEVICE_UP))
		xvm_check_tell(XVM_FAIL, "host's xvmd",
			       "does not know this VM: is it running there, with this group, since "
			       "before the VM was started? If it was started anew, unplug "
			       "the device and plug it in again, or restart the VM");
	else if (m->arg2 & XVM_DEVICE_SILENT)
		xvm_check_tell(
			XVM_FAIL, "host's xvmd",
			"does not answer: open connections go on, new ones stay on TCP. If it was "
			"started anew, unplug the device and plug it in again, or restart the VM");
	else
		xvm_check_tell(XVM_OK, "host's xvmd", "answers");
}

static void check_device(struct xvm_ask *a, unsigned index)
{
	struct xvm_msg m = {.type = XVM_MSG_STATUS, .slot = index + 1};
	char dir[200], why[XVM_WHY];
	int ret;

	/* Being asked, xvmd asks the host's in turn: what came of that is said the second time. */
	ret = xvm_ask(a, &m);
	if (!ret && !m.arg) {
		poll(NULL, 0, ANSWER_MS);
		m = (struct xvm_msg){.type = XVM_MSG_STATUS, .slot = index + 1};
		ret = xvm_ask(a, &m);
	}
	if (ret || (m.arg && m.arg != ENODEV)) {
		xvm_check_tell(XVM_FAIL, "ivshmem", "%s",
			       ret ? xvm_ask_why(a, ret, why) : strerror((int)m.arg));
		return;
	}
	if (m.arg) {
		xvm_check_tell(XVM_WARN, "ivshmem",
			       "there is a device that this xvmd does not use: a private one never "
			       "does; else its log tells why");
		return;
	}
	xvm_check_tell(m.arg2 & XVM_DEVICE_UP ? XVM_OK : XVM_FAIL, "ivshmem", "%s", m.text);
	check_host(&m);
	if (m.arg2 & XVM_DEVICE_INTERRUPTS)
		xvm_check_tell(XVM_OK, "interrupts", "programs are woken by them");
	else
		xvm_check_tell(
			XVM_WARN, "interrupts",
			"none: programs are woken over TCP, which is slower. An IOMMU in the VM "
			"(xvm vm-args), intel_iommu=on or the like for its kernel, modprobe "
			"vfio-pci, and restart xvmd");
	if (!(m.arg2 & XVM_DEVICE_MAY))
		xvm_check_tell(XVM_WARN, "share",
			       "your programs may not have its memory: `share allow user NAME` in "
			       "xvmd.conf");
	check_processors();
	if (find(index, dir))
		check_memory(dir);
}

void xvm_check_devices(struct xvm_ask *a)
{
	char dir[200];
	unsigned i;

	for (i = 0; find(i, dir); i++)
		check_device(a, i);
}
