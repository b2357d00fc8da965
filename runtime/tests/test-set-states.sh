#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# States: their callbacks run once when they come and once when they go, whatever replaces whatever.

. $(dirname $0)/functions.sh
. $(dirname $0)/set-functions.sh

setup_config

start_test "a state is handed on and ends with the last patch"

load_lp $A1
load_lp $A2
unload_lp $A1
disable_lp $A2
unload_lp $A2

check_result "$(insmod_line $A1)
$(patching $A1 101)
$(insmod_line $A2)
$(patching $A2 102)
% rmmod $A1
$(unpatching $A2 101 102)
% rmmod $A2"


start_test "an older version of a state is refused"

load_lp $A2
load_failing_mod $A1
disable_lp $A2
unload_lp $A2

check_result "$(insmod_line $A2)
$(patching $A2 101 102)
$(insmod_line $A1)
livepatch: patch '$A1' cannot take over state 101 of patch '$A2'
livepatch: Livepatch patch ($A1) is not compatible with the already installed livepatches.
insmod: ERROR: could not insert module test_modules/$A1.ko: Invalid parameters
$(unpatching $A2 101 102)
% rmmod $A2"


start_test "a state ends when a patch without it replaces"

load_lp $A1
load_lp $B2 set=1
wait_replaced $A1
unload_lp $A1
disable_lp $B2
unload_lp $B2

check_result "$(insmod_line $A1)
$(patching $A1 101)
$(insmod_line $B2 set=1)
livepatch: enabling patch '$B2'
livepatch: '$B2': initializing patching transition
$A1: state 101: pre_unpatch
livepatch: '$B2': starting patching transition
livepatch: '$B2': completing patching transition
$A1: state 101: post_unpatch
$A1: shadow variable freed
livepatch: '$B2': patching complete
% rmmod $A1
$(unpatching $B2)
% rmmod $B2"


start_test "a failing pre_patch takes the patch back"

load_failing_mod $A1 state_ret=-19
shows cmdline original
order

check_result "$(insmod_line $A1 state_ret=-19)
livepatch: enabling patch '$A1'
livepatch: '$A1': initializing patching transition
$A1: state 101: pre_patch
livepatch: pre-patch callback failed for state 101 of patch '$A1' (-19)
livepatch: failed to enable patch '$A1'
livepatch: '$A1': canceling patching transition, going to unpatch
livepatch: '$A1': completing unpatching transition
livepatch: '$A1': unpatching complete
insmod: ERROR: could not insert module test_modules/$A1.ko: No such device"

exit 0
