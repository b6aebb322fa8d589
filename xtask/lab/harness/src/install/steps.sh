# What an operator does with the package, and what must hold after each step.
unit=poisontrace
metrics=http://127.0.0.1:9847/metrics

# Sum over the series that begin so.
metric() { curl -sf ${2:-$metrics} | awk -v want="$1" 'index($0, want) == 1 { sum += $NF } END { print sum + 0 }'; }
at_least_one() {
    value=$(metric "$@")
    echo "$1 is $value"
    awk -v value="$value" 'BEGIN { exit !(value > 0) }'
}
property() { systemctl show -P "$1" $unit; }
status_of_daemon() { cat "/proc/$(property MainPID)/status"; }
running() { systemctl is-active --quiet $unit; }
every_row_attached() {
    missing=$(curl -sf $metrics | grep '^poisontrace_probe_attached.* 0$')
    [ -z "$missing" ] || { echo "$missing"; return 1; }
    at_least_one poisontrace_probe_attached
}
exposure_is_low() {
    systemd-analyze security --no-pager $unit >$out/security.txt 2>&1
    last=$(tail -n 1 $out/security.txt)
    echo "$last"
    echo "$last" | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^[0-9.]+$/) exit !($i <= 2.0); exit 1 }'
}
pinged() { [ "$(property WatchdogTimestampMonotonic)" -gt "$(property ActiveEnterTimestampMonotonic)" ]; }
logged() { journalctl -u $unit --no-pager | grep -q "$1"; }
logged_end() { journalctl -u $unit POISONTRACE_STATE=close -o cat --no-pager | grep -q .; }
# Its output is in a failed check's line, too.
vmm() {
    output=$(timeout -k 10 300 $share/bin/storm-vmm "$1" 2>&1)
    status=$?
    echo "$output" | tee -a $out/vmm.txt
    return $status
}
poison() { vmm '{"mode":"step-over","instruction":"load","exits":64}'; }
pinned() { ls /sys/fs/bpf/poisontrace/layout-*/daemon-*/ARMED; }
# 0: of one that has just died.
another_than() {
    running || return 1
    pid=$(property MainPID)
    [ "$pid" != 0 ] && [ "$pid" != "$1" ] && curl -sf http://127.0.0.1:9847/-/ready
}
opened() { awk -v all="$(metric poisontrace_incidents_opened_total)" -v n="$1" 'BEGIN { exit !(all >= n) }'; }

# `poisontrace check` without root, with these capabilities.
with() {
    list=$(echo "$1" | sed 's/[a-z_][a-z_]*/+&/g')
    shift
    setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps "-all,$list" --ambient-caps "-all,$list" "$@"
}
a_vcpu_is_there() { ls -l "/proc/$(pgrep -x storm-vmm)/fd" 2>/dev/null | grep -q kvm-vcpu; }
refused() { not poisontrace_check "$1"; }
poisontrace_check() { with "$1" poisontrace check; }
# A second daemon, whose VMs are looked for by /proc/PID/fd; a VMM that lives meanwhile.
vms_seen() {
    with "$1" poisontrace run --state-dir "/run/second/of-$2" --web.listen-address 127.0.0.1:9848 >$out/second.txt 2>&1 &
    second=$!
    within 60 curl -sf -o /run/second/metrics http://127.0.0.1:9848/metrics
    seen=$(metric 'poisontrace_vms ' http://127.0.0.1:9848/metrics)
    pkill -TERM -f 127.0.0.1:9848
    wait $second
    echo "$seen VMs seen with $1"
    [ "$seen" = "$2" ]
}

# Whether all exits that the last VMM counted are in the last incident, each of them a read of a known page.
counted_as_the_vmm_did() {
    counted=$(grep -o '"exits":[0-9]*' $out/vmm.txt | tail -n 1 | cut -d : -f 2)
    exits=$(poisontrace explain --last --format json | tr -d ' \n' | grep -o '"exits":{"count":[^}]*}')
    echo "the VMM counted $counted, poisontrace $exits"
    echo "$exits" | grep -q "\"count\":$counted,.*\"read\":$counted,"
}

found() { find / -xdev \( -path /proc -o -path $share -o -path /usr/local \) -prune -o -name '*poisontrace*' -print 2>/dev/null; }
nothing_left() {
    left=$(found | grep -v -e '^/var/log/' -e '^/var/cache/' -e '^/var/lib/dpkg/' -e '^/tmp/')
    [ -z "$left" ] || { echo "$left"; return 1; }
    [ ! -e /sys/fs/bpf/poisontrace ] || { echo "pins are left"; return 1; }
}

