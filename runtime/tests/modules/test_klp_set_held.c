// SPDX-License-Identifier: GPL-2.0-only
/* Set 8: a state, and transitions that can be held up both ways: by the busy module, by readers of /proc/loadavg. */
#define SET 8
#define FUNCS FUNC(loadavg_proc_show),
#define STATES STATE(801, 1),
#define PAUSE 5000
#define MODULE_NAME "test_klp_callbacks_busy"
#define MODULE_FUNCS FUNC(busymod_work_func),
#include "set_patch.h"
