// SPDX-License-Identifier: GPL-2.0-only
/* Set 7: a function without a name. */
#define SET 7
#define FUNCS { .new_func = livepatch_proc_show },
#define STATES 
#include "set_patch.h"
