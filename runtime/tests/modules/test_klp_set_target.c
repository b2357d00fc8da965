// SPDX-License-Identifier: GPL-2.0-only
/* Set 6: a function of a module that comes and goes. */
#define SET 6
#define FUNCS FUNC(loadavg_proc_show),
#define STATES 
#define MODULE_NAME "test_klp_mod_target"
#define MODULE_FUNCS FUNC(test_klp_mod_target_show),
#include "set_patch.h"
