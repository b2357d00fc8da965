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

module_init(livepatch_init);

@EXIT@
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("@DESCRIPTION@");
MODULE_INFO(livepatch, "Y");
@INFO@
