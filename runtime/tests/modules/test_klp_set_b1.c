// SPDX-License-Identifier: GPL-2.0-only
/* Set 2: another function, no state. */
#define SET 2
#define FUNCS FUNC(meminfo_proc_show),
#define STATES 
#include "set_patch.h"
