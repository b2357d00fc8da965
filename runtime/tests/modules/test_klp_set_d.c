// SPDX-License-Identifier: GPL-2.0-only
/* Set 4: a state that set 1 has. */
#define SET 4
#define FUNCS FUNC(loadavg_proc_show),
#define STATES STATE(101, 1),
#include "set_patch.h"
