// SPDX-License-Identifier: GPL-2.0-only
/* Set 5: a module's function by its first name. */
#define SET 5
#define FUNCS FUNC(uptime_proc_show),
#define STATES 
#define MODULE_NAME "test_klp_set_named"
#define MODULE_FUNCS FUNC(test_klp_set_first_name),
#include "set_patch.h"
