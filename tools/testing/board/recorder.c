// SPDX-License-Identifier: GPL-2.0
/*
 * Every switch of the board goes through here: it is judged by the rules that
 * real systems have, written to the control BAR and recorded.
 *
 * Rules are about changes, not about states: what a boot loader left behind
 * breaks none of them, the driver that builds on it does. They are:
 *
 * R1	The clock is turned on while the power domain is off.
 * R2	The reset line is released while the power domain is off.
 * R3	The power domain is switched while the clock runs or the reset line is
 *	released, on a system that does not survive that.
 * R4	The GPU begins to run at a rate, or is set to a higher one, that the
 *	voltage does not carry.
 * R5	The voltage is lowered below what the rate of a running GPU needs.
 * R6	Supply, clock or power domain are cut while cores are on or moving.
 * R8	A driver that is not bound (any more) has left something on.
 *
 * R7, no access to the registers while something is off, is counted by the
 * model (Stat::Violations of its control.rs), and so are R9 and R10.
 *
 * In debugfs, vgpu_board/ has what was switched (recorder; writing clears it),
 * how often each rule was broken (rules), and a file for each board, named
 * after its PCI function, with the present positions. The first two are of all
 * boards since the module was loaded, so they survive an unplug. In hidden-irqs
 * one writes which interrupts (1: job, 2: mmu, 4: gpu) the next driver to bind
 * shall not find.
 *
 * So that a test can show that the rules are applied, a switch can be turned by
 * hand, and a rule that was broken on purpose forgiven:
 *
 *	echo clock 1 >'<PCI function>'
 *	echo R1-clock-on-without-domain >rules
 *
 * Locks: vgpu_board.lock, then vgpu_ring_lock. Clocks are switched from any
 * context, so both are taken with interrupts off.
 */

#include <linux/debugfs.h>
#include <linux/pci.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "board.h"

#define VGPU_RING_SIZE 256

enum vgpu_rule {
	VGPU_R1,
	VGPU_R2,
	VGPU_R3,
	VGPU_R4,
	VGPU_R5,
	VGPU_R6,
	VGPU_R8,
	VGPU_NUM_RULES,
};

static const char * const vgpu_rule_names[VGPU_NUM_RULES] = {
	[VGPU_R1] = "R1-clock-on-without-domain",
	[VGPU_R2] = "R2-reset-released-without-domain",
	[VGPU_R3] = "R3-domain-switched-while-in-use",
	[VGPU_R4] = "R4-rate-above-voltage",
	[VGPU_R5] = "R5-voltage-below-rate",
	[VGPU_R6] = "R6-cut-while-cores-are-on",
	[VGPU_R8] = "R8-left-on",
};

static const char * const vgpu_switch_names[VGPU_NUM_SWITCHES] = {
	[VGPU_DOMAINS] = "domains",
	[VGPU_SUPPLY] = "supply",
	[VGPU_VOLTAGE] = "microvolts",
	[VGPU_PREPARED] = "prepared",
	[VGPU_CLOCK] = "clock",
	[VGPU_RATE] = "khz",
	[VGPU_RESET] = "reset",
};

/**
 * struct vgpu_entry - something that happened
 * @seq: its number; there is no gap unless the ring was too small
 * @ns: when, on the monotonic clock
 * @what: the switch, or the rule that was broken by the entry after it
 * @old: the position before; of a rule, how often it had been broken
 * @new: the position after
 */
struct vgpu_entry {
	u64 seq;
	u64 ns;
	const char *what;
	u32 old;
	u32 new;
};

static DEFINE_SPINLOCK(vgpu_ring_lock); /* guards all of these */
static struct vgpu_entry vgpu_ring[VGPU_RING_SIZE];
static u64 vgpu_ring_first;
static u64 vgpu_ring_next;
static u32 vgpu_broken[VGPU_NUM_RULES];

u32 vgpu_hidden_irqs;

static struct dentry *vgpu_debugfs;

static void vgpu_record_locked(const char *what, u32 old, u32 new)
{
	lockdep_assert_held(&vgpu_ring_lock);

	vgpu_ring[vgpu_ring_next % VGPU_RING_SIZE] = (struct vgpu_entry) {
		.seq = vgpu_ring_next,
		.ns = ktime_get_ns(),
		.what = what,
		.old = old,
		.new = new,
	};
	vgpu_ring_next++;
	if (vgpu_ring_next - vgpu_ring_first > VGPU_RING_SIZE)
		vgpu_ring_first = vgpu_ring_next - VGPU_RING_SIZE;
}

static void vgpu_record(const char *what, u32 old, u32 new)
{
	unsigned long flags;

	spin_lock_irqsave(&vgpu_ring_lock, flags);
	vgpu_record_locked(what, old, new);
	spin_unlock_irqrestore(&vgpu_ring_lock, flags);
}

static void vgpu_break(struct vgpu_board *board, enum vgpu_rule rule)
{
	unsigned long flags;
	u32 count;

	spin_lock_irqsave(&vgpu_ring_lock, flags);
	count = vgpu_broken[rule]++;
	vgpu_record_locked(vgpu_rule_names[rule], count, count + 1);
	spin_unlock_irqrestore(&vgpu_ring_lock, flags);

	dev_warn_ratelimited(&board->pdev->dev, "the driver breaks rule %s\n",
			     vgpu_rule_names[rule]);
}

/* The voltage that a rate needs; there is none for a rate above the table. */
static u32 vgpu_needed_uv(u32 khz)
{
	unsigned int i;

	for (i = 0; i < VGPU_NUM_RATES; i++)
		if (khz <= vgpu_rates[i].hz / 1000)
			return vgpu_rates[i].uv;

	return U32_MAX;
}

static bool vgpu_domains_on(const struct vgpu_board *board, const u32 *at)
{
	return at[VGPU_DOMAINS] == GENMASK(board->product->num_domains - 1, 0);
}

static u32 vgpu_power(const struct vgpu_board *board, const u32 *at)
{
	u32 power = 0;

	if (vgpu_domains_on(board, at))
		power |= CTL_POWER_DOMAIN;
	if (at[VGPU_CLOCK])
		power |= CTL_POWER_CLOCK;
	if (at[VGPU_SUPPLY])
		power |= CTL_POWER_REGULATOR;

	return power;
}

static bool vgpu_runs(const struct vgpu_board *board, const u32 *at)
{
	return vgpu_power(board, at) == CTL_POWER_ALL && !at[VGPU_RESET];
}

/* A function that is gone reads as all-ones, and has no cores. */
static bool vgpu_cores_are_on(const struct vgpu_board *board)
{
	return ioread32(board->ctl + CTL_CORES) == 1;
}

static void vgpu_judge(struct vgpu_board *board, const u32 *old, const u32 *new)
{
	bool domains = vgpu_domains_on(board, new);
	bool runs = vgpu_runs(board, new);
	bool too_low = vgpu_needed_uv(new[VGPU_RATE]) > new[VGPU_VOLTAGE];

	if (!domains && new[VGPU_CLOCK] && !old[VGPU_CLOCK])
		vgpu_break(board, VGPU_R1);

	if (!domains && !new[VGPU_RESET] && old[VGPU_RESET])
		vgpu_break(board, VGPU_R2);

	if (board->product->fragile && new[VGPU_DOMAINS] != old[VGPU_DOMAINS] &&
	    (new[VGPU_CLOCK] || !new[VGPU_RESET]))
		vgpu_break(board, VGPU_R3);

	if (runs && too_low &&
	    (!vgpu_runs(board, old) || new[VGPU_RATE] > old[VGPU_RATE]))
		vgpu_break(board, VGPU_R4);

	if (runs && too_low && new[VGPU_VOLTAGE] < old[VGPU_VOLTAGE])
		vgpu_break(board, VGPU_R5);

	if (vgpu_power(board, old) & ~vgpu_power(board, new) &&
	    vgpu_cores_are_on(board))
		vgpu_break(board, VGPU_R6);
}

/**
 * vgpu_set_bits() - turn one of the switches in parts
 * @board: the board
 * @what: which switch
 * @clear: the bits of its position to clear
 * @set: and then to set
 *
 * Context: any.
 */
void vgpu_set_bits(struct vgpu_board *board, enum vgpu_switch what, u32 clear,
		   u32 set)
{
	u32 new[VGPU_NUM_SWITCHES];
	unsigned long flags;

	spin_lock_irqsave(&board->lock, flags);
	memcpy(new, board->at, sizeof(new));
	new[what] = (new[what] & ~clear) | set;

	vgpu_judge(board, board->at, new);
	vgpu_record(vgpu_switch_names[what], board->at[what], new[what]);

	switch (what) {
	case VGPU_DOMAINS:
	case VGPU_SUPPLY:
	case VGPU_CLOCK:
		iowrite32(vgpu_power(board, new), board->ctl + CTL_POWER);
		break;
	case VGPU_RATE:
		iowrite32(new[what], board->ctl + CTL_FREQ_KHZ);
		break;
	case VGPU_RESET:
		iowrite32(new[what], board->ctl + CTL_RESET_LINE);
		break;
	default:
		/* The model has no such switch. */
		break;
	}

	WRITE_ONCE(board->at[what], new[what]);
	spin_unlock_irqrestore(&board->lock, flags);
}

/**
 * vgpu_check_left() - apply R8
 * @board: the board, which no driver is bound to
 *
 * The power domain is not looked at: it goes off some time later.
 */
void vgpu_check_left(struct vgpu_board *board)
{
	if (vgpu_at(board, VGPU_SUPPLY) || vgpu_at(board, VGPU_PREPARED) ||
	    vgpu_at(board, VGPU_CLOCK) || !vgpu_at(board, VGPU_RESET))
		vgpu_break(board, VGPU_R8);
}

static int vgpu_recorder_show(struct seq_file *m, void *unused)
{
	struct vgpu_entry *ring;
	u64 first, next;

	/* Many lines: not to be printed with interrupts off. */
	ring = kmalloc_array(VGPU_RING_SIZE, sizeof(*ring), GFP_KERNEL);
	if (!ring)
		return -ENOMEM;

	spin_lock_irq(&vgpu_ring_lock);
	memcpy(ring, vgpu_ring, sizeof(vgpu_ring));
	first = vgpu_ring_first;
	next = vgpu_ring_next;
	spin_unlock_irq(&vgpu_ring_lock);

	for (; first < next; first++) {
		const struct vgpu_entry *entry = &ring[first % VGPU_RING_SIZE];

		seq_printf(m, "%llu %llu %s %u %u\n", entry->seq, entry->ns,
			   entry->what, entry->old, entry->new);
	}
	kfree(ring);

	return 0;
}

static ssize_t vgpu_recorder_write(struct file *file, const char __user *buf,
				   size_t count, loff_t *ppos)
{
	spin_lock_irq(&vgpu_ring_lock);
	vgpu_ring_first = vgpu_ring_next;
	spin_unlock_irq(&vgpu_ring_lock);

	return count;
}
DEFINE_SHOW_STORE_ATTRIBUTE(vgpu_recorder);

/* Copies what was written to a file, without the white space around it. */
static char *vgpu_text(char *text, size_t size, const char __user *buf,
		       size_t count)
{
	if (count >= size)
		return ERR_PTR(-EINVAL);
	if (copy_from_user(text, buf, count))
		return ERR_PTR(-EFAULT);
	text[count] = '\0';

	return strim(text);
}

static int vgpu_rules_show(struct seq_file *m, void *unused)
{
	u32 broken[VGPU_NUM_RULES];
	unsigned int i;

	spin_lock_irq(&vgpu_ring_lock);
	memcpy(broken, vgpu_broken, sizeof(broken));
	spin_unlock_irq(&vgpu_ring_lock);

	for (i = 0; i < VGPU_NUM_RULES; i++)
		seq_printf(m, "%s: %u\n", vgpu_rule_names[i], broken[i]);

	return 0;
}

/* Takes back one count of the rule that is written. */
static ssize_t vgpu_rules_write(struct file *file, const char __user *buf,
				size_t count, loff_t *ppos)
{
	char text[48], *name;
	int rule;

	name = vgpu_text(text, sizeof(text), buf, count);
	if (IS_ERR(name))
		return PTR_ERR(name);

	rule = match_string(vgpu_rule_names, VGPU_NUM_RULES, name);
	if (rule < 0)
		return rule;

	spin_lock_irq(&vgpu_ring_lock);
	if (vgpu_broken[rule])
		vgpu_broken[rule]--;
	else
		rule = -ERANGE;
	spin_unlock_irq(&vgpu_ring_lock);

	return rule < 0 ? rule : count;
}
DEFINE_SHOW_STORE_ATTRIBUTE(vgpu_rules);

static int vgpu_state_show(struct seq_file *m, void *unused)
{
	struct vgpu_board *board = m->private;
	u32 at[VGPU_NUM_SWITCHES];
	unsigned int i;

	spin_lock_irq(&board->lock);
	memcpy(at, board->at, sizeof(at));
	spin_unlock_irq(&board->lock);

	seq_printf(m, "compatible: %s\n", board->product->compatible);
	seq_printf(m, "num-domains: %u\n", board->product->num_domains);
	for (i = 0; i < VGPU_NUM_SWITCHES; i++)
		seq_printf(m, "%s: %u\n", vgpu_switch_names[i], at[i]);
	seq_printf(m, "needed-microvolts: %u\n", vgpu_needed_uv(at[VGPU_RATE]));

	return 0;
}

/*
 * Turns a switch: its name and the position. The frameworks do not hear of it,
 * so no driver shall be bound.
 */
static ssize_t vgpu_state_write(struct file *file, const char __user *buf,
				size_t count, loff_t *ppos)
{
	struct vgpu_board *board = file_inode(file)->i_private;
	char text[48], name[16], *line;
	u32 position;
	int what;

	line = vgpu_text(text, sizeof(text), buf, count);
	if (IS_ERR(line))
		return PTR_ERR(line);
	if (sscanf(line, "%15s %u", name, &position) != 2)
		return -EINVAL;

	what = match_string(vgpu_switch_names, VGPU_NUM_SWITCHES, name);
	if (what < 0)
		return what;

	vgpu_set(board, what, position);

	return count;
}
DEFINE_SHOW_STORE_ATTRIBUTE(vgpu_state);

void vgpu_recorder_add(struct vgpu_board *board)
{
	board->debugfs = debugfs_create_file(pci_name(board->pdev), 0644,
					     vgpu_debugfs, board,
					     &vgpu_state_fops);
}

void vgpu_recorder_remove(struct vgpu_board *board)
{
	debugfs_remove(board->debugfs);
}

void vgpu_recorder_init(void)
{
	vgpu_debugfs = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_file("recorder", 0644, vgpu_debugfs, NULL,
			    &vgpu_recorder_fops);
	debugfs_create_file("rules", 0644, vgpu_debugfs, NULL,
			    &vgpu_rules_fops);
	debugfs_create_u32("hidden-irqs", 0644, vgpu_debugfs,
			   &vgpu_hidden_irqs);
}

void vgpu_recorder_exit(void)
{
	debugfs_remove(vgpu_debugfs);
}
