# One case in the guest: load a livepatch, look, disable it, unload it, look again. Sourced; prints one line
# "@@step NAME STATUS" after the output of each step. The directory is given: optional snippets
#   setup     before anything else, teardown last
#   smoke     must succeed before, while and after
#   observe   must succeed only while the livepatch is loaded
#   loaded    must succeed while it is loaded
#   late      after the livepatch is loaded and before anything is looked at: what the others need is not there earlier
# and `modules`, the files to load in order. The host reads kernel messages between the two klp-case lines.

# Polls a condition for up to 60 s of guest time.
wait_for() {
    local tries=600
    while ! eval "$1"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "timeout waiting for: $1"; return 1; }
        sleep 0.1
    done
}

step() { # NAME COMMAND...
    local step_name=$1
    shift
    "$@" 2>&1
    echo "@@step $step_name $?"
}

expect_not() { # FILE
    if sh "$1"; then
        echo "succeeds without the livepatch"
        return 1
    fi
}

module_name() { basename "$1" .ko | tr - _; }

load() { # FILE
    insmod "$1" || return 1
    local klp=/sys/kernel/livepatch/$(module_name "$1")
    [ -d "$klp" ] || { echo "no $klp"; return 1; }
    wait_for "[ \"\$(cat $klp/transition)\" = 0 ]" && [ "$(cat "$klp/enabled")" = 1 ]
}

unload() { # FILE
    local name=$(module_name "$1")
    local klp=/sys/kernel/livepatch/$name
    if [ -d "$klp" ]; then
        echo 0 > "$klp/enabled" || return 1
        wait_for "[ ! -d $klp ]" || return 1
    fi
    [ ! -d "/sys/module/$name" ] && return 0
    # The directory goes a moment before the module's last reference does.
    wait_for "rmmod $name 2>/tmp/rmmod || [ ! -d /sys/module/$name ]" || { cat /tmp/rmmod; return 1; }
}

run_case() { # DIRECTORY
    local dir=$1 file files=""
    echo "@@case $(basename "$dir")"
    echo "klp-case begin $(basename "$dir")" > /dev/kmsg
    [ -f "$dir/setup" ] && step setup sh "$dir/setup"
    if [ ! -f "$dir/late" ]; then
        [ -f "$dir/smoke" ] && step smoke-before sh "$dir/smoke"
        [ -f "$dir/observe" ] && step observe-before expect_not "$dir/observe"
    fi
    while read -r file; do
        step load load "$file"
        files="$file $files"
    done < "$dir/modules"
    [ -f "$dir/late" ] && step late sh "$dir/late"
    [ -f "$dir/observe" ] && step observe sh "$dir/observe"
    [ -f "$dir/loaded" ] && step loaded sh "$dir/loaded"
    [ -f "$dir/smoke" ] && step smoke sh "$dir/smoke"
    for file in $files; do
        step unload unload "$file"
    done
    [ -f "$dir/observe" ] && step observe-after expect_not "$dir/observe"
    [ -f "$dir/smoke" ] && step smoke-after sh "$dir/smoke"
    [ -f "$dir/teardown" ] && step teardown sh "$dir/teardown"
    echo "klp-case end $(basename "$dir")" > /dev/kmsg
}
