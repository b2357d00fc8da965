#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Replace sets: which livepatches live together, and which replace which.

. $(dirname $0)/functions.sh
. $(dirname $0)/set-functions.sh

setup_config

start_test "two sets side by side, disabled in any order"

load_lp $A1
load_lp $B1
shows cmdline $A1
shows version $A1
shows meminfo $B1
order $A1 $B1
check_sysfs_value $A1 replace 1
check_sysfs_value $B1 replace 2
check_sysfs_value $A1 replace_set 1
check_sysfs_value $B1 replace_set 2
disable_lp $A1
shows cmdline original
shows meminfo $B1
order $B1
unload_lp $A1
disable_lp $B1
shows meminfo original
unload_lp $B1

check_result "$(insmod_line $A1)
$(patching $A1 101)
$(insmod_line $B1)
$(patching $B1)
$(unpatching $A1 101)
% rmmod $A1
$(unpatching $B1)
% rmmod $B1"


start_test "replace within one set, the other untouched"

load_lp $A1
load_lp $B1
load_lp $A2
wait_replaced $A1
shows cmdline $A2
# It is not in the new one: back to the original.
shows version original
shows meminfo $B1
order $B1 $A2
unload_lp $A1
load_lp $B2
wait_replaced $B1
shows meminfo original
shows uptime $B2
shows cmdline $A2
order $A2 $B2
unload_lp $B1
disable_lp $B2
unload_lp $B2
disable_lp $A2
unload_lp $A2

check_result "$(insmod_line $A1)
$(patching $A1 101)
$(insmod_line $B1)
$(patching $B1)
$(insmod_line $A2)
$(patching $A2 102)
% rmmod $A1
$(insmod_line $B2)
$(patching $B2)
% rmmod $B1
$(unpatching $B2)
% rmmod $B2
$(unpatching $A2 101 102)
% rmmod $A2"


start_test "a downgrade: an older version of a set replaces the newer one"

load_lp $A1
load_lp $B2
load_lp $B1
wait_replaced $B2
shows meminfo $B1
shows uptime original
shows cmdline $A1
order $A1 $B1
unload_lp $B2
disable_lp $B1
unload_lp $B1
disable_lp $A1
unload_lp $A1

check_result "$(insmod_line $A1)
$(patching $A1 101)
$(insmod_line $B2)
$(patching $B2)
$(insmod_line $B1)
$(patching $B1)
% rmmod $B2
$(unpatching $B1)
% rmmod $B1
$(unpatching $A1 101)
% rmmod $A1"


start_test "files of sysfs"

load_lp $A1
load_lp $TARGET
check_sysfs_rights $A1 "" "drwxr-xr-x"
check_sysfs_rights $A1 enabled "-rw-r--r--"
check_sysfs_rights $A1 force "--w-------"
for file in transition replace replace_set stack_order vmlinux/patched; do
	check_sysfs_rights $A1 $file "-r--r--r--"
done
check_sysfs_value $A1 enabled 1
check_sysfs_value $A1 transition 0
check_sysfs_value $A1 vmlinux/patched 1
check_sysfs_value $TARGET replace_set 6
check_sysfs_value $TARGET stack_order 2
check_sysfs_value $TARGET $TARGET_MOD/patched 0
disable_lp $A1
check_sysfs_value $TARGET stack_order 1
unload_lp $A1
disable_lp $TARGET
unload_lp $TARGET

check_result "$(insmod_line $A1)
$(patching $A1 101)
$(insmod_line $TARGET)
$(patching $TARGET)
$(unpatching $A1 101)
% rmmod $A1
$(unpatching $TARGET)
% rmmod $TARGET"


start_test "reading does not wait for a long enable"

load_lp $B1
log "% insmod test_modules/$A1.ko pre_patch_ms=10000"
insmod test_modules/$A1.ko pre_patch_ms=10000 &
loader=$!
loop_until "[[ -e '$SYSFS_KLP_DIR/$A1/transition' ]]" || die "$A1 is not there"
sleep 1
began=$SECONDS
check_sysfs_value $B1 enabled 1
check_sysfs_value $B1 transition 0
check_sysfs_value $B1 vmlinux/patched 1
check_sysfs_value $A1 enabled 0
check_sysfs_value $A1 transition 1
[[ $((SECONDS - began)) -lt 5 ]] || die "reading took $((SECONDS - began)) seconds"
wait $loader || die "$A1 was not loaded"
wait_transition $A1 0 "the transition does not end"
check_sysfs_value $A1 enabled 1
disable_lp $A1
unload_lp $A1
disable_lp $B1
unload_lp $B1

check_result "$(insmod_line $B1)
$(patching $B1)
$(insmod_line $A1 pre_patch_ms=10000)
$(patching $A1 101)
$(unpatching $A1 101)
% rmmod $A1
$(unpatching $B1)
% rmmod $B1"


start_test "a function of another set is refused"

load_lp $B1
load_failing_mod $C
shows meminfo $B1
shows loadavg original
order $B1
# The same patch in the same set is a replacement.
load_lp $C set=2
wait_replaced $B1
shows meminfo $C
unload_lp $B1
disable_lp $C
unload_lp $C

check_result "$(insmod_line $B1)
$(patching $B1)
$(insmod_line $C)
livepatch: patch '$C' (set 3) modifies function 'meminfo_proc_show,1' of 'vmlinux', which patch '$B1' (set 2) modifies
insmod: ERROR: could not insert module test_modules/$C.ko: Invalid parameters
$(insmod_line $C set=2)
$(patching $C)
% rmmod $B1
$(unpatching $C)
% rmmod $C"


start_test "a state of another set is refused"

load_lp $A1
load_failing_mod $D
order $A1
shows loadavg original
disable_lp $A1
unload_lp $A1
load_lp $D
disable_lp $D
unload_lp $D

check_result "$(insmod_line $A1)
$(patching $A1 101)
$(insmod_line $D)
livepatch: patch '$D' (set 4) has state 101, which patch '$A1' (set 1) has
livepatch: Livepatch patch ($D) is not compatible with the already installed livepatches.
insmod: ERROR: could not insert module test_modules/$D.ko: Invalid parameters
$(unpatching $A1 101)
% rmmod $A1
$(insmod_line $D)
$(patching $D 101)
$(unpatching $D 101)
% rmmod $D"


start_test "a malformed patch is refused before its set is looked at"

load_lp $B1
load_failing_mod test_klp_set_bad set=2
shows meminfo $B1
order $B1
disable_lp $B1
unload_lp $B1

check_result "$(insmod_line $B1)
$(patching $B1)
$(insmod_line test_klp_set_bad set=2)
insmod: ERROR: could not insert module test_modules/test_klp_set_bad.ko: Invalid parameters
$(unpatching $B1)
% rmmod $B1"

exit 0
