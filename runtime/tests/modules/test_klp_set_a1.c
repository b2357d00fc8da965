// SPDX-License-Identifier: GPL-2.0-only
/* Set 1, first version: two functions, one state. */
#define SET 1
#define FUNCS FUNC(cmdline_proc_show), FUNC(version_proc_show),
#define STATES STATE(101, 1),
#include "set_patch.h"
