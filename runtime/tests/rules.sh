# SPDX-License-Identifier: GPL-2.0-only
# The rules of replace sets, with livepatches made by klp-build: /klp-slow.ko and /klp-meminfo.ko are two versions of set 2,
# /klp-version.ko is set 1, /klp-apart.ko modifies what /klp-meminfo.ko does and is set 3, /klp-state.ko has its state and
# is set 4, /klp-refused.ko is set 5. Sourced after case.sh, which has load and unload. The first line that fails ends it.

KLP=/sys/kernel/livepatch

fail() { echo "FAILED: $*"; exit 1; }
is() { [ "$1" = "$2" ] || fail "'$1' is not '$2': $3"; }
shows() { grep -q "$2" "/proc/$1" || fail "/proc/$1 does not show '$2'"; }
original() { ! grep -q -e livepatched -e slow -e MemUsable "/proc/$1" || fail "/proc/$1 is not the original"; }
# said COUNT TEXT: so often in the log since the last mark.
mark() { mark=$((${mark:-0} + 1)); echo "rules: mark $mark" > /dev/kmsg; }
count() { dmesg | sed "1,/rules: mark $mark\$/d" | grep -cF "$1"; }
said() { is "$(count "$2")" "$1" "the log on '$2'"; }
# refuses FILE TEXT: does not load, and the log says why. busybox tries twice, by file and by memory.
refuses() {
    mark
    ! insmod "$1" 2> /tmp/error || fail "$1 was loaded"
    [ ! -d "$KLP/$(module_name "$1")" ] || fail "$1 is in sysfs"
    [ "$(count "$2")" -ge 1 ] || fail "the log does not say '$2'"
}

mark
load /klp-version.ko && load /klp-slow.ko || fail "two sets"
shows version livepatched
shows loadavg slow
said 1 "state 501 begins"
is "$(cat $KLP/klp_version/replace_set) $(cat $KLP/klp_slow/replace_set) $(cat $KLP/klp_slow/replace)" "1 2 2" "sets in sysfs"
is "$(cat $KLP/klp_version/stack_order) $(cat $KLP/klp_slow/stack_order)" "1 2" "order in sysfs"
is "$(cat $KLP/klp_slow/enabled) $(cat $KLP/klp_slow/transition) $(cat $KLP/klp_slow/vmlinux/patched)" "1 0 1" "sysfs"
echo "two sets side by side: ok"

# A reader sleeps in the function that goes: the transition waits for it, is turned round, and all is as before.
cat /proc/loadavg > /dev/null &
reader=$!
sleep 1
insmod /klp-meminfo.ko || fail "the second version"
is "$(cat $KLP/klp_meminfo/transition)" 1 "no transition"
grep -q "^$reader cat [0-9]*s in loadavg_proc_show\$" /sys/kernel/debug/livepatch/blockers || fail "the reader is not listed"
echo 0 > $KLP/klp_meminfo/enabled
wait_for "[ ! -d $KLP/klp_meminfo ]" || fail "reversing"
wait $reader
wait_for "rmmod klp_meminfo 2> /tmp/error" || fail "unloading"
shows loadavg slow
original meminfo
shows version livepatched
said 1 "state 501 begins"
said 0 "state 501 ends"
said 0 "shadow variable freed"
echo "reversed in the middle: ok"

load /klp-meminfo.ko || fail "the second version"
wait_for "[ ! -d $KLP/klp_slow ]" || fail "the first version stays"
shows meminfo MemUsable
original loadavg
shows version livepatched
wait_for "rmmod klp_slow 2> /tmp/error" || fail "unloading"
said 1 "state 501 begins"
said 0 "state 501 ends"
said 0 "shadow variable freed"
echo "rule 1, a set replaces its own; rule 5, a state is handed on: ok"

refuses /klp-apart.ko "patch 'klp_apart' (set 3) modifies function 'meminfo_proc_show,1' of 'vmlinux', which patch 'klp_meminfo' (set 2)"
refuses /klp-state.ko "patch 'klp_state' (set 4) has state 501, which patch 'klp_meminfo' (set 2) has"
refuses /klp-slow.ko "patch 'klp_slow' cannot take over state 501 of patch 'klp_meminfo'"
original cmdline
shows meminfo MemUsable
echo "rule 2, sets have nothing in common: ok"

refuses /klp-refused.ko "pre-patch callback failed for state 602 of patch 'klp_refused'"
original cmdline
begins=$(count "state 601 begins")
[ "$begins" -ge 1 ] || fail "the first state was not there"
said "$begins" "state 601 ends"
said "$begins" "shadow variable freed"
echo "rule 5, a failing callback takes the others back: ok"

mark
unload /klp-version.ko || fail "disabling the first set"
original version
unload /klp-meminfo.ko || fail "disabling the second set"
original meminfo
said 1 "state 501 ends"
said 1 "shadow variable freed"
load /klp-state.ko || fail "the state is free"
unload /klp-state.ko || fail "unloading"
load /klp-apart.ko && unload /klp-apart.ko || fail "the function is free"
echo "rule 5, a state ends once: ok"

mark
load /klp-version.ko && load /klp-slow.ko || fail "two sets"
cat /proc/loadavg > /dev/null &
reader=$!
sleep 1
insmod /klp-meminfo.ko || fail "the second version"
is "$(cat $KLP/klp_meminfo/transition)" 1 "no transition"
echo 1 > $KLP/klp_meminfo/force
wait_for "[ ! -d $KLP/klp_slow ]" || fail "force does not end the transition"
wait $reader
[ "$(cat /sys/module/klp_slow/refcnt)" != 0 ] || fail "the forced patch can be unloaded"
shows version livepatched
unload /klp-meminfo.ko || fail "the new patch stays"
unload /klp-version.ko || fail "the other set stays"
[ ! -d /sys/module/klp_meminfo ] && [ ! -d /sys/module/klp_version ] || fail "modules stay"
echo "rule 3, force keeps what is replaced and nothing else: ok"
