// SPDX-License-Identifier: GPL-2.0-only
/* Set 6: a module's function by its second name. */
#define SET 6
#define FUNCS FUNC(loadavg_proc_show),
#define STATES 
#define MODULE_NAME "test_klp_set_named"
#define MODULE_FUNCS FUNC(test_klp_set_second_name),
#include "set_patch.h"
