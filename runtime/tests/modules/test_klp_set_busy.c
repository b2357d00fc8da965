// SPDX-License-Identifier: GPL-2.0-only
/* Set 5: a function of a module that can stall a transition. */
#define SET 5
#define FUNCS FUNC(loadavg_proc_show),
#define STATES 
#define MODULE_NAME "test_klp_callbacks_busy"
#define MODULE_FUNCS FUNC(busymod_work_func),
#include "set_patch.h"
