/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The common part of the set tests' livepatches: replacements of /proc files that print the patch's name, and states whose
 * callbacks say when they run. A replacement is never called where its original has another signature.
 *
 * In: FUNCS, STATES and SET of the including file. Out: a livepatch module.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

static unsigned int set = SET;
module_param(set, uint, 0444);
static int state_ret;
module_param(state_ret, int, 0444);
/* The state that state_ret is about; 0 for all. */
static unsigned long fail_state;
module_param(fail_state, ulong, 0444);
/* How long a state's pre_patch takes. */
static unsigned int pre_patch_ms;
module_param(pre_patch_ms, uint, 0444);

/* How long a reader sleeps in the replacement, in milliseconds. */
#ifndef PAUSE
#define PAUSE 0
#endif

static __maybe_unused int livepatch_proc_show(struct seq_file *m, void *v)
{
	if (PAUSE)
		msleep_interruptible(PAUSE);
	seq_printf(m, "%s\n", THIS_MODULE->name);
	return 0;
}

static __maybe_unused int state_pre_patch(struct klp_patch *patch, struct klp_state *state)
{
	int ret = !fail_state || fail_state == state->id ? state_ret : 0;

	pr_info("state %lu: pre_patch\n", state->id);
	if (pre_patch_ms)
		msleep(pre_patch_ms);
	if (!ret)
		klp_shadow_get_or_alloc(&klp_enable_patch, state->id, 8, GFP_KERNEL, NULL, NULL);
	return ret;
}

static __maybe_unused void state_post_patch(struct klp_patch *patch, struct klp_state *state)
{
	pr_info("state %lu: post_patch\n", state->id);
}

static __maybe_unused void state_pre_unpatch(struct klp_patch *patch, struct klp_state *state)
{
	pr_info("state %lu: pre_unpatch\n", state->id);
}

static __maybe_unused void state_post_unpatch(struct klp_patch *patch, struct klp_state *state)
{
	pr_info("state %lu: post_unpatch\n", state->id);
}

static __maybe_unused void state_shadow_dtor(void *obj, void *shadow_data)
{
	pr_info("shadow variable freed\n");
}

#define FUNC_BY(name, func) { .old_name = #name, .new_func = func }
#define FUNC(name) FUNC_BY(name, livepatch_proc_show)
#define STATE(number, v) {					\
	.id = number,						\
	.version = v,						\
	.is_shadow = true,					\
	.callbacks = {						\
		.pre_patch = state_pre_patch,			\
		.post_patch = state_post_patch,			\
		.pre_unpatch = state_pre_unpatch,		\
		.post_unpatch = state_post_unpatch,		\
		.shadow_dtor = state_shadow_dtor,		\
	},							\
}

static struct klp_func vmlinux_funcs[] = { FUNCS {} };
static struct klp_state states[] = { STATES {} };

#ifdef MODULE_NAME
static struct klp_func module_funcs[] = { MODULE_FUNCS {} };
#endif

static struct klp_object objs[] = {
	{ .funcs = vmlinux_funcs },
#ifdef MODULE_NAME
	{ .name = MODULE_NAME, .funcs = module_funcs },
#endif
	{}
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
	.states = states,
};

static int __init set_patch_init(void)
{
	patch.replace_set = set;
	return klp_enable_patch(&patch);
}

static void __exit set_patch_exit(void)
{
}

module_init(set_patch_init);
module_exit(set_patch_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
MODULE_DESCRIPTION("Livepatch test: replace sets");
