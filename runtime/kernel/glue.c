// SPDX-License-Identifier: GPL-2.0-only
/*
 * The C that the Rust livepatch core cannot do without.
 *
 * In: macros, inlines, statics with lock classes, per-cpu data, symbol exports, dynamic debug sites. Out: plain functions
 * and tables; no decision is made here. Hard because some of it runs in the ftrace handler and in the scheduler: those
 * parts are notrace.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpu.h>
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/pid_namespace.h>
#include <linux/rculist.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include "glue.h"

/* Statics whose initialisers carry lock classes, or that assembly refers to. */

DEFINE_MUTEX(klp_mutex);
DEFINE_STATIC_KEY_FALSE(klp_sched_try_switch_key);
static DEFINE_SPINLOCK(klp_shadow_lock);
static DEFINE_PER_CPU(unsigned long[KLP_GLUE_STACK_ENTRIES], klp_stack_entries);
struct kobject *klp_root_kobj;

/*
 * The ftrace handler. The recursion check, current and the register write are inlines that would each be a call from
 * Rust. While no transition concerns the function there is nothing to decide: klp_stack.settled is the answer
 * (engine/handler.rs has the rules). Otherwise the decision is one call. That way begins anew, with a recursion lock of its
 * own, so that nothing lives across the call and the short way saves no registers.
 */
static noinline notrace void klp_redirect(unsigned long ip, unsigned long parent_ip, struct klp_stack *stack,
					  struct ftrace_regs *fregs)
{
	void *target;
	int bit;

	bit = ftrace_test_recursion_trylock(ip, parent_ip);
	if (WARN_ON_ONCE(bit < 0))
		return;
	target = klp_rust_redirect(stack, current);
	if (target)
		ftrace_regs_set_instruction_pointer(fregs, (unsigned long)target);
	ftrace_test_recursion_unlock(bit);
}

static void notrace klp_handler(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *fops,
				struct ftrace_regs *fregs)
{
	struct klp_stack *stack = container_of(fops, struct klp_stack, fops);
	void *target;
	int bit;

	/* Disables preemption, which klp_glue_sync() waits for. */
	bit = ftrace_test_recursion_trylock(ip, parent_ip);
	if (WARN_ON_ONCE(bit < 0))
		return;
	/* Pairs with the release store in hot.rs: what the replacement uses is there. */
	target = smp_load_acquire(&stack->settled);
	if (unlikely(!target)) {
		ftrace_test_recursion_unlock(bit);
		klp_redirect(ip, parent_ip, stack, fregs);
		return;
	}
	ftrace_regs_set_instruction_pointer(fregs, (unsigned long)target);
	ftrace_test_recursion_unlock(bit);
}

/* Flags depend on the architecture's configuration. */
struct klp_stack *klp_glue_new_stack(void)
{
	struct klp_stack *stack = kzalloc(sizeof(*stack), GFP_KERNEL);

	if (!stack)
		return NULL;
	INIT_LIST_HEAD(&stack->funcs);
	stack->fops.func = klp_handler;
	stack->fops.flags = FTRACE_OPS_FL_DYNAMIC | FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT;
	if (!IS_ENABLED(CONFIG_HAVE_DYNAMIC_FTRACE_WITH_ARGS))
		stack->fops.flags |= FTRACE_OPS_FL_SAVE_REGS;
	return stack;
}

/* Task walks: macros. */

/* Tasks in a row under tasklist_lock: a few microseconds. */
#define TASKS_AT_A_TIME	256
/* How often a walk may lose its place before it goes through in one go. */
#define MOST_RESTARTS	8

/*
 * Lets go of tasklist_lock for a moment. Whether the walk can go on from here: a task that ended is on no list, and one whose
 * place in the list of processes was taken by a thread that called exec is not on that one.
 */
static bool klp_glue_pause(struct task_struct *g, struct task_struct *task)
{
	bool listed;

	get_task_struct(g);
	get_task_struct(task);
	read_unlock(&tasklist_lock);
	cond_resched();
	read_lock(&tasklist_lock);
	listed = pid_alive(g) && thread_group_leader(g) && pid_alive(task) && same_thread_group(g, task);
	put_task_struct(task);
	put_task_struct(g);
	return listed;
}

/*
 * Lists grow at their ends only. So whoever forks ahead of a pause has a child that is still ahead, and whoever forks
 * behind it has a child that was made from a task that was seen.
 */
void klp_glue_each_task(klp_glue_task_fn fn, void *arg)
{
	struct task_struct *g, *task;
	unsigned int restarts = 0, seen;

restart:
	seen = 0;
	read_lock(&tasklist_lock);
	for_each_process_thread(g, task) {
		fn(task, arg);
		if (++seen % TASKS_AT_A_TIME || restarts == MOST_RESTARTS)
			continue;
		if (!klp_glue_pause(g, task)) {
			read_unlock(&tasklist_lock);
			restarts++;
			goto restart;
		}
	}
	read_unlock(&tasklist_lock);
}

/*
 * The task with the lowest number from *nr on, held. By number, so that nothing is locked between two of them: a task
 * that forks or takes another number meanwhile may be missed, which the caller allows for.
 */
struct task_struct *klp_glue_next_task(int *nr)
{
	struct task_struct *task = NULL;
	struct pid *pid;

	cond_resched();
	rcu_read_lock();
	while (!task && (pid = find_ge_pid(*nr, &init_pid_ns))) {
		*nr = pid_nr(pid) + 1;
		task = pid_task(pid, PIDTYPE_PID);
		if (task && !tryget_task_struct(task))
			task = NULL;
	}
	rcu_read_unlock();
	return task;
}

void klp_glue_put_task(struct task_struct *task)
{
	put_task_struct(task);
}

void klp_glue_each_idle(klp_glue_idle_fn fn, void *arg)
{
	unsigned int cpu;

	cpus_read_lock();
	for_each_possible_cpu(cpu)
		fn(idle_task(cpu), cpu, cpu_online(cpu), arg);
	cpus_read_unlock();
}

/* Per-cpu data; the caller keeps preemption off. */
unsigned long *klp_glue_stack_buffer(void)
{
	lockdep_assert_preemption_disabled();
	return this_cpu_ptr(klp_stack_entries);
}

/* Task flags: inlines over thread_info, whose barriers matter. */

bool klp_glue_task_is_kthread(struct task_struct *task)
{
	return task->flags & PF_KTHREAD;
}

void klp_glue_set_notify_signal(struct task_struct *task)
{
	set_notify_signal(task);
}

bool notrace klp_glue_pending(struct task_struct *task)
{
	return test_tsk_thread_flag(task, TIF_PATCH_PENDING);
}

void notrace klp_glue_set_pending(struct task_struct *task)
{
	set_tsk_thread_flag(task, TIF_PATCH_PENDING);
}

void notrace klp_glue_clear_pending(struct task_struct *task)
{
	clear_tsk_thread_flag(task, TIF_PATCH_PENDING);
}

bool notrace klp_glue_take_pending(struct task_struct *task)
{
	return test_and_clear_tsk_thread_flag(task, TIF_PATCH_PENDING);
}

void notrace klp_glue_preempt_disable(void)
{
	preempt_disable_notrace();
}

void notrace klp_glue_preempt_enable(void)
{
	preempt_enable_notrace();
}

bool klp_glue_have_reliable_stack(void)
{
	return klp_have_reliable_stack();
}

/* Entry points that need inlines around one Rust call. */

void klp_update_patch_state(struct task_struct *task)
{
	preempt_disable_notrace();
	klp_rust_switch_self(task);
	preempt_enable_notrace();
}

void __klp_sched_try_switch(void)
{
	lockdep_assert_preemption_disabled();
	if (unlikely(klp_patch_pending(current)))
		klp_rust_about_to_sleep(current);
}

/* Order and time: work items are statics with lock classes, the static key is patched code. */

static void klp_nothing(struct work_struct *work)
{
}

/* Not synchronize_rcu(): functions can be patched that run where RCU is not watching. */
void klp_glue_sync(void)
{
	schedule_on_each_cpu(klp_nothing);
}

void klp_glue_sched_hook(bool on)
{
	if (on)
		static_branch_enable(&klp_sched_try_switch_key);
	else
		static_branch_disable(&klp_sched_try_switch_key);
}

static void klp_retry(struct work_struct *work)
{
	klp_rust_retry();
}
static DECLARE_DELAYED_WORK(klp_transition_work, klp_retry);

void klp_glue_retry_later(void)
{
	schedule_delayed_work(&klp_transition_work, round_jiffies_relative(HZ));
}

u64 klp_glue_seconds(void)
{
	return ktime_get_seconds();
}

static void klp_finish(struct work_struct *work)
{
	klp_rust_finish(container_of(work, struct klp_patch, free_work));
}

void klp_glue_finish_later(struct klp_patch *patch)
{
	schedule_work(&patch->free_work);
}

/* sysfs: attributes are writable statics (lock classes), checked at compile time. */

#define KLP_ATTR(_name, _mode, _show, _store) \
	static struct kobj_attribute klp_attr_##_name = __ATTR(_name, _mode, _show, _store)

KLP_ATTR(enabled, 0644, klp_rust_enabled_show, klp_rust_enabled_store);
KLP_ATTR(transition, 0444, klp_rust_transition_show, NULL);
KLP_ATTR(force, 0200, NULL, klp_rust_force_store);
KLP_ATTR(replace, 0444, klp_rust_replace_show, NULL);
#ifdef CONFIG_LIVEPATCH_REPLACE_SET
KLP_ATTR(replace_set, 0444, klp_rust_replace_show, NULL);
#endif
KLP_ATTR(stack_order, 0444, klp_rust_stack_order_show, NULL);
KLP_ATTR(patched, 0444, klp_rust_patched_show, NULL);

static struct attribute *klp_patch_attrs[] = {
	&klp_attr_enabled.attr,
	&klp_attr_transition.attr,
	&klp_attr_force.attr,
	&klp_attr_replace.attr,
#ifdef CONFIG_LIVEPATCH_REPLACE_SET
	&klp_attr_replace_set.attr,
#endif
	&klp_attr_stack_order.attr,
	NULL,
};
ATTRIBUTE_GROUPS(klp_patch);

static struct attribute *klp_object_attrs[] = {
	&klp_attr_patched.attr,
	NULL,
};
ATTRIBUTE_GROUPS(klp_object);

static const struct kobj_type klp_ktype_patch = {
	.release = klp_rust_release_patch,
	.sysfs_ops = &kobj_sysfs_ops,
	.default_groups = klp_patch_groups,
};

static const struct kobj_type klp_ktype_object = {
	.release = klp_rust_release_object,
	.sysfs_ops = &kobj_sysfs_ops,
	.default_groups = klp_object_groups,
};

static const struct kobj_type klp_ktype_func = {
	.release = klp_rust_release_func,
	.sysfs_ops = &kobj_sysfs_ops,
};

/* INIT_WORK and init_completion carry lock classes. */
void klp_glue_init_patch(struct klp_patch *patch)
{
	INIT_LIST_HEAD(&patch->list);
	INIT_LIST_HEAD(&patch->obj_list);
	kobject_init(&patch->kobj, &klp_ktype_patch);
	INIT_WORK(&patch->free_work, klp_finish);
	init_completion(&patch->finish);
}

void klp_glue_init_object(struct klp_object *obj)
{
	INIT_LIST_HEAD(&obj->func_list);
	kobject_init(&obj->kobj, &klp_ktype_object);
}

void klp_glue_init_func(struct klp_func *func)
{
	INIT_LIST_HEAD(&func->stack_node);
	kobject_init(&func->kobj, &klp_ktype_func);
}

/* Allocation and lists: macros and inlines (the latter with CONFIG_DEBUG_LIST's checks). */

void *klp_glue_zalloc(size_t size)
{
	return kvzalloc(size, GFP_KERNEL);
}

void klp_glue_list_del(struct list_head *entry)
{
	list_del_init(entry);
}

void klp_glue_list_add_rcu(struct list_head *entry, struct list_head *head)
{
	list_add_rcu(entry, head);
}

void klp_glue_list_del_rcu(struct list_head *entry)
{
	list_del_rcu(entry);
}

/* Rust cannot define weak symbols. */
void __weak clear_relocate_add(Elf_Shdr *sechdrs, const char *strtab, unsigned int symindex,
			       unsigned int relsec, struct module *me)
{
}

void klp_glue_clear_relocate_add(Elf_Shdr *sechdrs, const char *strtab, unsigned int symindex,
				 unsigned int relsec, struct module *me)
{
	clear_relocate_add(sechdrs, strtab, symindex, relsec, me);
}

/* The shadow table's lock: spin_lock_irqsave() is a macro. */

unsigned long klp_glue_shadow_lock(void)
{
	unsigned long flags;

	spin_lock_irqsave(&klp_shadow_lock, flags);
	return flags;
}

void klp_glue_shadow_unlock(unsigned long flags)
{
	spin_unlock_irqrestore(&klp_shadow_lock, flags);
}

void *klp_glue_shadow_alloc(size_t size, gfp_t gfp)
{
	return kzalloc(size, gfp);
}

void klp_glue_shadow_duplicate(void *obj, unsigned long id)
{
	WARN(1, "Duplicate shadow variable <%p, %lx>\n", obj, id);
}

/* Dynamic debug sites, and warnings. */

void klp_glue_debug(enum klp_glue_site site, const char *patch, bool patching)
{
	const char *what = patching ? "patching" : "unpatching";

	switch (site) {
	case KLP_SITE_INITIALIZING:
		pr_debug("'%s': initializing %s transition\n", patch, what);
		break;
	case KLP_SITE_COMPLETING:
		pr_debug("'%s': completing %s transition\n", patch, what);
		break;
	case KLP_SITE_CANCELING:
		pr_debug("'%s': canceling patching transition, going to unpatch\n", patch);
		break;
	case KLP_SITE_REVERSING:
		pr_debug("'%s': reversing transition from %s\n", patch,
			 patching ? "patching to unpatching" : "unpatching to patching");
		break;
	}
}

/* The name is what the selftests filter the per-task messages by. */
static void klp_try_switch_task(struct task_struct *task, enum klp_glue_stuck why, const char *func, int error)
{
	switch (why) {
	case KLP_STUCK_RUNNING:
		pr_debug("%s: %s:%d is running\n", __func__, task->comm, task->pid);
		break;
	case KLP_STUCK_UNRELIABLE:
		pr_debug("%s: %s:%d has an unreliable stack\n", __func__, task->comm, task->pid);
		break;
	case KLP_STUCK_SLEEPING:
		pr_debug("%s: %s:%d is sleeping on function %s\n", __func__, task->comm, task->pid, func);
		break;
	case KLP_STUCK_UNKNOWN:
		pr_debug("%s: Unknown error code (%d) when trying to switch %s:%d\n", __func__, error,
			 task->comm, task->pid);
		break;
	}
}

void klp_glue_debug_stuck(struct task_struct *task, enum klp_glue_stuck why, const char *func, int error)
{
	klp_try_switch_task(task, why, func, error);
}

/* Reached from the handler. Each caller comes here once: WARN_ONCE() would be one for all of them. */
noinstr void klp_glue_warn(const char *what)
{
	instrumentation_begin();
	WARN(1, "livepatch: %s\n", what);
	instrumentation_end();
}

/* debugfs: livepatch/blockers lists the tasks that hold the transition up. */

void klp_glue_show_blocker(struct seq_file *m, struct task_struct *task, enum klp_glue_stuck why,
			   const char *func, u64 seconds)
{
	static const char * const reason[] = {
		[KLP_STUCK_RUNNING] = "running",
		[KLP_STUCK_UNRELIABLE] = "unreliable stack",
		[KLP_STUCK_SLEEPING] = "in",
		[KLP_STUCK_UNKNOWN] = "unknown",
	};

	seq_printf(m, "%d %s %llus %s%s%s\n", task->pid, task->comm, seconds, reason[why],
		   func ? " " : "", func ?: "");
}

static int klp_blockers_show(struct seq_file *m, void *v)
{
	klp_rust_blockers(m);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(klp_blockers);

static int __init klp_init(void)
{
	struct dentry *dir;

	klp_root_kobj = kobject_create_and_add("livepatch", kernel_kobj);
	if (!klp_root_kobj)
		return -ENOMEM;
	dir = debugfs_create_dir("livepatch", NULL);
	debugfs_create_file("blockers", 0400, dir, NULL, &klp_blockers_fops);
	return 0;
}
module_init(klp_init);

/* The symbol table entries of what klp.rs defines. */

EXPORT_SYMBOL_GPL(klp_enable_patch);
EXPORT_SYMBOL_GPL(klp_find_section_by_name);
EXPORT_SYMBOL_GPL(klp_get_state);
EXPORT_SYMBOL_GPL(klp_get_prev_state);
EXPORT_SYMBOL_GPL(klp_shadow_get);
EXPORT_SYMBOL_GPL(klp_shadow_alloc);
EXPORT_SYMBOL_GPL(klp_shadow_get_or_alloc);
EXPORT_SYMBOL_GPL(klp_shadow_free);
EXPORT_SYMBOL_GPL(klp_shadow_free_all);
