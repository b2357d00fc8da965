// SPDX-License-Identifier: GPL-2.0-only
/* Set 1, second version: one function less, one state more. */
#define SET 1
#define FUNCS FUNC(cmdline_proc_show),
#define STATES STATE(101, 2), STATE(102, 1),
#include "set_patch.h"
