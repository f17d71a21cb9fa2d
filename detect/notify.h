/* SPDX-License-Identifier: Apache-2.0 */
/* What systemd wants to hear, and the socket that it may hand over: sd_notify(3) and
 * sd_listen_fds(3), without its library. */
#ifndef XVM_DETECT_NOTIFY_H
#define XVM_DETECT_NOTIFY_H

/* Nothing happens where nobody listens. */
void xvm_notify(const char *state);
void xvm_notify_reloading(void);

/* Have systemd keep a descriptor for our successor, or get it from our predecessor: -1 if there is
 * none. What is kept is known after xvm_notify_listen_fd(). */
void xvm_notify_keep(int fd, const char *name);
int xvm_notify_kept(const char *name);
void xvm_notify_keep_no_more(const char *name);

/* The listening socket that came with us, -ENOENT if none did, -EINVAL if it is not our kind. */
int xvm_notify_listen_fd(void);

#endif
