/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the Rust livepatch core and its C glue call of each other.
 *
 * In: klp.rs, through the bindings generated from this file, and glue.c. Out: typed declarations, so that a change on one
 * side breaks the build of the other. Each klp_glue_*() exists because what it wraps is a macro, an inline, or a static
 * with a lock class; the reason stands at its definition.
 */
#ifndef _LIVEPATCH_GLUE_H
#define _LIVEPATCH_GLUE_H

#include <linux/ftrace.h>
#include <linux/livepatch.h>
#include <linux/moduleloader.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/stacktrace.h>

/* An enumeration, for bindgen to see the values of macros. */
enum {
	KLP_GLUE_STACK_ENTRIES = 100,
	KLP_GLUE_CALL_SIZE = MCOUNT_INSN_SIZE,
	KLP_GLUE_MODULE_NAME_LEN = MODULE_NAME_LEN,
	KLP_GLUE_SHN_LIVEPATCH = SHN_LIVEPATCH,
	KLP_GLUE_SHF_RELA_LIVEPATCH = SHF_RELA_LIVEPATCH,
};

/**
 * struct klp_stack - the replacements of one function
 * @next:	next in the hash bucket
 * @settled:	what all tasks run in its place; NULL while they may differ: ask klp_rust_redirect()
 * @old_func:	the function
 * @funcs:	klp_func.stack_node of its replacements, newest first
 * @fops:	what redirects calls
 */
struct klp_stack {
	struct klp_stack *next;
	void *settled;
	void *old_func;
	struct list_head funcs;
	struct ftrace_ops fops;
};

extern struct mutex klp_mutex;
extern struct kobject *klp_root_kobj;

/* Rust, called from glue.c */
void *klp_rust_redirect(struct klp_stack *stack, struct task_struct *task);
void klp_rust_switch_self(struct task_struct *task);
void klp_rust_about_to_sleep(struct task_struct *task);
void klp_rust_retry(void);
void klp_rust_finish(struct klp_patch *patch);
void klp_rust_release_patch(struct kobject *kobj);
void klp_rust_release_object(struct kobject *kobj);
void klp_rust_release_func(struct kobject *kobj);
void klp_rust_blockers(struct seq_file *m);
ssize_t klp_rust_enabled_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf);
ssize_t klp_rust_enabled_store(struct kobject *kobj, struct kobj_attribute *attr,
			       const char *buf, size_t count);
ssize_t klp_rust_transition_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf);
ssize_t klp_rust_force_store(struct kobject *kobj, struct kobj_attribute *attr,
			     const char *buf, size_t count);
ssize_t klp_rust_replace_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf);
ssize_t klp_rust_stack_order_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf);
ssize_t klp_rust_patched_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf);

/* glue.c, called from Rust */
typedef void (*klp_glue_task_fn)(struct task_struct *task, void *arg);
typedef void (*klp_glue_idle_fn)(struct task_struct *task, unsigned int cpu, bool online, void *arg);

enum klp_glue_site {
	KLP_SITE_INITIALIZING,
	KLP_SITE_COMPLETING,
	KLP_SITE_CANCELING,
	KLP_SITE_REVERSING,
};

enum klp_glue_stuck {
	KLP_STUCK_RUNNING,
	KLP_STUCK_UNRELIABLE,
	KLP_STUCK_SLEEPING,
	KLP_STUCK_UNKNOWN,
};

void klp_glue_each_task(klp_glue_task_fn fn, void *arg);
struct task_struct *klp_glue_next_task(int *nr);
void klp_glue_put_task(struct task_struct *task);
void klp_glue_each_idle(klp_glue_idle_fn fn, void *arg);
unsigned long *klp_glue_stack_buffer(void);
bool klp_glue_task_is_kthread(struct task_struct *task);
void klp_glue_set_notify_signal(struct task_struct *task);
bool klp_glue_pending(struct task_struct *task);
void klp_glue_set_pending(struct task_struct *task);
void klp_glue_clear_pending(struct task_struct *task);
bool klp_glue_take_pending(struct task_struct *task);
void klp_glue_preempt_disable(void);
void klp_glue_preempt_enable(void);
bool klp_glue_have_reliable_stack(void);
void klp_glue_sync(void);
void klp_glue_sched_hook(bool on);
void klp_glue_retry_later(void);
void klp_glue_finish_later(struct klp_patch *patch);
u64 klp_glue_seconds(void);

void klp_glue_init_patch(struct klp_patch *patch);
void klp_glue_init_object(struct klp_object *obj);
void klp_glue_init_func(struct klp_func *func);
struct klp_stack *klp_glue_new_stack(void);
void *klp_glue_zalloc(size_t size);
void klp_glue_list_del(struct list_head *entry);
void klp_glue_list_add_rcu(struct list_head *entry, struct list_head *head);
void klp_glue_list_del_rcu(struct list_head *entry);
void klp_glue_clear_relocate_add(Elf_Shdr *sechdrs, const char *strtab, unsigned int symindex,
				 unsigned int relsec, struct module *me);

unsigned long klp_glue_shadow_lock(void);
void klp_glue_shadow_unlock(unsigned long flags);
void *klp_glue_shadow_alloc(size_t size, gfp_t gfp);
void klp_glue_shadow_duplicate(void *obj, unsigned long id);

void klp_glue_debug(enum klp_glue_site site, const char *patch, bool patching);
void klp_glue_debug_stuck(struct task_struct *task, enum klp_glue_stuck why, const char *func, int error);
void klp_glue_warn(const char *what);
void klp_glue_show_blocker(struct seq_file *m, struct task_struct *task, enum klp_glue_stuck why,
			   const char *func, u64 seconds);

#endif /* _LIVEPATCH_GLUE_H */
