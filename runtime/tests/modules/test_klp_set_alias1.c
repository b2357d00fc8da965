// SPDX-License-Identifier: GPL-2.0-only
/* Set 5: a function by one of its names. It returns what is no process. */
#define SET 5
#define FUNCS FUNC_BY(__do_sys_getppid, livepatch_getppid),
#define STATES 
struct pt_regs;
static long livepatch_getppid(const struct pt_regs *regs)
{
	return 5000001;
}
#include "set_patch.h"
