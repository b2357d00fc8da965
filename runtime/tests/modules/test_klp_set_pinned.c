// SPDX-License-Identifier: GPL-2.0-only
/* Set 5: replaced by force, and so never unloaded. */
#define SET 5
#define FUNCS FUNC(cmdline_proc_show),
#define STATES STATE(501, 1),
#include "set_patch.h"
