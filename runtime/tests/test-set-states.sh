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


start_test "a pre_patch may return any number"

# Too low for an error: the loader does not load the module, and insmod does not understand why.
log "% insmod test_modules/$A1.ko state_ret=-2147483648"
insmod test_modules/$A1.ko state_ret=-2147483648 2> /dev/null
[[ ! -e /sys/module/$A1 ]] || die "$A1 is loaded"
shows cmdline original
order

check_result "$(insmod_line $A1 state_ret=-2147483648)
livepatch: enabling patch '$A1'
livepatch: '$A1': initializing patching transition
$A1: state 101: pre_patch
livepatch: pre-patch callback failed for state 101 of patch '$A1' (-2147483648)
livepatch: failed to enable patch '$A1'
livepatch: '$A1': canceling patching transition, going to unpatch
livepatch: '$A1': completing unpatching transition
livepatch: '$A1': unpatching complete"


start_test "of two states the second fails: the first is undone, its shadow variable freed"

load_failing_mod $A2 state_ret=-19 fail_state=102
shows cmdline original
order

check_result "$(insmod_line $A2 "state_ret=-19 fail_state=102")
livepatch: enabling patch '$A2'
livepatch: '$A2': initializing patching transition
$A2: state 101: pre_patch
$A2: state 102: pre_patch
livepatch: pre-patch callback failed for state 102 of patch '$A2' (-19)
livepatch: failed to enable patch '$A2'
livepatch: '$A2': canceling patching transition, going to unpatch
livepatch: '$A2': completing unpatching transition
$A2: state 101: post_unpatch
$A2: shadow variable freed
livepatch: '$A2': unpatching complete
insmod: ERROR: could not insert module test_modules/$A2.ko: No such device"


start_test "a replace that fails leaves the state to the patch that has it"

load_lp $A1
load_failing_mod $A2 state_ret=-19 fail_state=102
shows cmdline $A1
shows version $A1
order $A1
disable_lp $A1
unload_lp $A1

check_result "$(insmod_line $A1)
$(patching $A1 101)
$(insmod_line $A2 "state_ret=-19 fail_state=102")
livepatch: enabling patch '$A2'
livepatch: '$A2': initializing patching transition
$A2: state 102: pre_patch
livepatch: pre-patch callback failed for state 102 of patch '$A2' (-19)
livepatch: failed to enable patch '$A2'
livepatch: '$A2': canceling patching transition, going to unpatch
livepatch: '$A2': completing unpatching transition
livepatch: '$A2': unpatching complete
insmod: ERROR: could not insert module test_modules/$A2.ko: No such device
$(unpatching $A1 101)
% rmmod $A1"


start_test "a replace that is reversed: the new state goes, the old one stays"

load_lp $PINNED
load_mod $BUSY_MOD block_transition=Y
load_lp_nowait $HELD set=5
wait_transition $HELD 1 "no transition"
disable_lp $HELD
shows cmdline $PINNED
shows loadavg original
order $PINNED
unload_lp $HELD
unload_mod $BUSY_MOD
disable_lp $PINNED
unload_lp $PINNED

check_result "$(insmod_line $PINNED)
$(patching $PINNED 501)
$(insmod_line $BUSY_MOD block_transition=Y)
$BUSY_MOD: ${BUSY_MOD}_init
$BUSY_MOD: busymod_work_func enter
$(insmod_line $HELD set=5)
livepatch: enabling patch '$HELD'
livepatch: '$HELD': initializing patching transition
$HELD: state 801: pre_patch
$PINNED: state 501: pre_unpatch
livepatch: '$HELD': starting patching transition
% echo 0 > $SYSFS_KLP_DIR/$HELD/enabled
livepatch: '$HELD': reversing transition from patching to unpatching
livepatch: '$HELD': starting unpatching transition
livepatch: '$HELD': completing unpatching transition
$HELD: state 801: post_unpatch
$HELD: shadow variable freed
$PINNED: state 501: post_patch
livepatch: '$HELD': unpatching complete
% rmmod $HELD
% rmmod $BUSY_MOD
$BUSY_MOD: busymod_work_func exit
$BUSY_MOD: ${BUSY_MOD}_exit
$(unpatching $PINNED 501)
% rmmod $PINNED"


start_test "a disable that is reversed: the state stays"

load_lp $HELD
cat /proc/loadavg > /dev/null &
reader=$!
# It sleeps in the replacement, for longer than this.
sleep 1
log "% echo 0 > $SYSFS_KLP_DIR/$HELD/enabled"
echo 0 > "$SYSFS_KLP_DIR/$HELD/enabled"
wait_transition $HELD 1 "no transition"
grep -q "^$reader cat [0-9]*s in loadavg_proc_show\$" "$SYSFS_DEBUG_DIR/livepatch/blockers" || die "the reader is not listed"
log "% echo 1 > $SYSFS_KLP_DIR/$HELD/enabled"
echo 1 > "$SYSFS_KLP_DIR/$HELD/enabled"
wait_transition $HELD 0 "the transition did not turn round"
[[ -z "$(cat "$SYSFS_DEBUG_DIR/livepatch/blockers")" ]] || die "tasks are listed without a transition"
check_sysfs_value $HELD enabled 1
wait $reader
disable_lp $HELD
unload_lp $HELD

check_result "$(insmod_line $HELD)
$(patching $HELD 801)
% echo 0 > $SYSFS_KLP_DIR/$HELD/enabled
livepatch: '$HELD': initializing unpatching transition
$HELD: state 801: pre_unpatch
livepatch: '$HELD': starting unpatching transition
% echo 1 > $SYSFS_KLP_DIR/$HELD/enabled
livepatch: '$HELD': reversing transition from unpatching to patching
livepatch: '$HELD': starting patching transition
livepatch: '$HELD': completing patching transition
$HELD: state 801: post_patch
livepatch: '$HELD': patching complete
$(unpatching $HELD 801)
% rmmod $HELD"

exit 0
