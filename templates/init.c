// SPDX-License-Identifier: GPL-2.0-only
/*
 * @MODULE@: what is replaced, and how. Made by klp-build from templates/init.c.
 */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/livepatch.h>

/* The new functions; their names may hold dots, hence the labels. */
@DECLARATIONS@
@TABLES@
static struct klp_object objects[] = {
@OBJECTS@	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objects,
@STATES@@REPLACE@};

static int __init livepatch_init(void)
{
	return klp_enable_patch(&patch);
}

/* Disabling comes first, through sysfs: the module cannot be removed while it is in use. */
static void __exit livepatch_exit(void)
{
}

module_init(livepatch_init);
module_exit(livepatch_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("@DESCRIPTION@");
MODULE_INFO(livepatch, "Y");
@INFO@
