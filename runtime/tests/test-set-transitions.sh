#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Transitions that are held up: reversed, forced, with modules that come and go; the other set does not notice.

. $(dirname $0)/functions.sh
. $(dirname $0)/set-functions.sh

setup_config

# The log of a transition that the busy module holds up, and of its being turned round.
entered="$(insmod_line $BUSY_MOD block_transition=Y)
$BUSY_MOD: ${BUSY_MOD}_init
$BUSY_MOD: busymod_work_func enter"
stalled="$entered
$(insmod_line $BUSY)
livepatch: enabling patch '$BUSY'
livepatch: '$BUSY': initializing patching transition
livepatch: '$BUSY': starting patching transition"
reversed="% echo 0 > $SYSFS_KLP_DIR/$BUSY/enabled
livepatch: '$BUSY': reversing transition from patching to unpatching
livepatch: '$BUSY': starting unpatching transition
livepatch: '$BUSY': completing unpatching transition
livepatch: '$BUSY': unpatching complete
% rmmod $BUSY
% rmmod $BUSY_MOD
$BUSY_MOD: busymod_work_func exit
$BUSY_MOD: ${BUSY_MOD}_exit"

start_test "module loaded before and after"

load_lp $B1
load_mod $TARGET_MOD
load_lp $TARGET
check_sysfs_value $TARGET $TARGET_MOD/patched 1
shows $TARGET_MOD $TARGET
unload_mod $TARGET_MOD
check_sysfs_value $TARGET $TARGET_MOD/patched 0
load_mod $TARGET_MOD
check_sysfs_value $TARGET $TARGET_MOD/patched 1
shows $TARGET_MOD $TARGET
shows meminfo $B1
disable_lp $TARGET
shows $TARGET_MOD original
unload_lp $TARGET
unload_mod $TARGET_MOD
disable_lp $B1
unload_lp $B1

check_result "$(insmod_line $B1)
$(patching $B1)
$(insmod_line $TARGET_MOD)
$TARGET_MOD: ${TARGET_MOD}_init
$(insmod_line $TARGET)
$(patching $TARGET)
% rmmod $TARGET_MOD
$TARGET_MOD: ${TARGET_MOD}_exit
livepatch: reverting patch '$TARGET' on unloading module '$TARGET_MOD'
$(insmod_line $TARGET_MOD)
livepatch: applying patch '$TARGET' to loading module '$TARGET_MOD'
$TARGET_MOD: ${TARGET_MOD}_init
$(unpatching $TARGET)
% rmmod $TARGET
% rmmod $TARGET_MOD
$TARGET_MOD: ${TARGET_MOD}_exit
$(unpatching $B1)
% rmmod $B1"


start_test "reversed in the middle"

load_lp $B1
load_mod $BUSY_MOD block_transition=Y
load_lp_nowait $BUSY
wait_transition $BUSY 1 "no transition"
# Number, name, for how long, where.
sleep 3
seconds=$(sed -n 's/^[0-9][0-9]* kworker[^ ]* \([0-9][0-9]*\)s in busymod_work_func$/\1/p' \
	"$SYSFS_DEBUG_DIR/livepatch/blockers")
[[ -n "$seconds" ]] || die "the blocking task is not listed"
(( seconds >= 2 && seconds <= 60 )) || die "it has blocked for $seconds s"
shows meminfo $B1
disable_lp $BUSY
unload_lp $BUSY
unload_mod $BUSY_MOD
shows loadavg original
shows meminfo $B1
disable_lp $B1
unload_lp $B1

check_result "$(insmod_line $B1)
$(patching $B1)
$stalled
$reversed
$(unpatching $B1)
% rmmod $B1"


start_test "another set has to wait"

load_mod $BUSY_MOD block_transition=Y
load_lp_nowait $BUSY
load_failing_mod $B1
disable_lp $BUSY
unload_lp $BUSY
unload_mod $BUSY_MOD

check_result "$stalled
$(insmod_line $B1)
insmod: ERROR: could not insert module test_modules/$B1.ko: Device or resource busy
$reversed"


start_test "forced: the replaced patch stays for ever, the new one and the other set do not"

load_lp $B1
load_lp $PINNED
load_mod $BUSY_MOD block_transition=Y
load_lp_nowait $BUSY
log "% echo 1 > $SYSFS_KLP_DIR/$BUSY/force"
echo 1 > "$SYSFS_KLP_DIR/$BUSY/force"
wait_transition $BUSY 0 "force did not end the transition"
wait_replaced $PINNED
shows meminfo $B1
shows loadavg $BUSY
shows cmdline original
sleep 1
[[ "$(cat /sys/module/$PINNED/refcnt)" != 0 ]] || die "the forced patch can be unloaded"
unload_mod $BUSY_MOD
disable_lp $BUSY
unload_lp $BUSY
disable_lp $B1
unload_lp $B1

check_result "$(insmod_line $B1)
$(patching $B1)
$(insmod_line $PINNED)
$(patching $PINNED 501)
$entered
$(insmod_line $BUSY)
livepatch: enabling patch '$BUSY'
livepatch: '$BUSY': initializing patching transition
$PINNED: state 501: pre_unpatch
livepatch: '$BUSY': starting patching transition
% echo 1 > $SYSFS_KLP_DIR/$BUSY/force
livepatch: forcing remaining tasks to the patched state
livepatch: '$BUSY': completing patching transition
$PINNED: state 501: post_unpatch
$PINNED: shadow variable freed
livepatch: '$BUSY': patching complete
% rmmod $BUSY_MOD
$BUSY_MOD: busymod_work_func exit
$BUSY_MOD: ${BUSY_MOD}_exit
livepatch: reverting patch '$BUSY' on unloading module '$BUSY_MOD'
$(unpatching $BUSY)
% rmmod $BUSY
$(unpatching $B1)
% rmmod $B1"

exit 0
