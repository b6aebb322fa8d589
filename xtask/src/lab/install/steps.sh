#!/bin/sh
# In the emulated host, under its real systemd: what an operator does with the package, and what must hold after each step.
# One line a check: "ok NAME", or "FAILED NAME: WHY".
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
metric() { curl -sf http://127.0.0.1:9847/metrics | grep -F "$1" | tail -n 1; }
within() {
    seconds=$1
    shift
    until "$@"; do
        seconds=$((seconds - 1))
        [ $seconds -gt 0 ] || return 1
        sleep 1
    done
}
at_least_one() { [ "$(metric "$1" | awk '{ print int($NF) }')" -ge 1 ] 2>/dev/null; }
poison() { /lab/bin/storm-vmm '{"mode":"step-over","instruction":"load","exits":64}' >>$out/vmm.txt 2>&1; }
no_rights_kept() {
    status=/proc/$(systemctl show -P MainPID poisontrace)/status
    uid=$(awk '/^Uid:/ { print $2 }' "$status")
    [ "$uid" != 0 ] || { echo "runs as root"; return 1; }
    grep -q '^NoNewPrivs:[[:space:]]*1' "$status" || { echo "NoNewPrivs is 0"; return 1; }
}
found() { find / -xdev \( -path /proc -o -path /lab -o -path /usr/local \) -prune -o -name '*poisontrace*' -print 2>/dev/null; }
nothing_left() {
    left=$(found | grep -v -e '^/var/log/' -e '^/var/cache/' -e '^/var/lib/dpkg/' -e '^/tmp/')
    [ -z "$left" ] || { echo "$left"; return 1; }
}
logged_json() { journalctl -u poisontrace -o json --no-pager | grep -q '"POISONTRACE_JSON"'; }
reloaded() { journalctl -u poisontrace --no-pager | grep -q 'has been read again'; }

mkdir -p $share
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 lab $share || exit 1
: >$out/checks.txt

say "installing the package"
check installs dpkg -i $share/first.deb
check starts_by_itself within 120 systemctl is-active --quiet poisontrace
systemctl status --no-pager poisontrace >$out/status.txt 2>&1
check version_with_revision sh -c 'poisontrace --version | grep -Eq "^poisontrace [0-9.]+ \([0-9a-f]{7,}"'
check has_a_man_page test -s /usr/share/man/man1/poisontrace.1.gz
check healthy curl -sf http://127.0.0.1:9847/-/healthy
check ready curl -sf http://127.0.0.1:9847/-/ready
check scraped at_least_one 'poisontrace_build_info'
check runs_without_root no_rights_kept
check every_row_attached sh -c '! curl -sf http://127.0.0.1:9847/metrics | grep "^poisontrace_probe_attached.* 0$"'
check proved_live within 30 at_least_one 'poisontrace_probes_proved_live_timestamp_seconds'

say "poison"
check a_vm_is_poisoned poison
check poison_is_in_the_metrics within 30 at_least_one 'poisontrace_incidents_opened_total'
check poison_is_in_the_store sh -c 'poisontrace incidents | grep -q storm-vmm'
check poison_is_explained sh -c 'poisontrace explain --last >/lab/out/explain.txt'
check the_journal_has_the_incident within 20 logged_json

say "reload and upgrade"
check config_is_in_order poisontrace config check
check reloads systemctl reload poisontrace
check says_that_it_reloaded within 20 reloaded
check upgrades dpkg -i $share/second.deb
check runs_after_the_upgrade within 120 curl -sf http://127.0.0.1:9847/-/ready
check is_the_new_version sh -c "dpkg-query -W -f '\${Version}' poisontrace | grep -q upgrade"
check keeps_the_incidents sh -c 'poisontrace incidents | grep -q storm-vmm'
curl -sf http://127.0.0.1:9847/metrics >$out/metrics.txt
journalctl -u poisontrace --no-pager >$out/journal.txt
systemd-analyze security --no-pager poisontrace >$out/security.txt 2>&1

say "stop and purge"
check stops systemctl stop poisontrace
check stopped_in_good_order sh -c '[ "$(systemctl show -P Result poisontrace)" = success ]'
check purges dpkg --purge poisontrace
check leaves_nothing_behind nothing_left
cat $out/checks.txt
sync
umount $share
echo "LAB DONE ok" >/dev/console
systemctl poweroff --force
