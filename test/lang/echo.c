/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An echo in C, a thread for each connection. Every echo.* of this folder is called alike:
 *
 *   echo serve ADDR PORT
 *   echo connect ADDR PORT FILE OUT CONNECTIONS GO
 *
 * The client sends FILE in pieces over each connection, and stores what comes back in OUT.0, OUT.1,
 * ... When all is back it says so, and keeps the connections until the file GO is there. Then it
 * shuts its side down, and nothing but the end may follow.
 *
 * Linked dynamically, statically, and with musl.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const size_t sizes[] = {1, 100, 5000, 60000};
static struct sockaddr_in addr;
static char *file, *out, *go;
static size_t file_len;
static pthread_barrier_t all_back;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void put(int fd, const char *p, size_t len)
{
	ssize_t n;

	for (; len; p += n, len -= n) {
		n = write(fd, p, len);
		if (n < 0)
			die("write");
	}
}

static void *serve_one(void *arg)
{
	int fd = (int)(long)arg;
	char buf[16384];
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
		put(fd, buf, n);
	if (n < 0)
		die("recv");
	close(fd);
	return NULL;
}

static void *connect_one(void *arg)
{
	size_t len, done = 0, got;
	char *buf, name[4096];
	int fd, save, i = 0;
	ssize_t n;

	buf = malloc(sizes[3]);
	snprintf(name, sizeof(name), "%s.%ld", out, (long)arg);
	save = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (!buf || save < 0 || fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		die("connect");
	for (; done < file_len; done += len) {
		len = sizes[i++ % 4];
		if (len > file_len - done)
			len = file_len - done;
		put(fd, file + done, len);
		for (got = 0; got < len; got += n) {
			n = read(fd, buf + got, len - got);
			if (n <= 0)
				die("read");
		}
		put(save, buf, len);
	}
	pthread_barrier_wait(&all_back);
	if (!arg)
		puts("all back");
	fflush(stdout);
	while (access(go, F_OK))
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	shutdown(fd, SHUT_WR);
	if (read(fd, buf, 1) != 0)
		die("end");
	close(fd);
	close(save);
	free(buf);
	return NULL;
}

static void serve(void)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0), c;
	pthread_t t;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 100))
		die("listen");
	for (;;) {
		c = accept(fd, NULL, NULL);
		if (c < 0 || pthread_create(&t, NULL, serve_one, (void *)(long)c))
			die("accept");
		pthread_detach(t);
	}
}

static void load(const char *name)
{
	int fd = open(name, O_RDONLY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		die(name);
	file_len = st.st_size;
	file = malloc(file_len);
	if (!file || read(fd, file, file_len) != (ssize_t)file_len)
		die(name);
	close(fd);
}

int main(int argc, char **argv)
{
	pthread_t t[64];
	int n;

	addr.sin_family = AF_INET;
	if (argc < 4 || inet_pton(AF_INET, argv[2], &addr.sin_addr) != 1)
		return 2;
	addr.sin_port = htons(atoi(argv[3]));
	if (!strcmp(argv[1], "serve"))
		serve();
	if (argc != 8)
		return 2;
	load(argv[4]);
	out = argv[5];
	n = atoi(argv[6]);
	go = argv[7];
	if (n > 64 || pthread_barrier_init(&all_back, NULL, n))
		return 2;
	for (long i = 0; i < n; i++)
		if (pthread_create(&t[i], NULL, connect_one, (void *)i))
			die("pthread_create");
	for (int i = 0; i < n; i++)
		pthread_join(t[i], NULL);
	return 0;
}
