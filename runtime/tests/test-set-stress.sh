#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Two sets enabled, replaced, reversed and disabled over and over, with threads in the patched functions and patched
# modules that come and go: nothing hangs, nothing is left. THREADS and CYCLES say how much, SEED which.

. $(dirname $0)/functions.sh

THREADS=${THREADS:-100}
CYCLES=${CYCLES:-5}
SEED=${SEED:-1}

# Objects in each of the kernel's caches, once what waits for a grace period is gone and what is only cached is freed.
slab() {
	sleep 5
	sync
	# What was used lately survives the first; inodes and dentries wait for a grace period.
	for i in 1 2 3; do
		echo 3 > /proc/sys/vm/drop_caches
		sleep 2
	done
	for cache in /sys/kernel/slab/*/shrink; do echo 1 > "$cache"; done
	sed -n 's/^\([^ #][^ ]*\) *\([0-9][0-9]*\) .*/\1 \2/p' /proc/slabinfo
}

kobjects() { find /sys -xdev -type d 2>/dev/null | wc -l; }

echo "TEST: $CYCLES cycles, $THREADS threads, seed $SEED"
# What is done is in its own lines; the log is for warnings.
echo N > /sys/module/printk/parameters/ignore_loglevel
dmesg -n 5
coproc ./threads "$THREADS" read
read -r -u "${COPROC[0]}" word
[[ "$word" == ready ]] || die "no threads"
# What is allocated once is allocated now.
./stress 3 "$((SEED + 1))" || die "the first cycles failed"
kobjects_before=$(kobjects)
slab > /before
./stress "$CYCLES" "$SEED" || { grep -H . "$SYSFS_KLP_DIR"/*/transition; cat "$SYSFS_DEBUG_DIR/livepatch/blockers"; die "failed"; }
kobjects_after=$(kobjects)
slab > /after
kill "$COPROC_PID"
[[ -z "$(ls "$SYSFS_KLP_DIR")" ]] || die "livepatches are left: $(ls "$SYSFS_KLP_DIR")"
[[ "$kobjects_after" == "$kobjects_before" ]] || die "$kobjects_before kobjects before, $kobjects_after after"
# An object a cycle would show in a long run; what comes and goes by itself stays below that.
grown=$(awk -v most="$((150 + CYCLES / 2))" \
	'NR == FNR { before[$1] = $2; next } $2 - before[$1] > most { print $1, before[$1], "->", $2 }' /before /after)
[[ -z "$grown" ]] || die "caches grew: $grown"
awk 'NR == FNR { before[$1] = $2; next } { d = $2 - before[$1]; if (d > most) { most = d; name = $1 } }
	END { print "ok: kobjects as before; the cache that grew most:", name, most + 0 }' /before /after
exit 0
