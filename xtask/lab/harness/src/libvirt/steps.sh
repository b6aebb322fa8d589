# libvirt as Debian has it, its guests' poison, and poisontrace beside it: first as a service, then as a node's container.
unit=poisontrace
qemu_log=/var/log/libvirt/qemu
images=/var/lib/libvirt/images
ready='guest: page ready gpa='
alive='guest: still alive after poison'

healthy() { curl -sf -o /dev/null http://127.0.0.1:9847/-/ready; }
number_of() { cat "/run/libvirt/qemu/$1.pid"; }
printed() { grep -aq "$2" "$1"; }
stopped() { [ "$(virsh domstate "$1")" = "shut off" ]; }
confined() { grep -q '^libvirt-.* (enforce)$' "/proc/$(number_of "$1")/attr/current"; }
recorded() { poisontrace explain --vm "$1" --format json >"$out/$2" 2>&1 && grep -q "\"$3\"" "$out/$2"; }
# Page frame behind an address of a process. QEMU itself may not know it: libvirt's runs without rights.
frame() {
    entry=$(dd if="/proc/$1/pagemap" bs=8 skip=$(($2 >> 12)) count=1 2>/dev/null | od -An -td8)
    printf '0x%x' $((entry & 0x7fffffffffffff))
}
# The kernel takes the page out of use; then there is time for what comes of that alone.
poison() {
    echo "$1" >/sys/kernel/debug/hwpoison/corrupt-pfn || return 1
    sleep 2
}
guest_page() { sed -n "s/.*$ready\(0x[0-9a-f]*\).*/\1/p" "$1" | tail -n 1; }
touch_page() {
    # QEMU looks for a reader once a second, and at what it types only while it is there.
    { echo g && sleep 3; } >"$(virsh ttyconsole "$1")"
}
up() { within 120 printed "$qemu_log/$1-console.log" "$ready"; }
# Seen now and then under emulation: QEMU ends before its guest is up.
boots() { virsh start "$1" && { up "$1" || { virsh destroy "$1"; virsh start "$1" && up "$1"; }; }; }
foretell() { poisontrace forecast --format json >"$out/$1-forecast.json" 2>&1; [ $? -le 1 ]; }
poison_domain() {
    page=$(guest_page "$qemu_log/$1-console.log")
    answer=$(virsh qemu-monitor-command "$1" --hmp "gpa2hva $page" | tr -d '\r\n')
    poison "$(frame "$(number_of "$1")" "${answer##* is }")"
}
# Boots, foretells, poisons and touches; $2: before the names of the files.
suffers() {
    say "$2: starting it"
    check "$2_boots" boots "$1"
    check "$2_is_foretold" foretell "$2"
    number_of "$1" >"$out/$2-pid.txt"
    cat "/proc/$(number_of "$1")/cgroup" >"$out/$2-cgroup.txt"
    check "$2_is_confined_by_apparmor" confined "$1"
    say "$2: poison"
    check "$2_is_poisoned" poison_domain "$1"
    touch_page "$1"
}
keep() {
    virsh domstate --reason "$1" >"$out/$2-state.txt"
    cp "$qemu_log/$1.log" "$out/$2-qemu.log"
    cp "$qemu_log/$1-console.log" "$out/$2-console.txt"
}

mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
say "the service"
cp $share/bin/poisontrace /usr/bin/
mkdir -p /etc/poisontrace
cp $share/unit/poisontrace.toml /etc/poisontrace/
cp $share/unit/poisontrace.service $share/unit/poisontrace.socket /etc/systemd/system/
systemctl daemon-reload
check the_service_starts systemctl start $unit
check it_is_ready within 60 healthy
check libvirt_is_up virsh version
virsh version >$out/version.txt
cp $share/guest/vmlinuz $share/guest/initramfs $images/
virsh event --all --loop --timestamp >$out/events.txt 2>&1 &
events=$!
for domain in $share/domains/*.xml; do check "$(basename "$domain" .xml)_is_defined" virsh define "$domain"; done

suffers db-7 overflow
check overflow_ends_the_domain within 60 stopped db-7
check overflow_is_explained within 30 recorded db-7 overflow-explain.json guest_panicked
keep db-7 overflow

say "the CPU model, as the forecast has it"
check the_model_is_changed virsh define $share/domains/changed/db-7.xml
suffers db-7 changed
check changed_lives_on within 60 printed $qemu_log/db-7-console.log "$alive"
check changed_is_explained within 30 recorded db-7 changed-explain.json survived
check changed_powers_off within 30 stopped db-7
keep db-7 changed

sysctl -q vm.nr_hugepages=136
suffers big-1 hugetlb
check hugetlb_ends_the_domain within 60 stopped big-1
check hugetlb_is_explained within 30 recorded big-1 hugetlb-explain.json guest_panicked
keep big-1 hugetlb
poisontrace incidents export >$out/export.json
journalctl -u $unit --no-pager >$out/journal.txt
