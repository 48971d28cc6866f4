# SPDX-License-Identifier: GPL-2.0
#
# The parts of the protocol as the compiler lays them out in the built module.

	.macro	function name
	.globl	\name
	.type	\name, @function
\name:
	.endm
	.macro	end name
	.size	\name, . - \name
	.endm
	.macro	flush_all
	movzbl	has_invpcid(%rip), %ecx
	test	%cl, %cl
	je	1f
	mov	%rsp, %rcx
	mov	$2, %edx
	invpcid	(%rcx), %rdx
	jmp	2f
1:	mov	%cr4, %rcx
	mov	%rcx, %rdx
	xor	$0x80, %rdx
	mov	%rdx, %cr4
	mov	%rcx, %cr4
2:
	.endm

	.text
	function x7wrapper14must_interrupt
	push	%r15
	push	%r14
	push	%rbx
	mov	$1, %bl
	cmp	$0x1fff, %edi
	ja	8f
	mov	%edi, %r14d
	mov	%rsi, %r15
	call	raw_smp_processor_id
	cmp	%r14d, %eax
	je	8f
	mov	%r14d, %edx
	mov	__per_cpu_offset(,%rdx,8), %rcx
	lea	DEFERRED_FLUSH_CPU(%rcx), %rsi
	test	%rsi, %rsi
	je	8f
	mov	(%rsi), %edx
	test	%edx, %edx
	jne	1f
	mov	jiffies(%rip), %rdx
	mov	%rdx, 0x48(%rax)
1:	mov	context_tracking+8(%rcx), %edx
	and	$7, %edx
	cmp	$2, %edx
	jne	2f
	movzbl	context_tracking(%rcx), %edi
	test	%dil, %dil
	je	2f
	mov	cpu_dr7(%rcx), %rdi
	test	%dil, %dil
	je	3f
2:	lock incq 0x38(%rax)
8:	mov	%ebx, %eax
	pop	%rbx
	pop	%r14
	pop	%r15
	jmp	__x86_return_thunk
3:	mov	%r15, %rdx
	mov	(%rsi), %edi
	test	$1, %dil
	jne	4f
	lock orl $1, (%rsi)
4:	mfence
	mov	context_tracking+8(%rcx), %esi
	and	$7, %esi
	cmp	$2, %esi
	jne	5f
	movzbl	context_tracking(%rcx), %esi
	test	%sil, %sil
	je	5f
	mov	cpu_dr7(%rcx), %rcx
	test	%cl, %cl
	jne	5f
	mov	x7BLOCKED(%rip), %rcx
	test	%cl, %cl
	je	6f
5:	lock incq 0x40(%rax)
	jmp	8b
6:	lock incq 0x30(%rax)
	movb	$1, 0x10(%rdx)
	xor	%ebx, %ebx
	jmp	8b
	end	x7wrapper14must_interrupt

	function x7wrapper15deferring_flush
	mfence
	mov	$1, %ecx
	call	on_each_cpu_cond_mask
	jmp	__x86_return_thunk
	end	x7wrapper15deferring_flush

	function x3nmi6on_nmi
	lea	DEFERRED_FLUSH_CPU(%rip), %rax
	add	%gs:this_cpu_off(%rip), %rax
	mov	(%rax), %ecx
	test	%ecx, %ecx
	je	9f
	flush_all
	incq	0x10(%rax)
9:	xor	%eax, %eax
	jmp	__x86_return_thunk
	end	x3nmi6on_nmi

	function deferred_flush_trampoline
	cmpl	$0, %gs:DEFERRED_FLUSH_CPU(%rip)
	jne	2f
1:	jmp	__x86_return_thunk
2:	push	%rax
	call	deferred_flush_receive
	pop	%rax
	jmp	1b
	end	deferred_flush_trampoline

	function deferred_flush_receive
	lea	DEFERRED_FLUSH_CPU(%rip), %rax
	add	%gs:this_cpu_off(%rip), %rax
	mov	$2, %ecx
	xchg	%ecx, (%rax)
	flush_all
	lock andl $0xfffffffd, (%rax)
	incq	8(%rax)
	jmp	__x86_return_thunk
	end	deferred_flush_receive

	function x5drain13flush_if_owed
	lea	DEFERRED_FLUSH_CPU(%rip), %rax
	add	%gs:this_cpu_off(%rip), %rax
	mov	(%rax), %esi
	test	%esi, %esi
	je	9f
	mov	$2, %esi
	xchg	%esi, (%rax)
	flush_all
	lock andl $-3, (%rax)
9:	jmp	__x86_return_thunk
	end	x5drain13flush_if_owed

	function x5drain10owes_flush
	cmp	%edi, nr_cpu_ids(%rip)
	jbe	1f
	mov	%edi, %ecx
	mov	$DEFERRED_FLUSH_CPU, %rax
	add	__per_cpu_offset(,%rcx,8), %rax
	je	1f
	mov	(%rax), %eax
	test	%eax, %eax
	je	1f
	mov	$1, %al
	jmp	__x86_return_thunk
1:	xor	%eax, %eax
	jmp	__x86_return_thunk
	end	x5drain10owes_flush

	function x5drain9drain_all
	mov	$x5drain13flush_if_owed, %rsi
	call	on_each_cpu_cond_mask
	mov	$DEFERRED_FLUSH_CPU, %rax
	mov	$-1, %rcx
1:	inc	%rcx
	cmp	$0x1fff, %rcx
	ja	2f
	mov	%rcx, %rdx
	shr	$6, %rdx
	mov	__per_cpu_offset(,%rcx,8), %rsi
	add	%rax, %rsi
	je	1b
	mov	__cpu_online_mask(,%rdx,8), %rdx
	bt	%rcx, %rdx
	jb	1b
	xor	%edx, %edx
	xchg	%edx, (%rsi)
	jmp	1b
2:	jmp	__x86_return_thunk
	end	x5drain9drain_all

	function x10text_watch12on_text_poke
	lock addq $0x100, x7BLOCKED(%rip)
	lock btsq $1, x7BLOCKED(%rip)
	mfence
	pushf
	pop	%rax
	test	$0x200, %eax
	je	9f
	call	on_each_cpu_cond_mask
9:	jmp	__x86_return_thunk
	end	x10text_watch12on_text_poke

	function x6memory9on_memory
	cmp	$1, %rsi
	je	1f
	lock andq $-5, x7BLOCKED(%rip)
	jmp	__x86_return_thunk
1:	lock orq $4, x7BLOCKED(%rip)
	mfence
	call	x5drain9drain_all
	jmp	__x86_return_thunk
	end	x6memory9on_memory

	function x7control10try_resume
	mov	x7BLOCKED(%rip), %r15
	call	synchronize_rcu_tasks
	mov	x7BLOCKED(%rip), %rax
1:	mov	%rax, %rcx
	xor	%r15, %rcx
	cmp	$0xff, %rcx
	ja	2f
	mov	%rax, %rcx
	and	$0xfffffffffffffffd, %rcx
	lock cmpxchg %rcx, x7BLOCKED(%rip)
	jne	1b
	xor	%eax, %eax
2:	jmp	__x86_return_thunk
	end	x7control10try_resume

	.bss
	.type	has_invpcid, @object
has_invpcid: .skip 1
	.size	has_invpcid, 1
	.data
	.type	x7BLOCKED, @object
x7BLOCKED: .quad 0
	.size	x7BLOCKED, 8
	.globl	DEFERRED_FLUSH_CPU
	.type	DEFERRED_FLUSH_CPU, @object
DEFERRED_FLUSH_CPU: .quad 0
	.size	DEFERRED_FLUSH_CPU, 8
