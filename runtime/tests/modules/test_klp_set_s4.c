// SPDX-License-Identifier: GPL-2.0-only
/* Stress, set 2, second version: another function, and a state more. */
#define SET 2
#define FUNCS FUNC(uptime_proc_show), FUNC(loadavg_proc_show),
#define STATES STATE(702, 1), STATE(703, 1),
#define PAUSE 10
#define MODULE_NAME "test_klp_mod_target"
#define MODULE_FUNCS FUNC(test_klp_mod_target_show),
#include "set_patch.h"
