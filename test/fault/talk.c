/* SPDX-License-Identifier: Apache-2.0 */
/*
 * talk ADDRESS PORT: what comes from stdin goes to the peer, what comes from the peer to stdout,
 * until stdin ends, and then the peer.
 */
#include <arpa/inet.h>
#include <err.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void put(int fd, const char *p, ssize_t n)
{
	for (ssize_t r; n; p += r, n -= r) {
		r = write(fd, p, (size_t)n);
		if (r < 0)
			err(1, "write");
	}
}

int main(int argc, char **argv)
{
	struct pollfd p[2] = {{.fd = 0, .events = POLLIN}, {.events = POLLIN}};
	struct sockaddr_in sa = {.sin_family = AF_INET};
	char buf[8192];
	ssize_t n;
	int fd;

	if (argc != 3 || inet_pton(AF_INET, argv[1], &sa.sin_addr) != 1)
		errx(2, "usage: talk ADDRESS PORT");
	sa.sin_port = htons((uint16_t)atoi(argv[2]));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		err(1, "connect");
	p[1].fd = fd;
	for (;;) {
		if (poll(p, 2, -1) < 0)
			err(1, "poll");
		if (p[0].revents) {
			n = read(0, buf, sizeof(buf));
			if (n < 0)
				err(1, "read");
			put(fd, buf, n);
			if (n == 0) {
				shutdown(fd, SHUT_WR);
				p[0].fd = -1;
			}
		}
		if (p[1].revents) {
			n = recv(fd, buf, sizeof(buf), 0);
			if (n < 0)
				err(1, "recv");
			if (n == 0)
				return 0;
			put(1, buf, n);
		}
	}
}
