#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Two sets enabled, replaced, reversed and disabled over and over, with threads in the patched functions and a patched
# module that comes and goes: nothing hangs, nothing is left. THREADS and CYCLES say how much.

. $(dirname $0)/functions.sh
. $(dirname $0)/set-functions.sh

THREADS=${THREADS:-100}
CYCLES=${CYCLES:-5}

# What the kernel's caches hold, in kilobytes, once what waits for a grace period is gone.
slab() {
	sleep 3
	sync
	echo 3 > /proc/sys/vm/drop_caches
	sed -n 's/^Slab: *\([0-9]*\) kB/\1/p' /proc/meminfo
}

gone() { [[ ! -e "$SYSFS_KLP_DIR/$1" ]]; }
load() { insmod "test_modules/$1.ko" 2>/dev/null; }
unload() { [[ ! -e "/sys/module/$1" ]] || rmmod "$1" 2>/dev/null; }
settle() { loop_until '! grep -qs 1 $SYSFS_KLP_DIR/*/transition' || die "a transition does not end"; }

cycle() {
	load $A1
	[[ $(($1 % 3)) == 0 ]] || settle
	# Refused while the first one moves.
	load $B1 || { settle; load $B1; }
	[[ $(($1 % 2)) == 0 ]] || { load $TARGET_MOD; cat /proc/$TARGET_MOD > /dev/null; }
	# Turned round, wherever it is.
	echo 0 > "$SYSFS_KLP_DIR/$B1/enabled"
	echo 1 > "$SYSFS_KLP_DIR/$B1/enabled" 2>/dev/null
	settle
	load $A2
	load $TARGET || { settle; load $TARGET; }
	[[ $(($1 % 2)) == 1 ]] || load $TARGET_MOD
	settle
	loop_until "gone $A1" || die "$A1 was not replaced"
	unload $TARGET_MOD
	for name in $A2 $B1 $TARGET; do
		if ! gone $name; then
			echo 0 > "$SYSFS_KLP_DIR/$name/enabled"
			loop_until "gone $name" || die "$name was not disabled"
		fi
	done
	for name in $A1 $A2 $B1 $TARGET; do
		loop_until "unload $name; [[ ! -e /sys/module/$name ]]" || die "$name was not unloaded"
	done
}

echo -n "TEST: $CYCLES cycles, $THREADS threads ... "
cycle 0
cycle 1
coproc ./threads "$THREADS" read
read -r -u "${COPROC[0]}" word
[[ "$word" == ready ]] || die "no threads"
before=$(slab)
for ((i = 0; i < CYCLES; i++)); do
	cycle $i
done
after=$(slab)
kill "$COPROC_PID"
[[ -z "$(ls "$SYSFS_KLP_DIR")" ]] || die "livepatches are left: $(ls "$SYSFS_KLP_DIR")"
# A leak of one kilobyte a cycle would show; caches that grow on their own stay below that.
[[ $((after - before)) -lt $((400 + CYCLES)) ]] || die "slab grew from $before to $after kB"
echo "ok (slab $before -> $after kB)"
exit 0
