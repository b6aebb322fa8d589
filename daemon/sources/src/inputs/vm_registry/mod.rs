//! Who a process is: whether it runs a VM, and that VM's name, from /proc. Kept after the process is gone.
//!
//! | part | does |
//! |---|---|
//! | `proc` | reads what /proc shows of one process |
//! | [`scan`] | looks for VMs, on a thread of its own |
//! | [`VmRegistry`] | knows them, for the event loop |

pub mod cgroup;
pub mod cmdline;
pub mod proc;
pub mod scan;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use poisontrace_model::event::{Event, EventKind, Vmm};

use proc::Holds;
use scan::Look;

/// Most processes that are remembered.
const MAX_KNOWN: usize = 65_536;
/// Of each second, for looking at processes of which nothing but their own doing is known, on the event loop.
const BUDGET: Duration = Duration::from_millis(50);

/// What is known of the host's processes.
pub struct VmRegistry {
    proc: PathBuf,
    known: BTreeMap<u32, Vmm>,
    no_room: u64,
    spent: Spent,
    budget: Duration,
}

/// Time spent within the second that began last.
#[derive(Default)]
struct Spent {
    second: Option<Instant>,
    time: Duration,
}

impl Spent {
    fn may(&mut self, now: Instant, budget: Duration) -> bool {
        let over = |second| now.saturating_duration_since(second) >= Duration::from_secs(1);
        if self.second.is_none_or(over) {
            *self = Self {
                second: Some(now),
                time: Duration::ZERO,
            };
        }
        self.time < budget
    }

    fn add(&mut self, time: Duration) {
        self.time += time;
    }
}

impl VmRegistry {
    /// `proc`: `/proc`.
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            known: BTreeMap::new(),
            no_room: 0,
            spent: Spent::default(),
            budget: BUDGET,
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

    /// Processes of VMMs that are known and were not seen to end.
    pub fn vmms(&self) -> Vec<u32> {
        let vmms = self.known.iter().filter(|(_, vmm)| vmm.is_vmm == Some(true));
        vmms.map(|(pid, _)| *pid).collect()
    }

    /// VMMs that are known and were not seen to end.
    pub fn vms(&self) -> usize {
        self.known.values().filter(|vmm| vmm.is_vmm == Some(true)).count()
    }

    /// The identity event that must go before `event`, if it speaks of a process that is not known yet, or that has been
    /// forgotten since: `introduced` tells who is not.
    pub fn identify(&mut self, event: &Event, introduced: impl Fn(u32) -> bool) -> Option<Event> {
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
        if pid == 0 {
            return None;
        }
        if let Some(known) = self.known.get(&pid) {
            return (!introduced(pid)).then(|| identity_event(event.t, pid, known.clone()));
        }
        // As many as a user likes: the VMs of the host must not wait for them.
        let by_itself = pid == event.pid
            && matches!(
                event.what,
                EventKind::Sigbus { .. } | EventKind::SigbusNoAddress { .. }
            );
        let began = Instant::now();
        let looked_at = !by_itself || self.spent.may(began, self.budget);
        let mut vmm = match looked_at {
            true => {
                let is_vmm = proc::holds_a_vm(&self.proc, pid).is_vmm();
                proc::read(&self.proc, pid, is_vmm)
            }
            false => Vmm::default(),
        };
        if by_itself {
            self.spent.add(began.elapsed());
        }
        if let (None, EventKind::Sigbus { comm, .. } | EventKind::SigbusNoAddress { comm, .. }) =
            (&vmm.vmm, &event.what)
        {
            vmm.vmm = (!comm.is_empty()).then(|| comm.clone());
        }
        match looked_at {
            true => self.remember(pid, &vmm),
            // At its next event, or by the next look for VMs.
            false => self.no_room += 1,
        }
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
    use std::{collections::BTreeSet, fs};

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
        let identity = registry.identify(&event, |_| true).unwrap();
        let EventKind::Vmm(vmm) = identity.what else {
            panic!("{identity:?}")
        };
        assert_eq!((vmm.is_vmm, vmm.vmm.as_deref()), (None, Some("vmm")));
        assert!(registry.identify(&event, |_| true).is_none(), "introduced once");
        let end = EventKind::TaskExit {
            exit_code: 0,
            live: Some(0),
            comm: "vmm".into(),
        };
        assert!(
            registry
                .identify(
                    &Event {
                        t: 6,
                        tid: 99,
                        pid: 99,
                        vcpu: None,
                        what: end
                    },
                    |_| true
                )
                .is_none()
        );
        assert!(
            registry.identify(&event, |_| true).is_some(),
            "the next process of this number is another"
        );
    }

    /// A signal of poison that a process has sent itself.
    fn own_signal(pid: u32) -> Event {
        Event {
            t: 5,
            tid: pid,
            pid,
            vcpu: None,
            what: EventKind::Sigbus {
                hva: poisontrace_model::hex::Hex(0x1000),
                severity: poisontrace_model::event::SigbusSeverity::ActionRequired,
                lsb: 12,
                target_tid: pid,
                target_pid: pid,
                forced: true,
                comm: "hog".into(),
            },
        }
    }

    #[test]
    fn many_processes_that_signal_themselves_take_a_bounded_time() {
        let proc = tempfile::tempdir().unwrap();
        let many: Vec<&str> = vec!["/dev/null"; 2000];
        for pid in 100..140 {
            fake(proc.path(), pid, b"hog\0", &many);
        }
        fake(proc.path(), 200, b"qemu\0", &["anon_inode:kvm-vm"]);
        let mut registry = VmRegistry::new(proc.path());
        registry.budget = Duration::from_millis(4);
        let mut looked_at = 0;
        let began = Instant::now();
        for pid in 100..140 {
            let identity = registry.identify(&own_signal(pid), |_| true).unwrap();
            let EventKind::Vmm(vmm) = identity.what else {
                panic!("{identity:?}")
            };
            looked_at += u32::from(vmm.is_vmm == Some(false));
            assert!(vmm.vmm.is_some(), "the signal names it");
        }
        let seconds = began.elapsed().as_secs() as u32 + 1;
        assert!(
            (1..40).contains(&looked_at) || seconds > 4,
            "{looked_at} in {seconds} s"
        );
        assert!(registry.no_room() > 0, "the rest is counted");
        // What the kernel sends is no flood.
        let mut event = own_signal(200);
        event.pid = 5;
        let identity = registry.identify(&event, |_| true).unwrap();
        assert!(matches!(identity.what, EventKind::Vmm(vmm) if vmm.is_vmm == Some(true)));
    }

    #[test]
    fn a_vm_that_has_been_forgotten_is_introduced_again() {
        let proc = tempfile::tempdir().unwrap();
        fake(proc.path(), 10, b"qemu\0-name\0web\0", &["anon_inode:kvm-vm"]);
        let mut registry = TestRegistry::new(proc.path());
        assert_eq!(registry.scan().len(), 1);
        let mut registry = registry.registry;
        assert!(registry.identify(&own_signal(10), |_| true).is_none());
        let identity = registry.identify(&own_signal(10), |_| false).unwrap();
        assert!(matches!(identity.what, EventKind::Vmm(vmm) if vmm.name.as_deref() == Some("web")));
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
