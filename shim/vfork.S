/* SPDX-License-Identifier: Apache-2.0 */
/* vfork() returns twice to its caller, so there may be no frame of ours: it says that there will be
 * such a child and goes on to xvm_vfork_by, which process.c sets. */
	.text
	.globl vfork
	.type vfork, %function
vfork:
#if defined(__x86_64__)
	movb $1, xvm_shares(%rip)
	jmp *xvm_vfork_by(%rip)
#elif defined(__aarch64__)
	mov w17, #1
	adrp x16, xvm_shares
	strb w17, [x16, :lo12:xvm_shares]
	adrp x16, xvm_vfork_by
	ldr x16, [x16, :lo12:xvm_vfork_by]
	br x16
#endif
	.size vfork, . - vfork
	.globl __vfork
	.set __vfork, vfork

	.section .note.GNU-stack, "", %progbits
