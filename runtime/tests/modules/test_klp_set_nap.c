// SPDX-License-Identifier: GPL-2.0-only
/* A file whose readers sleep in the function that prints it: they hold transitions up. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

static noinline int test_klp_set_nap_show(struct seq_file *m, void *v)
{
	msleep_interruptible(20);
	seq_printf(m, "%s: original\n", THIS_MODULE->name);
	return 0;
}

static int __init nap_init(void)
{
	return proc_create_single("test_klp_set_nap", 0, NULL, test_klp_set_nap_show) ? 0 : -ENOMEM;
}

static void __exit nap_exit(void)
{
	remove_proc_entry("test_klp_set_nap", NULL);
}

module_init(nap_init);
module_exit(nap_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Livepatch test: sleeps in a patched function");
