#!/bin/sh
# In the emulated host, under its real systemd: what all steps use. They leave a line for each check: "ok NAME", or
# "FAILED NAME: WHY".
share=/lab
out=$share/out
say() { echo "lab: step: $1" >/dev/console; }
check() {
    name=$1
    shift
    if why=$("$@" 2>&1); then
        echo "ok $name" >>$out/checks.txt
    else
        echo "FAILED $name: $(echo "$why" | tail -n 5 | tr '\n' ' ')" >>$out/checks.txt
    fi
}
within() {
    seconds=$1
    shift
    until "$@"; do
        seconds=$((seconds - 1))
        [ $seconds -gt 0 ] || return 1
        sleep 1
    done
}
not() { ! "$@"; }
the_end() {
    cat $out/checks.txt
    sync
    cd /
    umount $share
    echo "LAB DONE ok" >/dev/console
    systemctl poweroff --force
}
: >$out/checks.txt
