/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGSEGV and SIGBUS. Our handler answers the faults of fault_copy.S, told by the program counter,
 * and is, for every other, as good as not there: the application's handler is called in its place,
 * with the kernel's own siginfo and ucontext.
 *
 * The kernel keeps the application's mask and flags, in the action that has our handler; we keep
 * what that action cannot hold: the handler, and the flags that we must change. When the
 * application sets an action, by whatever function, libc does it first; then ours is put over
 * what has come of it. So nothing of what libc makes of a call is done again here, and an action
 * that somebody has set past us is found as it is.
 *
 * A thread that blocks the signal dies of its fault whatever the action, as the kernel has it.
 */
#include "shim/fault.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "shim/process.h"
#include "shim/real.h"
#include "shim/restart.h"
#include "transport/lock.h"
#include "transport/sys.h"

typedef void (*handler_fn)(int, siginfo_t *, void *);
typedef void (*simple_fn)(int);

/* Wrappers of what libc advises against. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

extern const char xvm_user_begin[] __attribute__((visibility("hidden")));
extern const char xvm_user_end[] __attribute__((visibility("hidden")));
extern const char xvm_user_bad[] __attribute__((visibility("hidden")));
uint8_t xvm_user_avx; /* fault_copy.S may use AVX */

#define FLAG_RESTORER 0x04000000 /* SA_RESTORER, which libc sets and does not declare */

/* The application's action, less what the kernel holds: the handler and, in bits that no address of
 * a function has, flags. In one word, for a signal handler to read at any moment. */
#define W_SIGINFO (1ull << 63)
#define W_RESETHAND (1ull << 62)
#define W_RESTORER (1ull << 61)
#define W_HANDLER (W_RESTORER - 1)

static _Atomic uint64_t app[2]; /* SIGSEGV, SIGBUS */
_Atomic int xvm_fault_installed;
_Thread_local uintptr_t xvm_user_known[XVM_USER_KNOWN];
static struct xvm_shm_lock lock; /* held with all signals blocked */

static _Atomic uint64_t *word_of(int sig)
{
	return &app[sig == SIGBUS];
}

static bool concerns(int sig)
{
	return sig == SIGSEGV || sig == SIGBUS;
}

static bool is_function(uint64_t word)
{
	return (word & W_HANDLER) > (uintptr_t)SIG_IGN;
}

/* ---- the handler --------------------------------------------------------- */

static bool recover(ucontext_t *uc)
{
#if defined(__x86_64__)
	greg_t *pc = &uc->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
	unsigned long long *pc = &uc->uc_mcontext.pc;
#endif

	if ((uintptr_t)*pc < (uintptr_t)xvm_user_begin || (uintptr_t)*pc >= (uintptr_t)xvm_user_end)
		return false;
	*pc = (__typeof__(*pc))(uintptr_t)xvm_user_bad;
	return true;
}

static long kernel_action(int sig, void (*h)(int))
{
	/* As the kernel has it; without a handler all else is 0. */
	struct {
		void (*handler)(int);
		unsigned long rest[3];
	} k = {.handler = h};

	return xvm_sys(SYS_rt_sigaction, sig, &k, NULL, 8);
}

/* SIG_DFL, or SIG_IGN where a fault kills nevertheless: the process is to die as if we were not. */
static void by_default(int sig, siginfo_t *si, ucontext_t *uc)
{
	/* A page fault will come again. Blocked, it kills, with no call that a sandbox may forbid.
	 * What the kernel says of other things it may say but once. */
	bool again = si->si_code > 0 && si->si_code != SI_KERNEL &&
		     !(sig == SIGBUS && si->si_code == BUS_MCEERR_AO);

	if (!again && kernel_action(sig, SIG_DFL) == 0 &&
	    xvm_sys(SYS_rt_tgsigqueueinfo, xvm_sys(SYS_getpid), xvm_sys(SYS_gettid), sig, si) == 0)
		return;
	*(uint64_t *)&uc->uc_sigmask |= 1ull << (sig - 1);
}

static void on_fault(int sig, siginfo_t *si, void *ctx)
{
	_Atomic uint64_t *word = word_of(sig);
	uint64_t w;

	if (si->si_code > 0 && recover(ctx))
		return;
	w = atomic_load(word);
	while (is_function(w) && (w & W_RESETHAND) &&
	       !atomic_compare_exchange_weak(word, &w, w & ~W_HANDLER))
		;
	if (is_function(w))
		/* The last thing done, so that not even our frame is in the way. */
		((handler_fn)(uintptr_t)(w & W_HANDLER))(sig, si, ctx);
	else if ((w & W_HANDLER) == (uintptr_t)SIG_DFL || si->si_code > 0)
		by_default(sig, si, ctx);
}

bool xvm_user_there_slow(const void *p, size_t n)
{
	uintptr_t size = (uintptr_t)getpagesize(), last = ((uintptr_t)p + n - 1) >> XVM_USER_PAGE;
	long r;

	if (atomic_load_explicit(&xvm_fault_installed, memory_order_relaxed))
		return xvm_user_readable(p, n) == 0;
	if (n == 0 || xvm_conf.sandboxed)
		return true;
	if (xvm_user_wild((uintptr_t)p, (uintptr_t)p + n))
		return false;
	for (uintptr_t page = (uintptr_t)p >> XVM_USER_PAGE; page <= last; page++) {
		uintptr_t *known = &xvm_user_known[page % XVM_USER_KNOWN];

		if (*known == ~page)
			continue;
		/* It faults the page in, as our reading it would. Other errors are a sandbox's. */
		r = xvm_sys(SYS_madvise, page << XVM_USER_PAGE & -size, size, MADV_POPULATE_READ);
		if (r == -ENOMEM || r == -EFAULT || r == -EINVAL)
			return false;
		*known = ~page;
	}
	return true;
}

bool xvm_user_read_only(void *p, size_t n)
{
	return atomic_load_explicit(&xvm_fault_installed, memory_order_relaxed) &&
	       xvm_user_writable(p, n) < 0;
}

/* ---- the application's actions ------------------------------------------- */

struct held {
	uint64_t mask;
	bool blocked, locked;
};

/* Whoever holds the lock runs no handler, so waiting for it is never waiting for oneself. */
static void hold(struct held *h)
{
	static const uint64_t all = ~0ull;

	h->blocked = !xvm_conf.sandboxed &&
		     xvm_sys(SYS_rt_sigprocmask, SIG_SETMASK, &all, &h->mask, 8) == 0;
	h->locked = xvm_lock(&lock) == 0;
}

static void release(struct held *h)
{
	if (h->locked)
		xvm_unlock(&lock);
	if (h->blocked)
		xvm_sys(SYS_rt_sigprocmask, SIG_SETMASK, &h->mask, NULL, 8);
}

/* Our handler over what is set now. The child of a vfork has actions of its own, not memory. */
static void take(int sig)
{
	struct sigaction k;
	uint64_t w;

	if (!atomic_load(&xvm_fault_installed) || xvm_in_vfork() ||
	    REAL(sigaction)(sig, NULL, &k) < 0)
		return;
	if (k.sa_sigaction != on_fault) {
		w = (uintptr_t)k.sa_sigaction & W_HANDLER;
		w |= k.sa_flags & SA_SIGINFO ? W_SIGINFO : 0;
		w |= k.sa_flags & (int)SA_RESETHAND ? W_RESETHAND : 0;
		w |= k.sa_flags & FLAG_RESTORER ? W_RESTORER : 0;
		/* Before the kernel knows of our handler, which reads it. */
		atomic_store(word_of(sig), w);
	}
	k.sa_sigaction = on_fault;
	k.sa_flags = (k.sa_flags | SA_SIGINFO) & (int)~SA_RESETHAND;
	REAL(sigaction)(sig, &k, NULL);
}

/* What the application is told of an action that has our handler. */
static void report(int sig, struct sigaction *k)
{
	uint64_t w = atomic_load(word_of(sig));

	if (k->sa_sigaction != on_fault)
		return;
	k->sa_handler = (simple_fn)(uintptr_t)(w & W_HANDLER);
	k->sa_flags &= ~(SA_SIGINFO | FLAG_RESTORER);
	k->sa_flags |= w & W_SIGINFO ? SA_SIGINFO : 0;
	k->sa_flags |= w & W_RESETHAND ? (int)SA_RESETHAND : 0;
	if (w & W_RESTORER)
		k->sa_flags |= FLAG_RESTORER;
	else
		k->sa_restorer = NULL;
}

static simple_fn reported(int sig, simple_fn h)
{
	return (uintptr_t)h == (uintptr_t)on_fault
		       ? (simple_fn)(uintptr_t)(atomic_load(word_of(sig)) & W_HANDLER)
		       : h;
}

void xvm_fault_install(void)
{
	struct held h;

	if (atomic_load_explicit(&xvm_fault_installed, memory_order_relaxed))
		return;
	hold(&h);
#if defined(__x86_64__)
	xvm_user_avx = __builtin_cpu_supports("avx2") != 0;
#endif
	if (!atomic_exchange(&xvm_fault_installed, 1)) {
		take(SIGSEGV);
		take(SIGBUS);
	}
	release(&h);
}

static bool ignored(int sig)
{
	return atomic_load(&xvm_fault_installed) &&
	       (atomic_load(word_of(sig)) & W_HANDLER) == (uintptr_t)SIG_IGN;
}

/* With flags and mask as the application gave them, which are told if exec fails. */
static void ignore(int sig)
{
	struct sigaction k;

	if (!ignored(sig))
		return;
	if (!(atomic_load(word_of(sig)) & W_RESTORER) || REAL(sigaction)(sig, NULL, &k) < 0) {
		kernel_action(sig, SIG_IGN); /* inherited: it has none */
		return;
	}
	report(sig, &k);
	REAL(sigaction)(sig, &k, NULL);
}

void xvm_fault_exec(void)
{
	ignore(SIGSEGV);
	ignore(SIGBUS);
}

void xvm_fault_exec_failed(void)
{
	struct held h;

	if (!ignored(SIGSEGV) && !ignored(SIGBUS))
		return;
	hold(&h);
	take(SIGSEGV);
	take(SIGBUS);
	release(&h);
}

void xvm_fault_forked(void)
{
	memset(&lock, 0, sizeof(lock));
}

/* ---- wrappers ------------------------------------------------------------ */

XVM_WRAP int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction a, o;
	struct held h;
	int r;

	if (!concerns(sig)) {
		r = REAL(sigaction)(sig, act, old);
		if (r == 0 && act)
			xvm_restart_note(sig);
		return r;
	}
	if (act)
		a = *act; /* where it faults libc faults too */
	hold(&h);
	r = REAL(sigaction)(sig, act ? &a : NULL, &o);
	if (r == 0)
		report(sig, &o);
	if (r == 0 && act)
		take(sig);
	release(&h);
	if (r == 0 && old)
		*old = o;
	return r;
}

XVM_WRAP int __sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	return sigaction(sig, act, old);
}

static simple_fn set(simple_fn (*real)(int, simple_fn), int sig, simple_fn fn)
{
	struct held h;
	simple_fn r;

	if (!concerns(sig)) {
		r = real(sig, fn);
		xvm_restart_note(sig);
		return r;
	}
	hold(&h);
	r = reported(sig, real(sig, fn));
	take(sig);
	release(&h);
	return r;
}

XVM_WRAP simple_fn signal(int sig, simple_fn fn)
{
	return set(REAL(signal), sig, fn);
}

XVM_WRAP simple_fn bsd_signal(int sig, simple_fn fn)
{
	return set(REAL(signal), sig, fn);
}

XVM_WRAP simple_fn ssignal(int sig, simple_fn fn)
{
	return set(REAL(signal), sig, fn);
}

XVM_WRAP simple_fn __sysv_signal(int sig, simple_fn fn)
{
	return set(REAL(__sysv_signal), sig, fn);
}

XVM_WRAP simple_fn sysv_signal(int sig, simple_fn fn)
{
	return set(REAL(__sysv_signal), sig, fn);
}

/* It has to do with the mask, so libc must find that as it is. */
XVM_WRAP simple_fn sigset(int sig, simple_fn fn)
{
	simple_fn r = REAL(sigset)(sig, fn);
	struct held h;

	if (!concerns(sig)) {
		xvm_restart_note(sig);
		return r;
	}
	hold(&h);
	r = reported(sig, r);
	take(sig);
	release(&h);
	return r;
}

/* libc has changed what is done with sig. */
static void retake(int sig)
{
	struct held h;

	if (!concerns(sig)) {
		xvm_restart_note(sig);
		return;
	}
	hold(&h);
	take(sig);
	release(&h);
}

XVM_WRAP int sigignore(int sig)
{
	int r = REAL(sigignore)(sig);

	retake(sig);
	return r;
}

XVM_WRAP int siginterrupt(int sig, int on)
{
	int r = REAL(siginterrupt)(sig, on);

	retake(sig);
	return r;
}
