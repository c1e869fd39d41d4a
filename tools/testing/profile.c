// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin: counts the guest's instructions by address, between the marks
 * that guest-bench makes around what it measures. Writes `address count` lines
 * to the file that is its argument.
 *
 * Debian has no package with the header of the plugin interface; what is used of
 * it is declared here, as of version 7.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t;
typedef uint64_t qemu_plugin_id_t;
enum { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
		void (*cb)(struct qemu_plugin_tb *tb, void *data), void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
		void (*cb)(unsigned int cpu, void *data), int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *to, size_t len);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
		void (*cb)(void *data), void *data);

__attribute__((visibility("default"))) int qemu_plugin_version = 7;

/* Open addressing; a guest's kernel and one program have far fewer instructions. */
#define SLOTS (1u << 22)
static struct slot {
	uint64_t address, count;
} *slots;
static int counting;
static const char *file;

/* nopl disp32(%rax): the first starts counting, the second stops it. */
static const unsigned char start_mark[] = { 0x0f, 0x1f, 0x80, 0x01, 0x6e, 0x65, 0x62 };
static const unsigned char stop_mark[] = { 0x0f, 0x1f, 0x80, 0x02, 0x6e, 0x65, 0x62 };

static void mark(unsigned int cpu, void *data)
{
	counting = data != NULL;
}

static void executed(unsigned int cpu, void *data)
{
	((struct slot *)data)->count += counting;
}

static struct slot *slot_of(uint64_t address)
{
	uint32_t i = (address * 0x9e3779b97f4a7c15ull) >> 42;

	while (slots[i].address && slots[i].address != address)
		i = (i + 1) % SLOTS;
	slots[i].address = address;
	return &slots[i];
}

static void translated(struct qemu_plugin_tb *tb, void *data)
{
	size_t i, n = qemu_plugin_tb_n_insns(tb);
	unsigned char code[sizeof(start_mark)];

	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		if (qemu_plugin_insn_data(insn, code, sizeof(code)) == sizeof(code)) {
			if (!memcmp(code, start_mark, sizeof(code)))
				qemu_plugin_register_vcpu_insn_exec_cb(insn, mark,
						QEMU_PLUGIN_CB_NO_REGS, &counting);
			else if (!memcmp(code, stop_mark, sizeof(code)))
				qemu_plugin_register_vcpu_insn_exec_cb(insn, mark,
						QEMU_PLUGIN_CB_NO_REGS, NULL);
		}
		qemu_plugin_register_vcpu_insn_exec_cb(insn, executed,
				QEMU_PLUGIN_CB_NO_REGS,
				slot_of(qemu_plugin_insn_vaddr(insn)));
	}
}

static void finished(void *data)
{
	FILE *f = fopen(file, "w");
	uint32_t i;

	if (!f)
		return;
	for (i = 0; i < SLOTS; i++)
		if (slots[i].count)
			fprintf(f, "%llx %llu\n", (unsigned long long)slots[i].address,
				(unsigned long long)slots[i].count);
	fclose(f);
}

__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info,
			int argc, char **argv)
{
	if (argc != 1)
		return -1;
	file = strdup(strncmp(argv[0], "out=", 4) ? argv[0] : argv[0] + 4);
	slots = calloc(SLOTS, sizeof(*slots));
	if (!slots || !file)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated, NULL);
	qemu_plugin_register_atexit_cb(id, finished, NULL);
	return 0;
}
