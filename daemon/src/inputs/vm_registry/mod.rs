//! Who a process is: whether it runs a VM, and that VM's name, from /proc. Kept after the process is gone.
//!
//! | part | does |
//! |---|---|
//! | `proc` | reads what /proc shows of one process |
//! | [`scan`] | looks for VMs, on a thread of its own |
//! | [`VmRegistry`] | knows them, for the event loop |

pub mod cmdline;
pub mod proc;
pub mod scan;

use std::{collections::BTreeMap, path::PathBuf};

use poisontrace_model::event::{Event, EventKind, Vmm};

use proc::Holds;
use scan::Look;

/// Most processes that are remembered.
const MAX_KNOWN: usize = 65_536;

/// What is known of the host's processes.
pub struct VmRegistry {
    proc: PathBuf,
    known: BTreeMap<u32, Vmm>,
    no_room: u64,
}

impl VmRegistry {
    /// `proc`: `/proc`.
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            known: BTreeMap::new(),
            no_room: 0,
        }
    }

    /// Takes what a look has found. Returns the VMs that are new, or that were not known to be VMs.
    pub fn take(&mut self, look: Look) -> Vec<(u32, Vmm)> {
        match look.pids {
            Some(pids) => self.known.retain(|pid, _| pids.contains(pid)),
            None => {
                let proc = &self.proc;
                self.known.retain(|pid, _| proc.join(pid.to_string()).exists());
            }
        }
        self.no_room += look.left_out;
        let mut found = look.found;
        found.retain(|(pid, vmm)| {
            let known = self.known.get(pid);
            known.is_none_or(|known| known.is_vmm != Some(true) || known.start_ticks != vmm.start_ticks)
        });
        for (pid, vmm) in &found {
            self.known.remove(pid);
            self.remember(*pid, vmm);
        }
        found
    }

    fn remember(&mut self, pid: u32, vmm: &Vmm) {
        if self.known.len() < MAX_KNOWN {
            self.known.insert(pid, vmm.clone());
        } else {
            self.no_room += 1;
        }
    }

    /// How often there was no room to remember a process, or no time to look at it: it will be looked up again.
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
        let is_vmm = proc::holds_a_vm(&self.proc, pid).is_vmm();
        let mut vmm = proc::read(&self.proc, pid, is_vmm);
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
        proc::start_ticks(&self.proc, pid)
    }
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

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        time::{Duration, Instant},
    };

    use super::{scan::VmScan, *};

    /// The registry and its looks, as the event loop has them.
    struct TestRegistry {
        scan: VmScan,
        registry: VmRegistry,
    }

    impl TestRegistry {
        fn new(proc: &std::path::Path) -> Self {
            Self {
                scan: VmScan::new(proc),
                registry: VmRegistry::new(proc),
            }
        }

        fn scan(&mut self) -> Vec<(u32, Vmm)> {
            self.registry.take(self.scan.look())
        }
    }

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
        let mut registry = TestRegistry::new(proc.path());
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
        let found = TestRegistry::new(proc.path()).scan();
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
            .unwrap();
        };
        loadavg(12);
        fake(proc.path(), 10, b"qemu\0", &["anon_inode:kvm-vm"]);
        fake(proc.path(), 11, b"cat\0", &["/dev/null"]);
        let mut registry = TestRegistry::new(proc.path());
        for _ in 0..scan::LOOKS {
            registry.scan();
        }
        // Not there for who does not list.
        fake(proc.path(), 9, b"qemu\0", &["anon_inode:kvm-vm"]);
        assert!(registry.scan().is_empty());
        fs::remove_dir_all(proc.path().join("10")).unwrap();
        assert!(registry.scan().is_empty());
        assert_eq!(
            registry.registry.vms(),
            0,
            "a known one's end is seen all the same"
        );
        loadavg(13);
        assert_eq!(registry.scan().len(), 1, "something has started");
    }

    #[test]
    fn an_idle_host_is_listed_now_and_then_all_the_same() {
        let proc = tempfile::tempdir().unwrap();
        fs::write(proc.path().join("loadavg"), "0.00 0.01 0.05 1/99 12\n").unwrap();
        let mut registry = TestRegistry::new(proc.path());
        registry.scan();
        fake(proc.path(), 9, b"qemu\0", &["anon_inode:kvm-vm"]);
        let looks = (0..).take_while(|_| registry.scan().is_empty()).count();
        assert_eq!(looks, usize::from(scan::UNLISTED));
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

    #[test]
    fn processes_with_many_descriptors_take_a_bounded_time_and_hide_no_vm() {
        let proc = tempfile::tempdir().unwrap();
        let many: Vec<&str> = vec!["/dev/null"; 3000];
        for pid in 100..140 {
            fake(proc.path(), pid, b"hog\0", &many);
        }
        fake(proc.path(), 200, b"qemu\0", &["anon_inode:kvm-vm"]);
        let mut registry = TestRegistry::new(proc.path());
        registry.scan.budget(Duration::from_millis(5));
        let (mut found, mut looks) = (BTreeSet::new(), 0);
        while found.is_empty() {
            let began = Instant::now();
            found.extend(registry.scan().into_iter().map(|(pid, _)| pid));
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
            looks += 1;
            assert!(looks < 200, "it has its turn");
        }
        assert_eq!(found, BTreeSet::from([200]));
        assert!(registry.registry.no_room() > 0, "what was left out is counted");
    }

    #[test]
    fn a_process_that_was_no_vmm_when_a_signal_named_it_is_one_when_it_is_found() {
        let proc = tempfile::tempdir().unwrap();
        let mut registry = TestRegistry::new(proc.path());
        registry.registry.remember(10, &Vmm::default());
        fake(proc.path(), 10, b"qemu\0", &["anon_inode:kvm-vm"]);
        assert_eq!(registry.scan().len(), 1);
        assert_eq!(registry.registry.vms(), 1);
        assert!(registry.scan().is_empty());
    }
}
