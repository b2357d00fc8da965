// SPDX-License-Identifier: GPL-2.0-only
/* Stress, set 1, first version. */
#define SET 1
#define FUNCS FUNC(cmdline_proc_show), FUNC(version_proc_show),
#define STATES STATE(701, 1),
#define PAUSE 10
#define MODULE_NAME "test_klp_set_nap"
#define MODULE_FUNCS FUNC(test_klp_set_nap_show),
#include "set_patch.h"
