// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin that counts the instructions which the guest executes.
 *
 * The guest reads the number at any time by storing COUNT_MARK to an aligned place of
 * 16 bytes: the plugin puts two numbers there, of all instructions so far and of those
 * of them that have cleared memory. A repeated string instruction counts as often as it
 * repeats, as it does for the clock under -icount.
 *
 * With watch=on it also watches the GPU's registers. Storing their physical address by
 * the instruction WATCH_MARK begins that anew. From then on the plugin looks for reads
 * of JOB_INT_STAT that find an interrupt, as the first access after the CPU has taken
 * one, and for the next store of a start command to a job slot. Storing STARTS_MARK to
 * an aligned place of 32 bytes asks for three numbers: how often such a pair was seen
 * and, of the last, the instructions from the interrupt to the store, and the accesses
 * to registers from the read to the store, both included.
 *
 * Arguments:
 *   clear=START-END	where the kernel's function is that clears pages, in hexadecimal
 *   out=FILE		count by address, too, between the marks that guest-bench makes
 *			around what it measures, and write `address count` lines to FILE
 *   watch=on		watch registers, too, which makes the guest slower
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
struct qemu_plugin_hwaddr;
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
typedef struct {
	int type;
	union {
		uint32_t u32;
		uint64_t u64;
		struct {
			uint64_t low, high;
		} u128;
	} data;
} qemu_plugin_mem_value;
enum { QEMU_PLUGIN_CB_NO_REGS };
enum { QEMU_PLUGIN_MEM_W = 2, QEMU_PLUGIN_MEM_RW };
enum { QEMU_PLUGIN_DISCON_INTERRUPT = 1 };
enum { QEMU_PLUGIN_INLINE_ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
		void (*cb)(struct qemu_plugin_tb *tb, void *data), void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
		void (*cb)(unsigned int cpu, void *data), int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *insn,
		int op, qemu_plugin_u64 entry, uint64_t imm);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn,
		void (*cb)(unsigned int cpu, qemu_plugin_meminfo_t info,
			   uint64_t address, void *data),
		int flags, int rw, void *data);
void qemu_plugin_register_vcpu_discon_cb(qemu_plugin_id_t id, int type,
		void (*cb)(unsigned int cpu, int type, uint64_t from, uint64_t to, void *data),
		void *data);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t info);
qemu_plugin_mem_value qemu_plugin_mem_get_value(qemu_plugin_meminfo_t info);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(qemu_plugin_meminfo_t info, uint64_t address);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *address);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *address);
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
/* movq %rdx, 0x62656e04(%rax): tells where the registers are. */
static const unsigned char watch_mark[] = { 0x48, 0x89, 0x90, 0x04, 0x6e, 0x65, 0x62 };
/* movl $0x62656e05, (%rax): asks for starts. */
static const unsigned char starts_mark[] = { 0xc7, 0x00, 0x05, 0x6e, 0x65, 0x62 };

/* Registers of the GPU, and the command that starts a chain. */
#define REGISTERS	0x10000u
#define JOB_INT_STAT	0x100cu
#define JS_COMMAND_NEXT	0x1860u
#define JS_STRIDE	0x80u
#define JS_SLOTS	3u
#define JS_START	1u

/* Where Linux maps registers: the vmalloc area of x86_64 with four levels of page tables. */
#define IO_START	0xffffc90000000000ull
#define IO_END		0xffffe90000000000ull

static bool watching;
static struct {
	uint64_t base;		/* of the registers; 0 before the guest has told it */
	uint64_t interrupt;	/* instructions when the CPU took the last one */
	bool fresh;		/* no register was accessed since */
	uint64_t begin;		/* instructions at the interrupt of a job; 0 if none */
	uint64_t accesses;	/* since then */
	uint64_t starts[4];	/* what the guest is told; the last is 0 */
} watch;

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

static void told(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
	memset(&watch, 0, sizeof(watch));
	watch.base = qemu_plugin_mem_get_value(info).data.u64;
}

static void asked_for_starts(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address,
		void *data)
{
	GByteArray bytes = { .data = (uint8_t *)watch.starts, .len = sizeof(watch.starts) };

	qemu_plugin_write_memory_vaddr(address, &bytes);
}

static void interrupted(unsigned int cpu, int type, uint64_t from, uint64_t to, void *data)
{
	watch.interrupt = qemu_plugin_u64_sum(all);
	watch.fresh = true;
}

static bool starts_chain(uint64_t offset, uint32_t value)
{
	uint64_t at = offset - JS_COMMAND_NEXT;

	return at % JS_STRIDE == 0 && at / JS_STRIDE < JS_SLOTS && value == JS_START;
}

static void accessed(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
	struct qemu_plugin_hwaddr *place;
	uint64_t offset;
	uint32_t value;

	if (!watch.base || address < IO_START || address >= IO_END)
		return;
	place = qemu_plugin_get_hwaddr(info, address);
	if (!place || !qemu_plugin_hwaddr_is_io(place))
		return;
	offset = qemu_plugin_hwaddr_phys_addr(place) - watch.base;
	if (offset >= REGISTERS)
		return;
	value = qemu_plugin_mem_get_value(info).data.u32;
	if (watch.fresh && !qemu_plugin_mem_is_store(info) && offset == JOB_INT_STAT && value) {
		watch.begin = watch.interrupt;
		watch.accesses = 0;
	}
	watch.fresh = false;
	watch.accesses++;
	if (watch.begin && qemu_plugin_mem_is_store(info) && starts_chain(offset, value)) {
		watch.starts[0]++;
		watch.starts[1] = qemu_plugin_u64_sum(all) - watch.begin;
		watch.starts[2] = watch.accesses;
		watch.begin = 0;
	}
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
		if (watching) {
			qemu_plugin_register_vcpu_mem_cb(insn, accessed, QEMU_PLUGIN_CB_NO_REGS,
					QEMU_PLUGIN_MEM_RW, NULL);
			if (is(insn, watch_mark, sizeof(watch_mark)))
				qemu_plugin_register_vcpu_mem_cb(insn, told,
						QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_W, NULL);
			else if (is(insn, starts_mark, sizeof(starts_mark)))
				qemu_plugin_register_vcpu_mem_cb(insn, asked_for_starts,
						QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_W, NULL);
		}
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
	if (!strcmp(text, "watch=on")) {
		watching = true;
		return 0;
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
	if (watching)
		qemu_plugin_register_vcpu_discon_cb(id, QEMU_PLUGIN_DISCON_INTERRUPT, interrupted,
				NULL);
	if (file)
		qemu_plugin_register_atexit_cb(id, finished, NULL);
	return 0;
}
