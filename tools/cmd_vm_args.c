/* SPDX-License-Identifier: Apache-2.0 */
/* xvm vm-args: what makes a VM a member of a group. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/ask.h"
#include "tools/tool.h"

static const char help[] =
	"usage: xvm vm-args [--libvirt] [--no-iommu] [--socket PATH] [GROUP]\n\n"
	"Prints what to add to QEMU's command line so that the VM shares memory with this host\n"
	"and the other VMs of GROUP, which is one of xvmd's configuration. Without GROUP the\n"
	"groups are listed.\n\n"
	"  --libvirt   elements for the domain's XML instead (virsh edit)\n"
	"  --no-iommu  without a virtual IOMMU: programs in the guest are then woken by TCP\n"
	"              rather than by interrupts\n";

static const struct option options[] = {
	{"libvirt", no_argument, NULL, 'l'},
	{"no-iommu", no_argument, NULL, 'n'},
	{"socket", required_argument, NULL, 's'},
	{0},
};

static void check(const struct xvm_ask *a, int ret)
{
	char why[XVM_WHY];

	if (ret)
		xvm_die("%s", xvm_ask_why(a, ret, why));
}

static void list(struct xvm_ask *a, FILE *to, const char *before)
{
	struct xvm_msg m = {.type = XVM_MSG_GROUP};

	check(a, xvm_ask_send(a, &m));
	for (;;) {
		check(a, xvm_ask_next(a, &m));
		if (m.type != XVM_MSG_GROUP_ROW)
			return;
		fprintf(to, "%s%s\n", before, m.text);
	}
}

/* The group's row; false: there is no such group. */
static bool ask(struct xvm_ask *a, const char *group, struct xvm_msg *row)
{
	struct xvm_msg m = {.type = XVM_MSG_GROUP};

	if (strlen(group) >= sizeof(m.text))
		return false;
	snprintf(m.text, sizeof(m.text), "%s", group);
	check(a, xvm_ask_send(a, &m));
	check(a, xvm_ask_next(a, row));
	if (row->type != XVM_MSG_GROUP_ROW)
		return false;
	check(a, xvm_ask_next(a, &m));
	return true;
}

/* A comma ends a value of QEMU's, so it is doubled. */
static void put_value(const char *s)
{
	for (; *s; s++)
		printf(*s == ',' ? ",," : "%c", *s);
}

/* As one word for a shell, whatever is in the path. */
static void put_chardev(const char *group, const char *path)
{
	bool plain = !path[strspn(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
					"0123456789/._-+:,@%")];
	const char *quote;

	printf("-chardev %ssocket,id=xvm-%s,path=", plain ? "" : "'", group);
	while (!plain && (quote = strchr(path, '\''))) {
		printf("%.*s'\\''", (int)(quote - path), path);
		path = quote + 1;
	}
	put_value(path);
	puts(plain ? " \\" : "' \\");
}

static void print_qemu(const char *group, const struct xvm_msg *row, bool iommu)
{
	if (iommu)
		puts("-machine q35,kernel-irqchip=split -device intel-iommu,intremap=on \\");
	put_chardev(group, row->text);
	printf("-device ivshmem-doorbell,id=xvm-%s-dev,chardev=xvm-%s,vectors=%u\n", group, group,
	       row->arg);
}

static void put_xml(const char *s)
{
	for (; *s; s++) {
		switch (*s) {
		case '&':
			fputs("&amp;", stdout);
			break;
		case '<':
			fputs("&lt;", stdout);
			break;
		case '\'':
			fputs("&apos;", stdout);
			break;
		default:
			putchar(*s);
		}
	}
}

static void print_libvirt(const char *group, const struct xvm_msg *row, bool iommu)
{
	if (iommu)
		puts("<!-- in <features> -->\n"
		     "<ioapic driver='qemu'/>\n"
		     "<!-- in <devices>; the machine's type is q35 -->\n"
		     "<iommu model='intel'>\n"
		     "  <driver intremap='on'/>\n"
		     "</iommu>");
	else
		puts("<!-- in <devices> -->");
	printf("<shmem name='xvm-%s'>\n"
	       "  <model type='ivshmem-doorbell'/>\n"
	       "  <server path='",
	       group);
	put_xml(row->text);
	printf("'/>\n"
	       "  <msi vectors='%u' ioeventfd='on'/>\n"
	       "</shmem>\n",
	       row->arg);
}

int xvm_cmd_vm_args(int argc, char **argv)
{
	bool libvirt = false, iommu = true;
	const char *socket = NULL, *group;
	struct xvm_ask a;
	struct xvm_msg row;
	int c;

	while ((c = xvm_getopt(argc, argv, options, help)) != -1) {
		switch (c) {
		case 'l':
			libvirt = true;
			break;
		case 'n':
			iommu = false;
			break;
		default:
			socket = optarg;
		}
	}
	if (optind + 1 < argc)
		xvm_misuse("one group: '%s'", argv[optind + 1]);
	xvm_ask_open_or_die(&a, socket);
	if (optind == argc) {
		list(&a, stdout, "");
		return 0;
	}
	group = argv[optind];
	if (!*group || !ask(&a, group, &row)) {
		xvm_warn("there is no group '%s'; xvmd.conf(5) tells how to add one. There are:",
			 group);
		list(&a, stderr, "  ");
		return 1;
	}
	if (libvirt)
		print_libvirt(group, &row, iommu);
	else
		print_qemu(group, &row, iommu);
	return 0;
}
