/* SPDX-License-Identifier: Apache-2.0 */
/* Doubly linked lists whose links lie inside their members. */
#ifndef XVM_DETECT_LIST_H
#define XVM_DETECT_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct xvm_list {
	struct xvm_list *next, *prev;
};

#define xvm_container(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* for (XVM_EACH(n, t, &head)): n may be taken out of the list by the body, t not. */
#define XVM_EACH(n, t, head)                                                                       \
	n = (head)->next, t = n->next;                                                             \
	n != (head);                                                                               \
	n = t, t = n->next

static inline void xvm_list_init(struct xvm_list *l)
{
	l->next = l->prev = l;
}

static inline bool xvm_list_empty(const struct xvm_list *l)
{
	return l->next == l;
}

/* At the end. */
static inline void xvm_list_add(struct xvm_list *head, struct xvm_list *l)
{
	l->next = head;
	l->prev = head->prev;
	head->prev->next = l;
	head->prev = l;
}

/* Harmless on a member that is in no list. */
static inline void xvm_list_del(struct xvm_list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	l->next = l->prev = l;
}

#endif
