//! What the host's cgroups show of a VMM: libvirt's name of its VM, or the container and pod that it runs in. The host's managers
//! (systemd-machined, the kubelet, container runtimes) name these, not the VMM.

use poisontrace_model::event::container::Container;

/// What /proc/PID/cgroup shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Name of libvirt's VM.
    pub libvirt: Option<String>,
    pub container: Option<Container>,
}

/// Digits of a container's number, as containerd, CRI-O, Docker, Podman and Kata give them.
const ID_DIGITS: usize = 64;

/// Reads `hierarchy:controllers:path` lines. A daemon with a cgroup namespace of its own sees `/../..` before what it shares no
/// parent with.
pub fn placed(cgroup: &str) -> Placed {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let paths: Vec<Vec<&str>> = paths
        .map(|path| {
            let parts = path.split('/').filter(|part| !part.is_empty());
            parts.skip_while(|part| *part == "..").collect()
        })
        .collect();
    Placed {
        libvirt: paths.iter().find_map(|path| machine(path)),
        container: paths.iter().find_map(|path| container(path)),
    }
}

/// `machine.slice/machine-qemu\\x2d3\\x2dweb01.scope/…`: systemd's escaping of libvirt's `qemu-3-web01`. Elsewhere than in the
/// system's own machine.slice users make cgroups of any name.
fn machine(path: &[&str]) -> Option<String> {
    let ["machine.slice", scope, ..] = path else {
        return None;
    };
    let name = unescape(scope.strip_prefix("machine-")?.strip_suffix(".scope")?);
    let rest = name.strip_prefix("qemu-")?;
    let (number, name) = rest.split_once('-')?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty())
        .then(|| name.to_owned())
}

/// The outermost container: in it others may be made, and named at will, as in a user's own slice.
fn container(path: &[&str]) -> Option<Container> {
    if path.first() == Some(&"user.slice") {
        return None;
    }
    let (at, id) = path
        .iter()
        .enumerate()
        .find_map(|(at, part)| Some((at, container_id(part)?)))?;
    Some(Container {
        id: id.to_owned(),
        pod_uid: path[..at].iter().rev().find_map(|part| pod_uid(part)),
    })
}

/// `cri-containerd-ID.scope` (systemd's cgroups), `ID` (cgroupfs), `kata_ID` (Kata's sandbox).
fn container_id(part: &str) -> Option<&str> {
    let id = match part.strip_suffix(".scope") {
        Some(scope) => scope.rsplit_once('-').map_or(scope, |(_, id)| id),
        None => part.strip_prefix("kata_").unwrap_or(part),
    };
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (id.len() == ID_DIGITS && id.bytes().all(hexadecimal)).then_some(id)
}

/// `kubepods-burstable-pod1b2c…_….slice` (systemd's cgroups, dashes as underscores), `pod1b2c…-…` (cgroupfs).
fn pod_uid(part: &str) -> Option<String> {
    let uid = match part.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => part.strip_prefix("pod")?.to_owned(),
    };
    // A UUID, or a static pod's hash without dashes.
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|b| *b == b'-').count();
    (digits == 32 && digits + dashes == uid.len()).then_some(uid)
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [b'x', high, low, ..] if *first == b'\\' => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f0c52a6d1f94e3c9a7d0e6f18b2a45c3f0c52a6d1f94e3c9a7d0e6f18b2a45c";
    const POD: &str = "1b2c3d4e-0000-4000-8000-00000000feed";

    fn libvirt(cgroup: &str) -> Option<String> {
        placed(cgroup).libvirt
    }

    /// `KEY` and `POD` stand for the container's number and the pod's UID, `P_D` for the latter with underscores.
    fn in_container(cgroup: &str) -> Option<(String, Option<String>)> {
        let cgroup = cgroup
            .replace("KEY", ID)
            .replace("POD", POD)
            .replace("P_D", &POD.replace('-', "_"));
        let found = placed(&format!("0::{cgroup}\n")).container?;
        assert_eq!(found.id, ID);
        Some((found.id, found.pod_uid))
    }

    #[test]
    fn libvirt_names_its_guests_by_their_scope() {
        let scope = "0::/machine.slice/machine-qemu\\x2d3\\x2dweb\\x2d01.scope/libvirt/emulator\n";
        assert_eq!(libvirt(scope).as_deref(), Some("web-01"));
        assert_eq!(libvirt("0::/machine.slice/machine-lxc\\x2d1\\x2dx.scope"), None);
        assert_eq!(libvirt("0::/user.slice"), None);
        let users =
            "0::/user.slice/user-1000.slice/user@1000.service/machine.slice/machine-qemu\\x2d3\\x2dweb.scope";
        assert_eq!(libvirt(users), None, "a user's own systemd");
        let hybrid = "3:cpu:/machine.slice/machine-qemu\\x2d3\\x2dweb.scope/vcpu0\n0::/\n";
        assert_eq!(libvirt(hybrid).as_deref(), Some("web"));
        let from_a_container = "0::/../../../machine.slice/machine-qemu\\x2d3\\x2dweb.scope/libvirt/vcpu0";
        assert_eq!(libvirt(from_a_container).as_deref(), Some("web"));
    }

    #[test]
    fn pods_and_containers_are_named_by_the_kubelet_and_the_runtime() {
        let of_a_pod = Some((ID.to_owned(), Some(POD.to_owned())));
        for path in [
            // KubeVirt: containerd and CRI-O with systemd's cgroups, by class of service.
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podP_D.slice/cri-containerd-KEY.scope",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podP_D.slice/crio-KEY.scope/container",
            "/kubepods.slice/kubepods-podP_D.slice/cri-containerd-KEY.scope",
            // cgroupfs, and Kata's sandbox.
            "/kubepods/burstable/podPOD/KEY",
            "/kubepods/podPOD/kata_KEY",
            // As a DaemonSet's daemon sees it, with a cgroup namespace of its own.
            "/../../kubepods-burstable-podP_D.slice/cri-containerd-KEY.scope",
            "/../podPOD/KEY",
        ] {
            assert_eq!(in_container(path), of_a_pod, "{path}");
        }
        let no_pod = Some((ID.to_owned(), None));
        for path in [
            "/system.slice/docker-KEY.scope",
            "/machine.slice/libpod-KEY.scope/container",
            "/kata_overhead/KEY",
            "/docker/KEY",
        ] {
            assert_eq!(in_container(path), no_pod, "{path}");
        }
    }

    #[test]
    fn what_a_tenant_names_is_no_container() {
        for path in [
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-KEY.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-podP_D.slice/crio-KEY.scope",
            "/../../../user.slice/user-1000.slice/user@1000.service/kubepods-podP_D.slice/crio-KEY.scope",
            "/machine.slice/machine-qemu\\x2d3\\x2dweb.scope/libvirt/emulator",
            "/kubepods.slice/kubepods-podP_D.slice/cri-containerd-KEY0.scope",
            "/system.slice/libvirtd.service",
            "/",
        ] {
            assert_eq!(in_container(path), None, "{path}");
        }
        // A pod that is made up in a container's own, delegated cgroup.
        let inner = "/system.slice/docker-KEY.scope/kubepods.slice/kubepods-podP_D.slice/crio-KEY.scope";
        assert_eq!(in_container(inner), Some((ID.to_owned(), None)));
    }
}
