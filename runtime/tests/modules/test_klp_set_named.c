// SPDX-License-Identifier: GPL-2.0-only
/* A function with two names. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

static noinline int test_klp_set_first_name(struct seq_file *m, void *v)
{
	seq_puts(m, "original\n");
	return 0;
}

static int __used __alias(test_klp_set_first_name) test_klp_set_second_name(struct seq_file *m, void *v);

static int __init named_init(void)
{
	return proc_create_single("test_klp_set_named", 0, NULL, test_klp_set_first_name) ? 0 : -ENOMEM;
}

static void __exit named_exit(void)
{
	remove_proc_entry("test_klp_set_named", NULL);
}

module_init(named_init);
module_exit(named_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Livepatch test: two names at one address");
