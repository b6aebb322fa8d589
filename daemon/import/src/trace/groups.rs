//! Which threads are one VM's. A trace shows threads; what is a process must be given (the TGID column,
//! `pid/tid` of perf) or is inferred: vCPU threads are numbered soon after their process, no VM has two vCPUs
//! of the same number, and the process that was signalled AO is the nearest below with the same name.

use std::collections::{BTreeMap, BTreeSet};

/// Farthest that a vCPU's thread number lies from its process's, where nothing shows.
const MAX_DISTANCE: u32 = 512;
/// Processes that a vCPU's thread is held against, the nearest first: each thread of a trace of many small VMs would be held
/// against hundreds.
const NEAREST: usize = 64;
const MAX_GROUPS: usize = 4096;
const MAX_SIGNALLED: usize = 4096;

/// The VMs of a trace.
#[derive(Default)]
pub struct Groups {
    /// By leader: the process, or the first thread seen of it.
    groups: BTreeMap<u32, Group>,
    /// Processes that were signalled AO, with their names.
    signalled: BTreeMap<u32, Vec<u8>>,
}

#[derive(Default)]
struct Group {
    /// Whether the leader is known for the process.
    injected: bool,
    comm: Vec<u8>,
    vcpus: BTreeMap<u32, u32>,
    running: BTreeSet<u32>,
}

/// A group as the assembler sees it.
pub struct Member {
    pub pid: u32,
    /// A VM that was not known before.
    pub new: bool,
}

impl Groups {
    /// A process was signalled.
    pub fn signalled(&mut self, pid: u32, comm: &[u8]) {
        if self.signalled.len() < MAX_SIGNALLED {
            self.signalled.insert(pid, comm.to_vec());
        }
    }

    /// Puts the vCPU thread into its VM.
    pub fn join(&mut self, tid: u32, tgid: Option<u32>, comm: &[u8], vcpu: Option<u32>) -> Member {
        let (leader, injected) = match tgid {
            Some(tgid) => (tgid, true),
            None => match self.infer(tid, comm, vcpu) {
                Some(leader) => (leader, self.signalled.contains_key(&leader)),
                None => (tid, false),
            },
        };
        let new = !self.groups.contains_key(&leader);
        if new && self.groups.len() >= MAX_GROUPS {
            self.groups.pop_first();
        }
        let group = self.groups.entry(leader).or_default();
        group.injected |= injected;
        if group.comm.is_empty() {
            group.comm = comm.to_vec();
        }
        if let Some(vcpu) = vcpu {
            group.vcpus.entry(vcpu).or_insert(tid);
        }
        group.running.insert(tid);
        Member { pid: leader, new }
    }

    fn infer(&self, tid: u32, comm: &[u8], vcpu: Option<u32>) -> Option<u32> {
        let near = tid.saturating_sub(MAX_DISTANCE)..=tid;
        let has_room = |group: &Group| match vcpu {
            Some(vcpu) => group.vcpus.get(&vcpu).is_none_or(|other| *other == tid),
            None => true,
        };
        let signalled = self
            .signalled
            .range(near.clone())
            .rev()
            .take(NEAREST)
            .find(|(pid, name)| related(name, comm) && self.groups.get(pid).is_none_or(has_room));
        let group = self
            .groups
            .range(near)
            .rev()
            .take(NEAREST)
            .find(|(_, group)| related(&group.comm, comm) && has_room(group));
        match (signalled, group) {
            (Some((pid, _)), Some((leader, _))) => Some(*pid.max(leader)),
            (Some((pid, _)), None) => Some(*pid),
            (None, Some((leader, _))) => Some(*leader),
            (None, None) => None,
        }
    }

    /// What the process is called, if not after its vCPU.
    pub fn name(&self, pid: u32) -> Option<&[u8]> {
        let comm = self
            .signalled
            .get(&pid)
            .or_else(|| self.groups.get(&pid).map(|group| &group.comm))?;
        (!is_vcpu(comm) && comm != b"<...>").then_some(comm.as_slice())
    }

    /// Whether vCPUs of this process were seen.
    pub fn is_known(&self, pid: u32) -> bool {
        self.groups.contains_key(&pid)
    }

    /// A thread ended. The VM's pid where it was the last that ran its guest.
    pub fn ended(&mut self, tid: u32, pid: u32) -> Option<u32> {
        let group = self.groups.get_mut(&pid)?;
        (group.running.remove(&tid) && group.running.is_empty()).then_some(pid)
    }
}

/// "CPU 0/KVM" (QEMU), "fc_vcpu 0", "vcpu0" and the like: a thread's name, not its VMM's.
pub fn is_vcpu(comm: &[u8]) -> bool {
    comm.starts_with(b"CPU ") || memchr::memmem::find(comm, b"vcpu").is_some()
}

/// What latency-format prints of a name.
const CUT_NAME: usize = 8;

/// Whether the names may be of one process.
fn related(process: &[u8], thread: &[u8]) -> bool {
    let cut = |short: &[u8], long: &[u8]| short.len() == CUT_NAME && long.starts_with(short);
    process == thread || cut(thread, process) || is_vcpu(thread) || thread == b"<...>" || process == b"<...>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vcpu_belongs_to_the_signalled_process_before_it() {
        let mut groups = Groups::default();
        groups.signalled(100, b"qemu-system-x86");
        groups.signalled(200, b"qemu-system-x86");
        assert_eq!(groups.join(105, None, b"CPU 0/KVM", Some(0)).pid, 100);
        assert_eq!(groups.join(205, None, b"CPU 0/KVM", Some(0)).pid, 200);
        assert_eq!(groups.join(106, None, b"CPU 1/KVM", Some(1)).pid, 100);
        assert_eq!(groups.name(100), Some(b"qemu-system-x86".as_slice()));
    }

    #[test]
    fn two_vcpus_of_one_number_are_two_vms() {
        let mut groups = Groups::default();
        assert_eq!(groups.join(105, None, b"CPU 0/KVM", Some(0)).pid, 105);
        assert_eq!(groups.join(106, None, b"CPU 1/KVM", Some(1)).pid, 105);
        assert_eq!(groups.join(205, None, b"CPU 0/KVM", Some(0)).pid, 205);
        assert_eq!(groups.join(300, Some(290), b"CPU 0/KVM", Some(0)).pid, 290);
        assert_eq!(groups.ended(105, 105), None);
        assert_eq!(groups.ended(106, 105), Some(105));
        assert_eq!(groups.ended(106, 105), None);
    }
}
