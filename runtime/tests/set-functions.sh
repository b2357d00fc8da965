# SPDX-License-Identifier: GPL-2.0-only
# What the set scripts share. Sourced after functions.sh.

A1=test_klp_set_a1
A2=test_klp_set_a2
B1=test_klp_set_b1
B2=test_klp_set_b2
C=test_klp_set_c
PINNED=test_klp_set_pinned
D=test_klp_set_d
TARGET=test_klp_set_target
TARGET_MOD=test_klp_mod_target
BUSY=test_klp_set_busy
HELD=test_klp_set_held
BUSY_MOD=test_klp_callbacks_busy
ALIAS1=test_klp_set_alias1
ALIAS2=test_klp_set_alias2
ALIAS_ONE=test_klp_set_alias_one
ALIAS_TWO=test_klp_set_alias_two
NAMED1=test_klp_set_named1
NAMED2=test_klp_set_named2
NAMED_MOD=test_klp_set_named

# shows FILE NAME: the /proc file is the one of that patch, or the kernel's own with "original".
shows() {
	local text
	text=$(cat "/proc/$1")
	case "$2" in
	original) [[ "$text" != test_klp_set_* ]] ;;
	*) [[ "$text" == "$2" ]] ;;
	esac || die "/proc/$1 is '$text', expected $2"
}

# order NAME...: these are the livepatches in sysfs, in this order of enabling.
order() {
	local i=0 name
	[[ "$(ls "$SYSFS_KLP_DIR" | wc -l)" == "$#" ]] || die "livepatches: $(ls "$SYSFS_KLP_DIR" | tr '\n' ' '), expected $*"
	for name; do
		i=$((i + 1))
		check_sysfs_value "$name" stack_order "$i"
	done
}

# The log of a patch that comes, and of one that goes; STATES are the numbers of those that come or go with it.
patching() {
	local name=$1 state
	shift
	echo "livepatch: enabling patch '$name'"
	echo "livepatch: '$name': initializing patching transition"
	for state; do echo "$name: state $state: pre_patch"; done
	echo "livepatch: '$name': starting patching transition"
	echo "livepatch: '$name': completing patching transition"
	for state; do echo "$name: state $state: post_patch"; done
	echo "livepatch: '$name': patching complete"
}

unpatching() {
	local name=$1 state
	shift
	echo "% echo 0 > $SYSFS_KLP_DIR/$name/enabled"
	echo "livepatch: '$name': initializing unpatching transition"
	for state; do echo "$name: state $state: pre_unpatch"; done
	echo "livepatch: '$name': starting unpatching transition"
	echo "livepatch: '$name': completing unpatching transition"
	for state; do echo "$name: state $state: post_unpatch"; echo "$name: shadow variable freed"; done
	echo "livepatch: '$name': unpatching complete"
}

insmod_line() { echo "% insmod test_modules/$1.ko${2:+ $2}"; }

# wait_replaced NAME: another livepatch of its set takes its place.
wait_replaced() {
	loop_until "[[ ! -e '$SYSFS_KLP_DIR/$1' ]]" || die "$1 was not replaced"
}

# wait_transition NAME VALUE WHY: the livepatch is in transition (1), or no longer (0).
wait_transition() {
	loop_until "grep -q '^$2\$' '$SYSFS_KLP_DIR/$1/transition'" || die "$3"
}
