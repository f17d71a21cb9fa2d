/* SPDX-License-Identifier: Apache-2.0 */
/*
 * instructions send|recv|nothing N: that call N times, 64 bytes each, on a connection that is on
 * the ring and never empty or full. callgrind counts from the first to the last.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <valgrind/callgrind.h>

#include "test/preload/warm.h"

#define SIZE 64
#define BATCH 64 /* fit into any ring */

static char buf[SIZE];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void pair(int *a, int *b)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	*a = socket(AF_INET, SOCK_STREAM, 0);
	if (l < 0 || bind(l, (struct sockaddr *)&sin, sizeof(sin)) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&sin, &len) ||
	    connect(*a, (struct sockaddr *)&sin, len) || (*b = accept(l, NULL, NULL)) < 0 ||
	    !warm_up(*a, *b))
		die("connection");
}

static void sends(int fd)
{
	for (int i = 0; i < BATCH; i++)
		if (send(fd, buf, SIZE, 0) != SIZE)
			die("send");
}

static void recvs(int fd)
{
	for (int i = 0; i < BATCH; i++)
		if (recv(fd, buf, SIZE, 0) != SIZE)
			die("recv");
}

int main(int argc, char **argv)
{
	int a, b, n = argc == 3 ? atoi(argv[2]) : 0;
	const char *what = argv[1];

	if (n < BATCH || n % BATCH)
		return 2;
	pair(&a, &b);
	for (int i = 0; i < n; i += BATCH) {
		if (!strcmp(what, "send"))
			CALLGRIND_TOGGLE_COLLECT;
		sends(a);
		if (!strcmp(what, "send"))
			CALLGRIND_TOGGLE_COLLECT;
		if (!strcmp(what, "recv"))
			CALLGRIND_TOGGLE_COLLECT;
		recvs(b);
		if (!strcmp(what, "recv"))
			CALLGRIND_TOGGLE_COLLECT;
	}
	return 0;
}
