/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What touches the application's memory by addresses that it gave us. A fault at any instruction
 * between xvm_user_begin and xvm_user_end is answered by fault.c's handler with a jump to
 * xvm_user_bad, which returns -EFAULT: so nothing in here moves the stack pointer, calls, or needs
 * a register that is the caller's. Declared in fault.h.
 *
 * No state says that a thread is in here, the program counter does. So a signal handler that
 * interrupts this, leaves by longjmp or faults itself finds nothing stale.
 */

#define MINUS_EFAULT -14

.macro function name
	.globl \name
	.hidden \name
	.type \name, %function
\name:
	.cfi_startproc
.endm

.macro end name
	.cfi_endproc
	.size \name, . - \name
.endm

.macro mark name
	.globl \name
	.hidden \name
\name:
.endm

	.text
	.p2align 6

#if defined(__x86_64__)

	mark xvm_user_begin

/* int xvm_user_copy(void *dst, const void *src, size_t n). Short ones by two moves that overlap. */
	function xvm_user_copy
#ifdef __CET__
	endbr64
#endif
	cmp	$16, %rdx
	jb	.Lunder16
	cmp	$32, %rdx
	ja	.Lover32
	movups	(%rsi), %xmm0
	movups	-16(%rsi,%rdx), %xmm1
	movups	%xmm0, (%rdi)
	movups	%xmm1, -16(%rdi,%rdx)
	xor	%eax, %eax
	ret
.Lover32:
	cmp	$64, %rdx
	ja	.Lover64
	movups	(%rsi), %xmm0
	movups	16(%rsi), %xmm1
	movups	-32(%rsi,%rdx), %xmm2
	movups	-16(%rsi,%rdx), %xmm3
	movups	%xmm0, (%rdi)
	movups	%xmm1, 16(%rdi)
	movups	%xmm2, -32(%rdi,%rdx)
	movups	%xmm3, -16(%rdi,%rdx)
	xor	%eax, %eax
	ret
.Lover64:
	cmp	$128, %rdx
	jbe	.Lupto128
	cmpb	$0, xvm_user_avx(%rip)
	je	.Llong_sse

/* The last 128 bytes are loaded first and stored last; the rest goes to where dst is aligned. */
	vmovdqu	(%rsi), %ymm0
	vmovdqu	-128(%rsi,%rdx), %ymm4
	vmovdqu	-96(%rsi,%rdx), %ymm5
	vmovdqu	-64(%rsi,%rdx), %ymm6
	vmovdqu	-32(%rsi,%rdx), %ymm7
	lea	-128(%rdi,%rdx), %rdx
	vmovdqu	%ymm0, (%rdi)
	mov	%rdi, %rcx
	and	$31, %ecx
	sub	$32, %rcx
	sub	%rcx, %rdi
	sub	%rcx, %rsi
	cmp	%rdx, %rdi
	jae	2f
	.p2align 5
1:	vmovdqu	(%rsi), %ymm0
	vmovdqu	32(%rsi), %ymm1
	vmovdqu	64(%rsi), %ymm2
	vmovdqu	96(%rsi), %ymm3
	sub	$-128, %rsi
	vmovdqa	%ymm0, (%rdi)
	vmovdqa	%ymm1, 32(%rdi)
	vmovdqa	%ymm2, 64(%rdi)
	vmovdqa	%ymm3, 96(%rdi)
	sub	$-128, %rdi
	cmp	%rdx, %rdi
	jb	1b
2:	vmovdqu	%ymm4, (%rdx)
	vmovdqu	%ymm5, 32(%rdx)
	vmovdqu	%ymm6, 64(%rdx)
	vmovdqu	%ymm7, 96(%rdx)
	vzeroupper
	xor	%eax, %eax
	ret

/* The same by 64 bytes, for want of AVX. */
.Llong_sse:
	movups	(%rsi), %xmm0
	movups	-64(%rsi,%rdx), %xmm4
	movups	-48(%rsi,%rdx), %xmm5
	movups	-32(%rsi,%rdx), %xmm6
	movups	-16(%rsi,%rdx), %xmm7
	lea	-64(%rdi,%rdx), %rdx
	movups	%xmm0, (%rdi)
	mov	%rdi, %rcx
	and	$15, %ecx
	sub	$16, %rcx
	sub	%rcx, %rdi
	sub	%rcx, %rsi
	.p2align 5
1:	movups	(%rsi), %xmm0
	movups	16(%rsi), %xmm1
	movups	32(%rsi), %xmm2
	movups	48(%rsi), %xmm3
	add	$64, %rsi
	movaps	%xmm0, (%rdi)
	movaps	%xmm1, 16(%rdi)
	movaps	%xmm2, 32(%rdi)
	movaps	%xmm3, 48(%rdi)
	add	$64, %rdi
	cmp	%rdx, %rdi
	jb	1b
	movups	%xmm4, (%rdx)
	movups	%xmm5, 16(%rdx)
	movups	%xmm6, 32(%rdx)
	movups	%xmm7, 48(%rdx)
	xor	%eax, %eax
	ret

.Lupto128:
	movups	(%rsi), %xmm0
	movups	16(%rsi), %xmm1
	movups	32(%rsi), %xmm2
	movups	48(%rsi), %xmm3
	movups	-64(%rsi,%rdx), %xmm4
	movups	-48(%rsi,%rdx), %xmm5
	movups	-32(%rsi,%rdx), %xmm6
	movups	-16(%rsi,%rdx), %xmm7
	movups	%xmm0, (%rdi)
	movups	%xmm1, 16(%rdi)
	movups	%xmm2, 32(%rdi)
	movups	%xmm3, 48(%rdi)
	movups	%xmm4, -64(%rdi,%rdx)
	movups	%xmm5, -48(%rdi,%rdx)
	movups	%xmm6, -32(%rdi,%rdx)
	movups	%xmm7, -16(%rdi,%rdx)
	xor	%eax, %eax
	ret

.Lunder16:
	cmp	$8, %edx
	jb	.Lunder8
	mov	(%rsi), %rax
	mov	-8(%rsi,%rdx), %rcx
	mov	%rax, (%rdi)
	mov	%rcx, -8(%rdi,%rdx)
	xor	%eax, %eax
	ret
.Lunder8:
	cmp	$4, %edx
	jb	.Lunder4
	mov	(%rsi), %eax
	mov	-4(%rsi,%rdx), %ecx
	mov	%eax, (%rdi)
	mov	%ecx, -4(%rdi,%rdx)
	xor	%eax, %eax
	ret
.Lunder4:
	test	%edx, %edx
	jz	3f
	mov	%edx, %r8d
	shr	$1, %r8d
	movzbl	(%rsi), %eax
	movzbl	(%rsi,%r8), %r9d
	movzbl	-1(%rsi,%rdx), %ecx
	mov	%al, (%rdi)
	mov	%r9b, (%rdi,%r8)
	mov	%cl, -1(%rdi,%rdx)
3:	xor	%eax, %eax
	ret
	end xvm_user_copy

/* int xvm_user_readable(const void *p, size_t n): one byte of each page, and the last. */
	function xvm_user_readable
#ifdef __CET__
	endbr64
#endif
	test	%rsi, %rsi
	jz	2f
	lea	-1(%rdi,%rsi), %rsi
1:	movzbl	(%rdi), %eax
	add	$4096, %rdi
	cmp	%rsi, %rdi
	jb	1b
	movzbl	(%rsi), %eax
2:	xor	%eax, %eax
	ret
	end xvm_user_readable

/* int xvm_user_writable(void *p, size_t n). Atomic: other threads may be writing there. */
	function xvm_user_writable
#ifdef __CET__
	endbr64
#endif
	test	%rsi, %rsi
	jz	2f
	lea	-1(%rdi,%rsi), %rsi
1:	lock orb $0, (%rdi)
	add	$4096, %rdi
	cmp	%rsi, %rdi
	jb	1b
	lock orb $0, (%rsi)
2:	xor	%eax, %eax
	ret
	end xvm_user_writable

	mark xvm_user_end

	function xvm_user_bad
	cmpb	$0, xvm_user_avx(%rip)
	je	1f
	vzeroupper
1:	mov	$MINUS_EFAULT, %eax
	ret
	end xvm_user_bad

#elif defined(__aarch64__)

	mark xvm_user_begin

/* int xvm_user_copy(void *dst, const void *src, size_t n). Short ones by two moves that overlap. */
	function xvm_user_copy
	add	x4, x1, x2
	add	x5, x0, x2
	cmp	x2, #16
	b.lo	.Lunder16
	cmp	x2, #32
	b.hi	.Lover32
	ldr	q0, [x1]
	ldur	q1, [x4, #-16]
	str	q0, [x0]
	stur	q1, [x5, #-16]
	mov	w0, #0
	ret
.Lover32:
	cmp	x2, #64
	b.hi	.Lover64
	ldp	q0, q1, [x1]
	ldp	q2, q3, [x4, #-32]
	stp	q0, q1, [x0]
	stp	q2, q3, [x5, #-32]
	mov	w0, #0
	ret
/* The last 64 bytes are loaded first and stored last. */
.Lover64:
	ldp	q4, q5, [x4, #-64]
	ldp	q6, q7, [x4, #-32]
	sub	x5, x5, #64
1:	ldp	q0, q1, [x1]
	ldp	q2, q3, [x1, #32]
	add	x1, x1, #64
	stp	q0, q1, [x0]
	stp	q2, q3, [x0, #32]
	add	x0, x0, #64
	cmp	x0, x5
	b.lo	1b
	stp	q4, q5, [x5]
	stp	q6, q7, [x5, #32]
	mov	w0, #0
	ret
.Lunder16:
	tbz	x2, #3, .Lunder8
	ldr	x6, [x1]
	ldur	x7, [x4, #-8]
	str	x6, [x0]
	stur	x7, [x5, #-8]
	mov	w0, #0
	ret
.Lunder8:
	tbz	x2, #2, .Lunder4
	ldr	w6, [x1]
	ldur	w7, [x4, #-4]
	str	w6, [x0]
	stur	w7, [x5, #-4]
	mov	w0, #0
	ret
.Lunder4:
	cbz	x2, 3f
	lsr	x3, x2, #1
	ldrb	w6, [x1]
	ldrb	w7, [x1, x3]
	ldurb	w8, [x4, #-1]
	strb	w6, [x0]
	strb	w7, [x0, x3]
	sturb	w8, [x5, #-1]
3:	mov	w0, #0
	ret
	end xvm_user_copy

/* int xvm_user_readable(const void *p, size_t n): one byte of each page, and the last. */
	function xvm_user_readable
	cbz	x1, 2f
	add	x1, x0, x1
	sub	x1, x1, #1
1:	ldrb	w2, [x0]
	add	x0, x0, #4096
	cmp	x0, x1
	b.lo	1b
	ldrb	w2, [x1]
2:	mov	w0, #0
	ret
	end xvm_user_readable

/* int xvm_user_writable(void *p, size_t n). Exclusive: other threads may be writing there. */
	function xvm_user_writable
	cbz	x1, 4f
	add	x1, x0, x1
	sub	x1, x1, #1
1:	ldxrb	w2, [x0]
	stxrb	w3, w2, [x0]
	cbnz	w3, 1b
	add	x0, x0, #4096
	cmp	x0, x1
	b.lo	1b
2:	ldxrb	w2, [x1]
	stxrb	w3, w2, [x1]
	cbnz	w3, 2b
4:	mov	w0, #0
	ret
	end xvm_user_writable

	mark xvm_user_end

	function xvm_user_bad
	mov	w0, #MINUS_EFAULT
	ret
	end xvm_user_bad

#endif

	.section .note.GNU-stack, "", %progbits
