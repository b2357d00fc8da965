// SPDX-License-Identifier: GPL-2.0-only
/* Set 6: the same function by both names, two replacements. */
#define SET 6
#define FUNCS FUNC_BY(__do_sys_getppid, livepatch_getppid), FUNC_BY(__x64_sys_getppid, livepatch_getppid_too),
#define STATES 
struct pt_regs;
static long livepatch_getppid(const struct pt_regs *regs)
{
	return 5000004;
}

static long livepatch_getppid_too(const struct pt_regs *regs)
{
	return 5000005;
}

#include "set_patch.h"
