// SPDX-License-Identifier: GPL-2.0-only
/* Set 2, second version: another function. */
#define SET 2
#define FUNCS FUNC(uptime_proc_show),
#define STATES 
#include "set_patch.h"
