//! Bundles of the Open Container Initiative, as a kubelet has its runtime start them: what all of them have, and a VMM's.

use serde_json::{Value, json};

pub const VERSION: &str = "1.0.2";

/// The container's namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespaces {
    Own,
    /// All but that of processes.
    HostPid,
}

impl Namespaces {
    pub fn list(self) -> Value {
        let of_pids = (self == Self::Own).then_some("pid");
        let others = ["mount", "ipc", "uts", "network", "cgroup"];
        let all = others.into_iter().chain(of_pids);
        all.map(|kind| json!({"type": kind})).collect()
    }
}

/// The file systems of each container.
pub fn mounts() -> Vec<Value> {
    vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]}),
    ]
}

/// A folder of the host's.
pub fn bind(from: &str, to: &str, access: &str) -> Value {
    json!({"destination": to, "source": from, "type": "bind", "options": ["rbind", access]})
}

/// A pod's VMM, and where its files are.
pub struct Pod<'a> {
    pub uid: &'a str,
    /// The container's number.
    pub id: &'a str,
    /// KubeVirt's VM: `namespace_name`.
    pub domain: &'a str,
    pub vm_uuid: &'a str,
}

impl Pod<'_> {
    /// As the kubelet names it for a runtime with systemd's cgroups: the slice, then the prefix and the number of the scope.
    fn cgroup(&self) -> String {
        let uid = self.uid.replace('-', "_");
        format!("kubepods-burstable-pod{uid}.slice:cri-containerd:{}", self.id)
    }

    /// QEMU as KubeVirt's libvirt starts it, its log below the container's own root. Console and monitor are pipes in /pipes.
    pub fn configuration(&self) -> Value {
        let qemu = [
            "exec qemu-system-x86_64".to_owned(),
            format!(
                "-name guest={},debug-threads=on -uuid {}",
                self.domain, self.vm_uuid
            ),
            "-nodefaults -no-user-config -display none -msg timestamp=on".to_owned(),
            "-machine pc,accel=kvm -cpu EPYC -smp 1 -m 256 -device pvpanic".to_owned(),
            "-kernel /images/vmlinuz -initrd /images/initramfs".to_owned(),
            "-append 'console=ttyS0 panic=-1 quiet tsc=reliable'".to_owned(),
            "-chardev pipe,id=console,path=/pipes/console -serial chardev:console".to_owned(),
            "-chardev pipe,id=monitor,path=/pipes/monitor -mon chardev=monitor,mode=readline".to_owned(),
            "-action reboot=shutdown,shutdown=poweroff".to_owned(),
            format!(">/var/log/libvirt/qemu/{}.log 2>&1", self.domain),
        ];
        let mut mounts = mounts();
        mounts.push(bind("/usr", "/usr", "ro"));
        mounts.push(bind("/var/lib/libvirt/images", "/images", "ro"));
        mounts.push(bind("/run/lab-pipes", "/pipes", "rw"));
        let kvm = json!({"allow": true, "type": "c", "major": 10, "minor": 232, "access": "rw"});
        json!({
            "ociVersion": VERSION,
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["sh", "-c", qemu.join(" ")],
                "env": ["PATH=/usr/bin:/bin"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs", "readonly": false},
            "hostname": "virt-launcher",
            "mounts": mounts,
            "linux": {
                "namespaces": Namespaces::Own.list(),
                "cgroupsPath": self.cgroup(),
                "devices": [{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232, "fileMode": 438}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}, kvm]},
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_in_namespaces_and_a_cgroup_of_its_own() {
        let pod = Pod {
            uid: "1b2c-3d",
            id: "3f0c",
            domain: "shop_db-7",
            vm_uuid: "5e1f",
        };
        let bundle = pod.configuration();
        assert_eq!(
            bundle["linux"]["cgroupsPath"],
            "kubepods-burstable-pod1b2c_3d.slice:cri-containerd:3f0c"
        );
        assert_eq!(bundle["linux"]["namespaces"].as_array().unwrap().len(), 6);
        let command = bundle["process"]["args"][2].as_str().unwrap();
        assert!(command.contains("-name guest=shop_db-7,"), "{command}");
    }
}
