//! Who a process is: whether it runs a VM, and that VM's name, from /proc. Kept after the process is gone.

pub mod cmdline;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use poisontrace_model::{
    event::{Event, EventKind, Vmm},
    text::sanitise,
};

/// Longest command line and cgroup text that is read, bytes.
const MAX_TEXT: u64 = 64 * 1024;
/// Most processes that are remembered.
const MAX_KNOWN: usize = 65_536;
/// Longest name, characters.
const MAX_NAME: usize = 128;

/// What is known of the host's processes.
pub struct VmRegistry {
    proc: PathBuf,
    known: BTreeMap<u32, Vmm>,
    no_room: u64,
    /// Processes that were no VMM when looked at, and how often that was: a VMM opens its VM soon after it
    /// starts, so that the rest of the host's processes need not be looked at for ever.
    dismissed: BTreeMap<u32, u8>,
    /// [`last_pid`] when /proc was listed last, if no process was left to be looked at again; and the looks that did
    /// without a list since.
    settled: Option<(String, u8)>,
}

/// Looks at a process before it is taken for no VMM.
const LOOKS: u8 = 3;
/// Looks without a list, one after the other: a /proc of another PID namespace than the daemon's counts apart.
const UNLISTED: u8 = 5;

/// The process of a thread, from `/proc`.
pub fn process_of(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}

impl VmRegistry {
    /// `proc`: `/proc`.
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            known: BTreeMap::new(),
            no_room: 0,
            dismissed: BTreeMap::new(),
            settled: None,
        }
    }

    /// Looks at processes that were not there the last time, and returns those that run a VM.
    pub fn scan(&mut self) -> Vec<(u32, Vmm)> {
        // Before the list: what starts while it is made is new the next time.
        let last_pid = self.last_pid();
        if self.nothing_new(last_pid.as_deref()) {
            let proc = &self.proc;
            self.known.retain(|pid, _| proc.join(pid.to_string()).exists());
            return Vec::new();
        }
        let Ok(entries) = fs::read_dir(&self.proc) else {
            return Vec::new();
        };
        let pids: BTreeSet<u32> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        self.known.retain(|pid, _| pids.contains(pid));
        self.dismissed.retain(|pid, _| pids.contains(pid));
        let mut found = Vec::new();
        for pid in pids {
            let looks = self.dismissed.get(&pid).copied().unwrap_or(0);
            if looks >= LOOKS || self.known.contains_key(&pid) {
                continue;
            }
            if self.holds_a_vm(pid) != Some(true) {
                self.dismissed.insert(pid, looks + 1);
                continue;
            }
            let vmm = self.read(pid);
            self.dismissed.remove(&pid);
            self.remember(pid, &vmm);
            found.push((pid, vmm));
        }
        let all_settled = self.dismissed.values().all(|looks| *looks >= LOOKS);
        self.settled = last_pid.filter(|_| all_settled).map(|last| (last, 0));
        found
    }

    /// The number that was given to a thread or process last (/proc/loadavg, fifth field). It shows an idle host's daemon
    /// that there is nothing to look for, and costs one small file's reading in place of a list of /proc.
    fn last_pid(&self) -> Option<String> {
        let text = fs::read_to_string(self.proc.join("loadavg")).ok()?;
        Some(text.split_whitespace().nth(4)?.to_owned())
    }

    fn nothing_new(&mut self, last_pid: Option<&str>) -> bool {
        let Some((settled, unlisted)) = &mut self.settled else {
            return false;
        };
        if last_pid != Some(settled.as_str()) || *unlisted >= UNLISTED {
            return false;
        }
        *unlisted += 1;
        true
    }

    fn remember(&mut self, pid: u32, vmm: &Vmm) {
        if self.known.len() < MAX_KNOWN {
            self.known.insert(pid, vmm.clone());
        } else {
            self.no_room += 1;
        }
    }

    /// How often a process was not remembered for want of room, and will be looked up again.
    pub fn no_room(&self) -> u64 {
        self.no_room
    }

    /// VMMs that are known and were not seen to end.
    pub fn vms(&self) -> usize {
        self.known.values().filter(|vmm| vmm.is_vmm == Some(true)).count()
    }

    /// The identity event that must go before `event`, if it speaks of a process that is not known yet.
    pub fn identify(&mut self, event: &Event) -> Option<Event> {
        let pid = match &event.what {
            EventKind::Sigbus { target_pid, .. } | EventKind::SigbusNoAddress { target_pid, .. } => {
                *target_pid
            }
            EventKind::PoisonExit(_) | EventKind::Preexisting { .. } => event.pid,
            EventKind::TaskExit { live: Some(0), .. } => {
                // Its number may be another's before the next look around.
                self.known.remove(&event.pid);
                return None;
            }
            _ => return None,
        };
        if pid == 0 || self.known.contains_key(&pid) {
            return None;
        }
        let mut vmm = self.read(pid);
        if let (None, EventKind::Sigbus { comm, .. } | EventKind::SigbusNoAddress { comm, .. }) =
            (&vmm.vmm, &event.what)
        {
            vmm.vmm = (!comm.is_empty()).then(|| comm.clone());
        }
        self.remember(pid, &vmm);
        Some(identity_event(event.t, pid, vmm))
    }

    /// When the process started, clock ticks since boot; `None`: it is gone.
    pub fn start_ticks(&self, pid: u32) -> Option<u64> {
        let stat = fs::read_to_string(self.proc.join(pid.to_string()).join("stat")).ok()?;
        // Field 22, counted after the comm in parentheses, which may itself hold spaces and parentheses.
        stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
    }

    fn read(&self, pid: u32) -> Vmm {
        let dir = self.proc.join(pid.to_string());
        let arguments = cmdline::split(&read_bounded(&dir.join("cmdline")));
        let cgroup = String::from_utf8_lossy(&read_bounded(&dir.join("cgroup"))).into_owned();
        let named = cmdline::identify(&arguments);
        let executable = fs::read_link(dir.join("exe")).ok();
        let executable = executable
            .as_deref()
            .and_then(|path| path.file_name())
            .map(|name| name.to_string_lossy());
        let comm = || fs::read_to_string(dir.join("comm")).ok();
        let clean = |text: &str| sanitise(text.trim_end(), MAX_NAME);
        Vmm {
            is_vmm: self.holds_a_vm(pid),
            // libvirt's cgroup first: a command line is its owner's to choose.
            name: cmdline::libvirt_machine(&cgroup)
                .or(named.name)
                .as_deref()
                .map(clean),
            uuid: named.uuid.as_deref().map(clean),
            // A deleted executable (an upgrade under a running VMM) is still its name.
            vmm: executable
                .map(|name| clean(name.trim_end_matches(" (deleted)")))
                .or_else(|| comm().as_deref().map(clean)),
            start_ticks: self.start_ticks(pid),
        }
    }

    /// Whether one of its descriptors is a KVM VM or vCPU (virt/kvm/kvm_main.c); `None` where that
    /// cannot be read.
    fn holds_a_vm(&self, pid: u32) -> Option<bool> {
        let descriptors = fs::read_dir(self.proc.join(pid.to_string()).join("fd")).ok()?;
        let mut any = false;
        for descriptor in descriptors.flatten() {
            any = true;
            if fs::read_link(descriptor.path()).is_ok_and(|to| is_kvm(&to)) {
                return Some(true);
            }
        }
        // A process without any descriptor is one that is ending: its VM may have been among those closed.
        any.then_some(false)
    }
}

/// `anon_inode:kvm-vm`, `anon_inode:kvm-vcpu:0`, …
fn is_kvm(to: &std::path::Path) -> bool {
    to.to_str().is_some_and(|to| to.starts_with("anon_inode:kvm-v"))
}

/// The event that introduces a process.
pub fn identity_event(t: u64, pid: u32, vmm: Vmm) -> Event {
    Event {
        t,
        tid: pid,
        pid,
        vcpu: None,
        what: EventKind::Vmm(vmm),
    }
}

fn read_bounded(path: &std::path::Path) -> Vec<u8> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // A process that vanishes half-way leaves what was read.
        let _ = file.take(MAX_TEXT).read_to_end(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(proc: &std::path::Path, pid: u32, cmdline: &[u8], links: &[&str]) {
        let dir = proc.join(pid.to_string());
        fs::create_dir_all(dir.join("fd")).unwrap();
        fs::write(dir.join("cmdline"), cmdline).unwrap();
        fs::write(dir.join("cgroup"), "0::/machine.slice\n").unwrap();
        let stat = format!("{pid} (CPU 0) (KVM) S {} 4711 0", vec!["0"; 18].join(" "));
        fs::write(dir.join("stat"), stat).unwrap();
        for (n, to) in links.iter().enumerate() {
            std::os::unix::fs::symlink(to, dir.join("fd").join(n.to_string())).unwrap();
        }
    }

    #[test]
    fn a_vmm_is_told_from_other_processes_by_its_kvm_descriptor() {
        let proc = tempfile::tempdir().unwrap();
        fake(
            proc.path(),
            10,
            b"qemu-system-x86_64\0-name\0guest=web,debug-threads=on\0",
            &["/dev/null", "anon_inode:kvm-vm"],
        );
        fake(proc.path(), 11, b"cat\0", &["/dev/null"]);
        let mut registry = VmRegistry::new(proc.path());
        let found = registry.scan();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].0, found[0].1.name.as_deref(), found[0].1.start_ticks),
            (10, Some("web"), Some(4711))
        );
        assert!(registry.scan().is_empty(), "nothing new the second time");
    }

    #[test]
    fn a_command_line_does_not_rename_a_vm_of_libvirts() {
        let proc = tempfile::tempdir().unwrap();
        fake(
            proc.path(),
            10,
            b"qemu\0-name\0guest=victim\0",
            &["anon_inode:kvm-vm"],
        );
        let cgroup = "0::/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/emulator\n";
        fs::write(proc.path().join("10/cgroup"), cgroup).unwrap();
        let found = VmRegistry::new(proc.path()).scan();
        assert_eq!(found[0].1.name.as_deref(), Some("web"));
    }

    #[test]
    fn an_idle_host_is_not_listed_until_something_starts() {
        let proc = tempfile::tempdir().unwrap();
        let loadavg = |last: u32| {
            fs::write(
                proc.path().join("loadavg"),
                format!("0.00 0.01 0.05 1/99 {last}\n"),
            )
            .unwrap()
        };
        loadavg(12);
        fake(proc.path(), 10, b"qemu\0", &["anon_inode:kvm-vm"]);
        fake(proc.path(), 11, b"cat\0", &["/dev/null"]);
        let mut registry = VmRegistry::new(proc.path());
        for _ in 0..LOOKS {
            registry.scan();
        }
        // Not there for who does not list.
        fake(proc.path(), 9, b"qemu\0", &["anon_inode:kvm-vm"]);
        assert!(registry.scan().is_empty());
        fs::remove_dir_all(proc.path().join("10")).unwrap();
        assert!(registry.scan().is_empty());
        assert_eq!(registry.vms(), 0, "a known one's end is seen all the same");
        loadavg(13);
        assert_eq!(registry.scan().len(), 1, "something has started");
    }

    #[test]
    fn an_idle_host_is_listed_now_and_then_all_the_same() {
        let proc = tempfile::tempdir().unwrap();
        fs::write(proc.path().join("loadavg"), "0.00 0.01 0.05 1/99 12\n").unwrap();
        let mut registry = VmRegistry::new(proc.path());
        registry.scan();
        fake(proc.path(), 9, b"qemu\0", &["anon_inode:kvm-vm"]);
        let looks = (0..).take_while(|_| registry.scan().is_empty()).count();
        assert_eq!(looks, usize::from(UNLISTED));
    }

    #[test]
    fn a_process_that_is_gone_has_no_identity_but_what_the_signal_told() {
        let proc = tempfile::tempdir().unwrap();
        let mut registry = VmRegistry::new(proc.path());
        let event = Event {
            t: 5,
            tid: 1,
            pid: 1,
            vcpu: None,
            what: EventKind::Sigbus {
                hva: poisontrace_model::hex::Hex(0x1000),
                severity: poisontrace_model::event::SigbusSeverity::ActionRequired,
                lsb: 12,
                target_tid: 99,
                target_pid: 99,
                forced: false,
                comm: "vmm".into(),
            },
        };
        let identity = registry.identify(&event).unwrap();
        let EventKind::Vmm(vmm) = identity.what else {
            panic!("{identity:?}")
        };
        assert_eq!((vmm.is_vmm, vmm.vmm.as_deref()), (None, Some("vmm")));
        assert!(registry.identify(&event).is_none(), "introduced once");
        let end = EventKind::TaskExit {
            exit_code: 0,
            live: Some(0),
            comm: "vmm".into(),
        };
        assert!(
            registry
                .identify(&Event {
                    t: 6,
                    tid: 99,
                    pid: 99,
                    vcpu: None,
                    what: end
                })
                .is_none()
        );
        assert!(
            registry.identify(&event).is_some(),
            "the next process of this number is another"
        );
    }
}
