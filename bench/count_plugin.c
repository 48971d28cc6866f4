// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin of QEMU's that counts the instructions of each CPU of the guest by
 * itself, where the guest's clock adds up those of all. It counts what a CPU
 * executes between the two marks of flush_bench.rs, interrupts included, and
 * writes that as one line to the file of its argument out=FILE.
 *
 * The declarations are those of QEMU's plugin API, version 4 (QEMU 10), of which
 * distributions ship no header. It calls a function for each instruction: the
 * API's inline counters crash QEMU 10.0.13 once a second CPU starts.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_CPUS 64

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { CALLBACK_USES_NO_REGISTERS };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *data, size_t length);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
					    void (*callback)(unsigned int cpu, void *data),
					    int flags, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*callback)(uint64_t id,
								     struct qemu_plugin_tb *block));
EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

EXPORT int qemu_plugin_version = 4;

/* NOPs with an operand that no compiler makes: nopl 0x64666e01(%rax), 0x64666e02(%rax). */
static const unsigned char start_mark[] = { 0x0f, 0x1f, 0x80, 0x01, 0x6e, 0x66, 0x64 };
static const unsigned char end_mark[] = { 0x0f, 0x1f, 0x80, 0x02, 0x6e, 0x66, 0x64 };

/* With -icount all CPUs of the guest run in one thread. */
static uint64_t executed[MAX_CPUS];
static uint64_t at_start[MAX_CPUS];
static FILE *out;

static void on_insn(unsigned int cpu, void *data)
{
	(void)data;
	executed[cpu % MAX_CPUS]++;
}

static void on_start(unsigned int cpu, void *data)
{
	(void)data;
	at_start[cpu % MAX_CPUS] = executed[cpu % MAX_CPUS];
}

static void on_end(unsigned int cpu, void *data)
{
	(void)data;
	fprintf(out, "%" PRIu64 "\n", executed[cpu % MAX_CPUS] - at_start[cpu % MAX_CPUS]);
	fflush(out);
}

static void on_translation(uint64_t id, struct qemu_plugin_tb *block)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
		unsigned char bytes[sizeof(start_mark)];
		void (*callback)(unsigned int cpu, void *data) = NULL;

		qemu_plugin_register_vcpu_insn_exec_cb(insn, on_insn, CALLBACK_USES_NO_REGISTERS,
						       NULL);
		if (qemu_plugin_insn_size(insn) != sizeof(bytes))
			continue;
		qemu_plugin_insn_data(insn, bytes, sizeof(bytes));
		if (!memcmp(bytes, start_mark, sizeof(bytes)))
			callback = on_start;
		else if (!memcmp(bytes, end_mark, sizeof(bytes)))
			callback = on_end;
		if (callback)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, callback,
							       CALLBACK_USES_NO_REGISTERS, NULL);
	}
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	(void)info;
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "count_plugin: the argument out=FILE is missing\n");
		return 1;
	}
	out = fopen(argv[0] + 4, "w");
	if (!out) {
		perror(argv[0] + 4);
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
