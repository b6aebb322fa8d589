//! What the daemon gives up once its probes are attached.
//!
//! Capabilities are a thread's own, and a new thread has those of the one that starts it: [`give_up`] comes before any
//! other thread. Of what is left, only [`USED`] is in effect; [`ATTACH`] is taken up again for the moment in which KVM's
//! probes are attached once more.
//!
//! Landlock is not used here: its rule on ptrace (security/landlock/ptrace.c) forbids a restricted process to read any
//! other's /proc/PID/fd, which is how a VM is known.

use rustix::{
    io,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

/// Used as long as the daemon runs. CAP_DAC_READ_SEARCH: /proc/PID/fd of others, VMMs' logs, tracefs. CAP_SYS_PTRACE: what
/// these descriptors are, and the guest's code where that is allowed. CAP_DAC_OVERRIDE is root's only, the unit has none: VMMs'
/// QMP sockets, and a store that the service has made.
pub const USED: CapabilitySet = CapabilitySet::DAC_READ_SEARCH
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_OVERRIDE);
/// Loading and attaching. CAP_SYS_ADMIN: perf_event_open() wants it where kernel.perf_event_paranoid is above 2, on kernels of
/// distributions that have added such a level (Debian's 6.12, Ubuntu's); others are content with CAP_PERFMON.
pub const ATTACH: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_ADMIN);

/// What is done when KVM, having been unloaded, comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// It cannot: it is no module.
    Never,
    /// The probes are attached again, with what that may take.
    Attach,
    /// The same where it goes without CAP_SYS_ADMIN; else a service manager starts the daemon again.
    AttachOrStartAgain,
}

/// Gives up all capabilities of this thread but what is needed from now on, and the way to get others: the bounding set
/// (where that is allowed), the ambient set, privileges by exec.
///
/// `maps_can_be_read` is tried with [`USED`] alone: before Linux 5.19 whoever reads a map needs CAP_BPF, unless
/// kernel.unprivileged_bpf_disabled is 0.
///
/// # Errors
/// If the kernel refuses, which it does not do for less.
pub fn give_up(kvm: Return, maps_can_be_read: impl FnOnce() -> bool) -> io::Result<()> {
    // Of the sets of programs started by exec, the hook's among them. Without CAP_SETPCAP the unit's own bound holds.
    for capability in CapabilitySet::all()
        .iter()
        .filter(|one| one.bits().count_ones() == 1)
    {
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    // EINVAL: a kernel without ambient capabilities.
    match clear_ambient_capability_set() {
        Ok(()) | Err(io::Errno::INVAL) => {}
        Err(err) => return Err(err),
    }
    set_no_new_privs(true)?;
    let held = capabilities(None)?.permitted;
    let mut used = USED & held;
    keep(used, held)?;
    if !maps_can_be_read() {
        used |= CapabilitySet::BPF & held;
    }
    let held_for_return = match kvm {
        Return::Never => CapabilitySet::empty(),
        Return::Attach => ATTACH,
        Return::AttachOrStartAgain => ATTACH.difference(CapabilitySet::SYS_ADMIN),
    };
    let permitted = used | held_for_return & held;
    keep(used, permitted)
}

/// Gives up all but what writing a file of the service's takes: for threads that do nothing else.
pub fn only_write() {
    let writing = capabilities(None).map(|held| held.permitted & CapabilitySet::DAC_OVERRIDE);
    if let Err(err) = writing.and_then(|writing| keep(writing, writing)) {
        tracing::debug!(error = %err, "a thread keeps its capabilities");
    }
}

/// Does `work` with what attaching needs.
pub fn attaching<T>(work: impl FnOnce() -> T) -> T {
    let before = capabilities(None);
    if let Ok(CapabilitySets {
        effective, permitted, ..
    }) = before
        && let Err(err) = keep(effective | ATTACH & permitted, permitted)
    {
        tracing::debug!(error = %err, "no capabilities to attach with");
    }
    let done = work();
    if let Ok(CapabilitySets {
        effective, permitted, ..
    }) = before
        && let Err(err) = keep(effective, permitted)
    {
        tracing::error!(error = %err, "the capabilities to attach with stay in effect");
    }
    done
}

/// Does `work` without CAP_SYS_ADMIN in effect; `None`: it cannot be taken out of it for the moment.
pub fn without_admin<T>(work: impl FnOnce() -> T) -> Option<T> {
    let CapabilitySets {
        effective, permitted, ..
    } = capabilities(None).ok()?;
    keep(effective.difference(CapabilitySet::SYS_ADMIN), permitted).ok()?;
    let done = work();
    if let Err(err) = keep(effective, permitted) {
        tracing::error!(error = %err, "CAP_SYS_ADMIN does not come into effect again");
    }
    Some(done)
}

fn keep(effective: CapabilitySet, permitted: CapabilitySet) -> io::Result<()> {
    set_capabilities(
        None,
        CapabilitySets {
            effective,
            permitted,
            inheritable: CapabilitySet::empty(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each on a thread of its own: capabilities are a thread's.
    fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    fn held() -> CapabilitySets {
        capabilities(None).unwrap()
    }

    #[test]
    fn what_is_not_needed_cannot_be_had_any_more() {
        let before = held().permitted;
        apart(move || {
            give_up(Return::Never, || true).unwrap();
            let after = held();
            assert_eq!(after.permitted, before & USED);
            assert_eq!(after.effective, after.permitted);
            assert!(after.inheritable.is_empty());
            // A thread that is started now has no more either.
            assert_eq!(apart(held), after);
            assert_eq!(
                apart(|| {
                    only_write();
                    held().permitted
                }),
                before & CapabilitySet::DAC_OVERRIDE
            );
        });
    }

    #[test]
    fn attaching_is_allowed_for_its_moment_only_and_where_kvm_may_come_back() {
        let before = held().permitted;
        apart(move || {
            give_up(Return::Attach, || true).unwrap();
            assert_eq!(held().permitted, before & (USED | ATTACH));
            assert!(!held().effective.intersects(ATTACH));
            attaching(|| assert_eq!(held().effective, before & (USED | ATTACH)));
            assert!(!held().effective.intersects(ATTACH));
        });
    }

    #[test]
    fn a_service_gives_up_cap_sys_admin_for_good() {
        let before = held().permitted;
        apart(move || {
            give_up(Return::AttachOrStartAgain, || true).unwrap();
            assert!(!held().permitted.contains(CapabilitySet::SYS_ADMIN));
            attaching(|| {
                let wanted = CapabilitySet::BPF | CapabilitySet::PERFMON;
                assert_eq!(held().effective, before & (USED | wanted));
            });
        });
    }

    #[test]
    fn cap_sys_admin_is_out_of_effect_for_a_moment() {
        apart(|| {
            let before = held();
            let meanwhile = without_admin(held).unwrap();
            assert!(!meanwhile.effective.contains(CapabilitySet::SYS_ADMIN));
            assert_eq!(meanwhile.permitted, before.permitted);
            assert_eq!(held().effective, before.effective);
        });
    }

    #[test]
    fn a_kernel_that_wants_cap_bpf_for_reading_maps_gets_it() {
        let before = held().permitted;
        apart(move || {
            give_up(Return::Never, || false).unwrap();
            assert_eq!(held().effective, before & (USED | CapabilitySet::BPF));
        });
    }
}
