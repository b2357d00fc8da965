// SPDX-License-Identifier: GPL-2.0-only
/* Set 3: a function and a state that others may have. */
#define SET 3
#define FUNCS FUNC(meminfo_proc_show), FUNC(loadavg_proc_show),
#define STATES 
#include "set_patch.h"
