# SPDX-License-Identifier: GPL-2.0-or-later
# What single guests do before they are recorded; each function is a step of guests.py.
tracing=/sys/kernel/tracing

show_addresses() {
    echo 1 >/proc/sys/kernel/kptr_restrict
}

# Leaves a trampoline page.
trace_functions() {
    mountpoint -q $tracing || mount -t tracefs tracefs $tracing
    echo 'vfs_*' >$tracing/set_ftrace_filter
    echo function >$tracing/current_tracer && sleep 1
    echo nop >$tracing/current_tracer
    echo >$tracing/set_ftrace_filter
}

# One probe on a function's entry (by ftrace), one in the middle (needs an instruction slot).
probe() {
    mountpoint -q $tracing || mount -t tracefs tracefs $tracing
    echo 'p:corpus/entry vfs_read' >$tracing/kprobe_events || return
    local offset
    for offset in $(seq 12 60); do
        echo "p:corpus/middle vfs_read+$offset" 2>/dev/null >>$tracing/kprobe_events && break
    done
    echo 1 >$tracing/events/corpus/enable
    grep -q middle $tracing/kprobe_events
}

# The programs live as long as this process: to the end.
load_bpf() {
    ip link add corpus0 type veth peer name corpus1
    python3 bpf.py ready &
    local second
    for second in $(seq 60); do
        [ -e ready ] && break
        sleep 1
    done
    [ -e ready ] && ip link set dev corpus0 xdpdrv pinned /sys/fs/bpf/corpus_xdp
}

remove_modules() {
    local module
    for module in $REMOVED_MODULES; do
        modprobe -r "$module" || echo "cannot remove $module"
    done
    sleep 3
}

# Every module Live, and the same list for five seconds.
settle() {
    local before=none now quiet=0 second
    for second in $(seq 120); do
        now=$(awk '{ print $1, $2, $5, $6 } $5 != "Live" { print "busy", NR }' /proc/modules)
        if [ "$now" = "$before" ] && [[ $now != *busy* ]]; then quiet=$((quiet + 1)); else quiet=0; fi
        [ $quiet -ge 5 ] && return 0
        before=$now
        sleep 1
    done
    return 1
}
