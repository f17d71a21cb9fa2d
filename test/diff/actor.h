/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An endpoint of the differential harness (README.md): a process that makes the calls that the
 * driver names, plain or preloaded, and tells their results. What it does besides, to be driven
 * and to see when it is quiet, are raw system calls on descriptors from HIDDEN up, so that a
 * preloaded library sees the script's calls and nothing else.
 */
#ifndef TEST_DIFF_ACTOR_H
#define TEST_DIFF_ACTOR_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define HIDDEN 200   /* the script's descriptors are below, */
#define HIGH 1024    /* or between these, */
#define HIGHEST 4096 /* for which the driver has raised the limit */
#define WORDS 24

struct call {
	char line[400], out[600];
	char *word[WORDS + 1]; /* word[0] is the call's name; NULL after the last */
	int words, via;
	char *name; /* for the descriptor that it returns, or NULL */
	long r;	    /* what the call returned, */
	int err;    /* and its errno */
	/* In a thread of its own. */
	pthread_t thread;
	_Atomic pid_t tid;
	_Atomic bool inside, done;
	struct call *next;
};

/* One of the tables of calls, which end with an empty row. */
struct op {
	const char *name;
	void (*run)(struct call *c);
};
extern const struct op data_ops[], wait_ops[], life_ops[], file_ops[], proc_ops[];

__attribute__((noreturn)) void die(const char *what);
/* Adds to what is told of the call. */
__attribute__((format(printf, 2, 3))) void tell(struct call *c, const char *fmt, ...);
/* The call's result is known; errno with it. */
void result(struct call *c, long r);
/* The call proper begins: what follows may block. */
void begin(struct call *c);

/* Word i, or "" where there are fewer. */
const char *arg(const struct call *c, int i);
/* A name's descriptor, or the number that stands there. */
int fd_of(const char *name);
void set_name(const char *name, int fd);
long number(const char *s, long none);
/* Names separated by '|' or given one by one, from a table of names and values. */
struct bit {
	const char *name;
	unsigned value;
};
unsigned bits_of(const struct bit *t, const char *s);
void tell_bits(struct call *c, const struct bit *t, unsigned v);

/* What goes out: no two bytes in reach of each other that could be taken for one another. */
void pattern(char *p, size_t n);
unsigned hash_of(const void *p, size_t n);

/* SIGPIPEs that this thread had. */
extern __thread volatile int pipes;
extern int file_fd, pipe_fd[2], pipe_in[2], listen_fd;
/* What goes out: no two bytes in reach of each other that could be taken for one another. */
extern _Atomic unsigned long position;

/* In the child of a fork: its driver is another from now on. */
void become_child(void);
/* To execute this program, which goes on as this endpoint, or as its child. */
char **image_args(bool child);
/* Handlers say SA_RESTART, or do not. */
void set_signals(bool restart);
/* A call that is made by the handler of each kick from now on; "" for none. */
void set_handler(const char *line);

#endif
