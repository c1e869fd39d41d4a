// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin that counts the instructions which the guest executes.
 *
 * The guest reads the number at any time by storing COUNT_MARK to an aligned place of
 * 16 bytes: the plugin puts two numbers there, of all instructions so far and of those
 * of them that have cleared memory. A repeated string instruction counts as often as it
 * repeats, as it does for the clock under -icount.
 *
 * Arguments:
 *   clear=START-END	where the kernel's function is that clears pages, in hexadecimal
 *   out=FILE		count by address, too, between the marks that guest-bench makes
 *			around what it measures, and write `address count` lines to FILE
 *
 * Debian has no package with the header of the plugin interface; what is used of it is
 * declared here, as of version 7.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t;
struct qemu_plugin_scoreboard;
typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct {
	struct qemu_plugin_scoreboard *score;
	size_t offset;
} qemu_plugin_u64;
typedef struct {
	uint8_t *data;
	unsigned int len;
} GByteArray;
enum { QEMU_PLUGIN_CB_NO_REGS };
enum { QEMU_PLUGIN_MEM_W = 2 };
enum { QEMU_PLUGIN_INLINE_ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
		void (*cb)(struct qemu_plugin_tb *tb, void *data), void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
		void (*cb)(unsigned int cpu, void *data), int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *insn,
		int op, qemu_plugin_u64 entry, uint64_t imm);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn,
		void (*cb)(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data),
		int flags, int rw, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *to, size_t len);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t size);
uint64_t qemu_plugin_u64_sum(qemu_plugin_u64 entry);
bool qemu_plugin_write_memory_vaddr(uint64_t address, GByteArray *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
		void (*cb)(void *data), void *data);

__attribute__((visibility("default"))) int qemu_plugin_version = 7;

/* Of all instructions, and of those that clear memory. */
static qemu_plugin_u64 all, clearing;
static uint64_t clear_start, clear_end;

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
/* movl $0x62656e03, (%rax): asks for the numbers. */
static const unsigned char count_mark[] = { 0xc7, 0x00, 0x03, 0x6e, 0x65, 0x62 };

static void mark(unsigned int cpu, void *data)
{
	counting = data != NULL;
}

static void asked(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
	uint64_t counts[] = { qemu_plugin_u64_sum(all), qemu_plugin_u64_sum(clearing) };
	GByteArray bytes = { .data = (uint8_t *)counts, .len = sizeof(counts) };

	qemu_plugin_write_memory_vaddr(address, &bytes);
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

static int is(struct qemu_plugin_insn *insn, const unsigned char *code, size_t len)
{
	unsigned char found[16];

	return qemu_plugin_insn_data(insn, found, len) == len && !memcmp(found, code, len);
}

static void translated(struct qemu_plugin_tb *tb, void *data)
{
	size_t i, n = qemu_plugin_tb_n_insns(tb);

	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t address = qemu_plugin_insn_vaddr(insn);

		qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn,
				QEMU_PLUGIN_INLINE_ADD_U64, all, 1);
		if (address >= clear_start && address < clear_end)
			qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn,
					QEMU_PLUGIN_INLINE_ADD_U64, clearing, 1);
		if (is(insn, count_mark, sizeof(count_mark)))
			qemu_plugin_register_vcpu_mem_cb(insn, asked, QEMU_PLUGIN_CB_NO_REGS,
					QEMU_PLUGIN_MEM_W, NULL);
		if (!file)
			continue;
		if (is(insn, start_mark, sizeof(start_mark)))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, mark,
					QEMU_PLUGIN_CB_NO_REGS, &counting);
		else if (is(insn, stop_mark, sizeof(stop_mark)))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, mark,
					QEMU_PLUGIN_CB_NO_REGS, NULL);
		qemu_plugin_register_vcpu_insn_exec_cb(insn, executed,
				QEMU_PLUGIN_CB_NO_REGS, slot_of(address));
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

static int argument(const char *text)
{
	unsigned long long start, end;

	if (!strncmp(text, "out=", 4)) {
		file = strdup(text + 4);
		slots = calloc(SLOTS, sizeof(*slots));
		return file && slots ? 0 : -1;
	}
	if (sscanf(text, "clear=%llx-%llx", &start, &end) != 2)
		return -1;
	clear_start = start;
	clear_end = end;
	return 0;
}

__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info,
			int argc, char **argv)
{
	int i;

	for (i = 0; i < argc; i++)
		if (argument(argv[i]))
			return -1;
	all.score = qemu_plugin_scoreboard_new(2 * sizeof(uint64_t));
	clearing.score = all.score;
	clearing.offset = sizeof(uint64_t);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated, NULL);
	if (file)
		qemu_plugin_register_atexit_cb(id, finished, NULL);
	return 0;
}
