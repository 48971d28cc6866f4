# SPDX-License-Identifier: GPL-2.0
#
# The smallest kernel that the audit understands: a system call, a page fault and an NMI, each with
# the receiver or the NMI handlers in its way, and each with a place for something to go wrong:
# ON_ENTRY, AFTER_ENTRY, ON_EXIT, IN_NMI, NMI_IN_KERNEL and CHANGE_STATE are macros that the tests
# define. TEXT adds functions; STATIC_CALLS, JUMP_LABELS, ALTERNATIVES and GATES add entries to the
# tables.

	.text
	.globl entry_SYSCALL_64, asm_exc_page_fault, asm_exc_nmi
	.type entry_SYSCALL_64, @function
entry_SYSCALL_64:
	swapgs
	mov	%rsp, %gs:user_sp(%rip)
	mov	%gs:top_of_stack(%rip), %rsp
	pushq	$0x2b
	pushq	%gs:user_sp(%rip)
	push	%r11
	pushq	$0x33
	push	%rcx
	mov	%rsp, %rdi
	call	do_syscall
	swapgs
	sysretq

	.type asm_exc_page_fault, @function
asm_exc_page_fault:
	testb	$3, 0x10(%rsp)
	je	from_kernel
	swapgs
	call	do_page_fault
	swapgs
	add	$8, %rsp
	iretq
from_kernel:
	ud2

	.type asm_exc_nmi, @function
asm_exc_nmi:
	testb	$3, 8(%rsp)
	je	.Lnmi_in_kernel
	swapgs
	call	exc_nmi
	swapgs
	iretq
.Lnmi_in_kernel:
	NMI_IN_KERNEL
	mov	$0xc0000101, %ecx		# MSR_GS_BASE
	rdmsr
	mov	$1, %ebx
	test	%edx, %edx
	js	.Lkernel_gs
	swapgs
	xor	%ebx, %ebx
.Lkernel_gs:
	call	exc_nmi
	test	%ebx, %ebx
	jne	.Lback
	swapgs
.Lback:
	iretq

	.type do_syscall, @function
do_syscall:
	push	%rbx
	mov	%rdi, %rbx
	ON_ENTRY
	call	__ct_user_exit
	mov	vmalloc_pointer(%rip), %rax	# after the flush: fine
	mov	(%rax), %rax
	AFTER_ENTRY
	call	__ct_user_enter
	ON_EXIT
	pop	%rbx
	ret

	.type do_page_fault, @function
do_page_fault:
	call	__ct_user_exit
	call	__ct_user_enter
	ret

	.type exc_nmi, @function
exc_nmi:
	IN_NMI
	call	nmi_handle.part.0
	call	irqentry_nmi_exit
	ret

	.type nmi_handle.part.0, @function
nmi_handle.part.0:
	mov	handlers(%rip), %rax
	call	*%rax
	ret

	.type irqentry_nmi_exit, @function
irqentry_nmi_exit:
	jmp	ct_kernel_exit

	.type __ct_user_exit, @function
__ct_user_exit:
	mov	$-2, %edi
	lock xadd %edi, %gs:context_tracking+8(%rip)
	call	vtime_user_exit
	ret

	.type vtime_user_exit, @function
vtime_user_exit:
	.byte	0x0f, 0x1f, 0x44, 0, 0		# ftrace makes a call of it
	ret

	.type __ct_user_enter, @function
__ct_user_enter:
	mov	$2, %edi
	call	ct_kernel_exit
	ret

	.type ct_kernel_exit, @function
ct_kernel_exit:
	CHANGE_STATE
	ret

	# What the planted code calls.
	.type reads_argument, @function
reads_argument:
	mov	8(%rdi), %rax
	ret
	.type reads_pointer, @function
reads_pointer:
	mov	vmalloc_pointer(%rip), %rdx
	mov	(%rdx), %rdx
	ret
	.type __x86_indirect_thunk_rax, @function
__x86_indirect_thunk_rax:
	jmp	*%rax
	.type __SCT__hook, @function
__SCT__hook:
	jmp	reads_pointer
	.type without_symbol, @function
without_symbol:
	iretq

	TEXT

	.data
	.balign 8
	.type init_task, @object
init_task:
	.fill	512, 8, 0
	.type __per_cpu_offset, @object
__per_cpu_offset: .fill 8, 8, 0
	.type vmalloc_pointer, @object
vmalloc_pointer: .quad 0xffffc90000000000
	.type handlers, @object
handlers: .quad 0
	.type some_key, @object
some_key: .quad 0
	.type __SCK__hook, @object
__SCK__hook: .quad 0

	.section .data..percpu, "aw"
	.balign 8
	.type user_sp, @object
user_sp: .quad 0
	.type top_of_stack, @object
top_of_stack: .quad 0
	.type current_task, @object
current_task: .quad 0
	.type context_tracking, @object
context_tracking: .quad 1, 2
	.quad 0
	.type dynamic, @object
dynamic: .quad 0

	.section .init.data, "aw"
	.balign 8
def_idts:
	.long	14, 0x10
	.quad	0
	.quad	asm_exc_page_fault
	.long	2, 0x10
	.quad	0
	.quad	asm_exc_nmi
	GATES
	.globl end_of_gates
end_of_gates:
	.quad	0
__start___jump_table:
	JUMP_LABELS
__stop___jump_table:
	.quad	0
__alt_instructions:
	ALTERNATIVES
__alt_instructions_end:
	.quad	0
__start_static_call_sites:
	STATIC_CALLS
__stop_static_call_sites:
	.quad	0
__start___bug_table:
__stop___bug_table:
