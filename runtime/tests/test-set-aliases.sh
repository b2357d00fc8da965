#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Replace sets and functions with several names: the address counts.

. $(dirname $0)/functions.sh
. $(dirname $0)/set-functions.sh

# What getppid() says to a new process: a livepatch's number, or the truth.
ppid_is() {
	local ppid
	ppid=$(bash -c 'echo $PPID')
	case "$1" in
	original) [[ "$ppid" -lt 5000000 ]] ;;
	*) [[ "$ppid" == "$1" ]] ;;
	esac || die "getppid() is $ppid, expected $1"
}

address_of() { grep " $1\$" /proc/kallsyms | cut -d ' ' -f 1; }

setup_config
[[ "$(address_of __do_sys_getppid)" == "$(address_of __x64_sys_getppid)" ]] || skip "getppid has one name only"

start_test "another name for a function of another set is refused"

load_lp $ALIAS1
ppid_is 5000001
load_failing_mod $ALIAS2
ppid_is 5000001
order $ALIAS1
# The same patch in the same set is a replacement.
load_lp $ALIAS2 set=5
wait_replaced $ALIAS1
ppid_is 5000002
unload_lp $ALIAS1
disable_lp $ALIAS2
ppid_is original
unload_lp $ALIAS2

check_result "$(insmod_line $ALIAS1)
$(patching $ALIAS1)
$(insmod_line $ALIAS2)
livepatch: patch '$ALIAS2' (set 6) modifies function '__x64_sys_getppid,1' of 'vmlinux', which patch '$ALIAS1' (set 5) modifies as '__do_sys_getppid,1'
insmod: ERROR: could not insert module test_modules/$ALIAS2.ko: Invalid parameters
$(insmod_line $ALIAS2 set=5)
$(patching $ALIAS2)
% rmmod $ALIAS1
$(unpatching $ALIAS2)
% rmmod $ALIAS2"


start_test "one patch, two names: one replacement is fine, two are refused"

load_failing_mod $ALIAS_TWO
ppid_is original
load_lp $ALIAS_ONE
ppid_is 5000003
load_lp $ALIAS1 set=6
wait_replaced $ALIAS_ONE
ppid_is 5000001
unload_lp $ALIAS_ONE
disable_lp $ALIAS1
ppid_is original
unload_lp $ALIAS1

check_result "$(insmod_line $ALIAS_TWO)
livepatch: patch '$ALIAS_TWO' modifies one function of 'vmlinux' twice, as '__do_sys_getppid,1' and as '__x64_sys_getppid,1'
insmod: ERROR: could not insert module test_modules/$ALIAS_TWO.ko: Invalid parameters
$(insmod_line $ALIAS_ONE)
$(patching $ALIAS_ONE)
$(insmod_line $ALIAS1 set=6)
$(patching $ALIAS1)
% rmmod $ALIAS_ONE
$(unpatching $ALIAS1)
% rmmod $ALIAS1"


start_test "two sets that meet in a module refuse the module"

load_lp $NAMED1
load_lp $NAMED2
load_failing_mod $NAMED_MOD
order $NAMED1 $NAMED2
shows uptime $NAMED1
shows loadavg $NAMED2
disable_lp $NAMED2
unload_lp $NAMED2
load_mod $NAMED_MOD
shows $NAMED_MOD $NAMED1
load_failing_mod $NAMED2
shows $NAMED_MOD $NAMED1
# In the same set it is a replacement, here too.
load_lp $NAMED2 set=5
wait_replaced $NAMED1
shows $NAMED_MOD $NAMED2
unload_lp $NAMED1
disable_lp $NAMED2
unload_lp $NAMED2
unload_mod $NAMED_MOD

conflict="livepatch: patch '$NAMED2' (set 6) modifies function 'test_klp_set_second_name,1' of '$NAMED_MOD', which patch '$NAMED1' (set 5) modifies as 'test_klp_set_first_name,1'"
check_result "$(insmod_line $NAMED1)
$(patching $NAMED1)
$(insmod_line $NAMED2)
$(patching $NAMED2)
$(insmod_line $NAMED_MOD)
livepatch: applying patch '$NAMED1' to loading module '$NAMED_MOD'
$conflict
livepatch: failed to initialize patch '$NAMED2' for module '$NAMED_MOD' (-22)
livepatch: patch '$NAMED2' failed for module '$NAMED_MOD', refusing to load module '$NAMED_MOD'
livepatch: reverting patch '$NAMED1' on unloading module '$NAMED_MOD'
insmod: ERROR: could not insert module test_modules/$NAMED_MOD.ko: Invalid parameters
$(unpatching $NAMED2)
% rmmod $NAMED2
$(insmod_line $NAMED_MOD)
livepatch: applying patch '$NAMED1' to loading module '$NAMED_MOD'
$(insmod_line $NAMED2)
$conflict
insmod: ERROR: could not insert module test_modules/$NAMED2.ko: Invalid parameters
$(insmod_line $NAMED2 set=5)
$(patching $NAMED2)
% rmmod $NAMED1
$(unpatching $NAMED2)
% rmmod $NAMED2
% rmmod $NAMED_MOD"

exit 0
