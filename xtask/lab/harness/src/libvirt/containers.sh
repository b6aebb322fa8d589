
# poisontrace and a VMM in containers, as a kubelet has them started.
runtime() { crun --systemd-cgroup "$@"; }
node() { nsenter --target "$(runtime state poisontrace | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')" --net "$@"; }
container_is_ready() { node curl -sf -o /dev/null http://127.0.0.1:9847/-/ready; }
# The image's base: the libraries that the programs of Debian have.
base() {
    mkdir -p "$1/rootfs"
    for folder in proc sys dev tmp usr/bin usr/lib/x86_64-linux-gnu usr/lib64 var/lib/poisontrace var/log/libvirt/qemu images pipes; do
        mkdir -p "$1/rootfs/$folder"
    done
    for link in bin lib lib64; do ln -s usr/$link "$1/rootfs/$link"; done
}
libraries() {
    ldd "$1" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
        cp -L "$library" "$2/rootfs$library"
    done
}
asked() { runtime exec poisontrace poisontrace explain --vm shop_db-7 --format json >$out/pod-explain.json 2>&1 && grep -q '"guest_panicked"' $out/pod-explain.json; }

say "the daemon as a container"
systemctl stop $unit $unit.socket
# A link of the service's, to a folder of its user; a node that has no service has neither.
rm /var/lib/poisontrace
mkdir /var/lib/poisontrace
mkdir -p /run/lab-pipes
base /run/bundles/daemon
libraries /usr/bin/poisontrace /run/bundles/daemon
cp -a $share/image/. /run/bundles/daemon/rootfs/
cp $share/bundles/check.json /run/bundles/daemon/config.json
check the_container_can_attach sh -c 'crun --systemd-cgroup run --bundle /run/bundles/daemon poisontrace-check >/lab/out/container-check.txt 2>&1'
cp $share/bundles/daemon.json /run/bundles/daemon/config.json
check the_container_starts sh -c 'crun --systemd-cgroup run --detach --bundle /run/bundles/daemon poisontrace >/lab/out/container.log 2>&1'
check the_container_is_ready within 90 container_is_ready

say "pod: a VMM in a container"
for pipe in console.in console.out monitor.in monitor.out; do mkfifo /run/lab-pipes/$pipe; done
cat /run/lab-pipes/console.out >$out/pod-console.txt &
cat /run/lab-pipes/monitor.out >$out/pod-monitor.txt &
base /run/bundles/pod
cp $share/bundles/pod.json /run/bundles/pod/config.json
check pod_starts runtime run --detach --bundle /run/bundles/pod pod
check pod_boots within 120 printed $out/pod-console.txt "$ready"
pid=$(runtime state pod | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
echo "$pid" >$out/pod-pid.txt
cat "/proc/$pid/cgroup" >$out/pod-cgroup.txt
poison_pod() {
    page=$(guest_page $out/pod-console.txt)
    echo "gpa2hva $page" >/run/lab-pipes/monitor.in
    within 30 printed $out/pod-monitor.txt ' is 0x'
    poison "$(frame "$pid" "$(grep -ao ' is 0x[0-9a-f]*' $out/pod-monitor.txt | tail -n 1 | cut -c 5-)")"
}
say "pod: poison"
check pod_is_poisoned poison_pod
echo g >/run/lab-pipes/console.in
check pod_is_explained within 60 asked
runtime exec poisontrace poisontrace incidents export >$out/pod-export.json
cat /run/bundles/pod/rootfs/var/log/libvirt/qemu/*.log >$out/pod-qemu.log
runtime kill poisontrace TERM
kill $events
the_end
