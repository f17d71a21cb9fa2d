/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sockmap OBJECT CGROUP: connections between programs of a cgroup go by a sockmap (sockmap.bpf.c)
 * until stdin ends. Says "ready"; "bad WHY" where the kernel will not have it.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int bad(const char *what)
{
	printf("bad %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	struct bpf_program *ops, *msg;
	struct bpf_object *o;
	struct bpf_map *map;
	int cgroup;
	char c;

	if (argc != 3)
		return 2;
	libbpf_set_print(NULL);
	cgroup = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cgroup < 0)
		return bad(argv[2]);
	o = bpf_object__open(argv[1]);
	if (!o)
		return bad(argv[1]);
	if (bpf_object__load(o))
		return bad("loading the programs");
	ops = bpf_object__find_program_by_name(o, "on_established");
	msg = bpf_object__find_program_by_name(o, "on_send");
	map = bpf_object__find_map_by_name(o, "socks");
	if (!ops || !msg || !map)
		return bad("the object");
	if (bpf_prog_attach(bpf_program__fd(msg), bpf_map__fd(map), BPF_SK_MSG_VERDICT, 0))
		return bad("attaching to the sockmap");
	if (bpf_prog_attach(bpf_program__fd(ops), cgroup, BPF_CGROUP_SOCK_OPS, 0))
		return bad("attaching to the cgroup");
	puts("ready");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	/* The map and its program end with this process; what is attached to the cgroup would not.
	 */
	bpf_prog_detach2(bpf_program__fd(ops), cgroup, BPF_CGROUP_SOCK_OPS);
	bpf_object__close(o);
	return 0;
}
