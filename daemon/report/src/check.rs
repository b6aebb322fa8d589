//! What `poisontrace check` prints: the probe table, the plan for a kernel, and what narrows the answers on it.

use poisontrace_model::event::probe::{Hook, ProbeBinding, ProbeId, ProbeReason, ProbeStatus};

use crate::probes;

/// What people call a row whose function no kernel has.
const INJECTION: &str = "known as kvm_inject_mce";

/// What is known of a kernel, as the attach plan reads it.
#[derive(Clone, Debug)]
pub struct Kernel<'a> {
    /// As `uname -r` has it.
    pub release: &'a str,
    /// State of KVM.
    pub kvm: Kvm<'a>,
    /// Whether guests have nested paging; `None`: not known.
    pub nested_paging: Option<bool>,
    /// Modules, and vmlinux, that BTF describes.
    pub btf: Vec<&'a str>,
    /// Whether there are kprobes.
    pub kprobes: bool,
    /// Mode of lockdown; `None`: not seen.
    pub lockdown: Option<&'a str>,
}

/// KVM on a kernel.
#[derive(Clone, Debug)]
pub enum Kvm<'a> {
    /// Neither built in nor loaded.
    Absent,
    /// Loaded, without the module of a processor.
    Idle,
    /// Built in.
    BuiltIn,
    /// Loaded, with these modules.
    LoadedWith(&'a [String]),
}

/// A row of the plan.
#[derive(Clone, Debug)]
pub struct PlannedProbe<'a> {
    /// The row.
    pub probe: &'a ProbeId,
    /// What is attached until there is poison; `None`: the row itself.
    pub standby: Option<ProbeBinding>,
    /// What it can be attached to, best first; empty: nothing.
    pub alternatives: Vec<Vec<Hook>>,
    /// Why it is not attached to others, and what it cannot read.
    pub reasons: Vec<ProbeReason>,
}

/// A field that the programs read.
#[derive(Clone, Debug)]
pub struct PlannedField<'a> {
    /// Global of the BPF object that holds its offset.
    pub global: &'a str,
    /// Structure or tracepoint (`group/name`).
    pub of: &'a str,
    /// Name in it.
    pub name: &'a str,
    /// Shape in which it is read (`u64`).
    pub shape: &'a str,
    /// Its offset; `None`: this kernel has no such field.
    pub offset: Option<u32>,
}

/// What narrows the answers on a kernel, beside its probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// KVM is not loaded.
    KvmAbsent,
    /// KVM is loaded without the module of a processor.
    KvmIdle,
    /// KVM runs its guests without VMX and SVM.
    OtherKvm,
    /// Guests run on shadow paging.
    ShadowPaging,
    /// Memory that was poisoned before, in kB (HardwareCorrupted in /proc/meminfo).
    Poisoned {
        /// kB.
        kb: u64,
    },
}

/// The line of a row of the probe table.
pub fn row(status: &ProbeStatus) -> String {
    let probe = &status.probe;
    let why = match status.why.as_slice() {
        [] if *probe == ProbeId::VcpuIoctlMce && status.binding.is_some() => INJECTION.to_owned(),
        why => probes::reasons(why),
    };
    match status.binding.as_ref().map(probes::binding) {
        Some(binding) if why.is_empty() => format!("attached     {probe:<22} {binding}\n"),
        Some(binding) => format!("attached     {probe:<22} {binding} ({why})\n"),
        None => {
            let lost = probes::unavailable_info(status);
            format!("unavailable  {probe:<22} {why}; lost: {lost}\n")
        }
    }
}

/// The line of a row's program. `loaded`, `verified`: instructions, `None` where the kernel does not count them.
pub fn program(name: &str, loaded: Option<u32>, verified: Option<u32>) -> String {
    let number = |n: Option<u32>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    format!(
        "  program    {name:<22} {} instructions, {} of them verified\n",
        number(loaded),
        number(verified)
    )
}

/// Whether anything is attached to the hooks of every exit while there is no poison. `why`: it is, from the start.
pub fn hot_path(why: Option<&[ProbeReason]>) -> String {
    match why {
        None => {
            "hot path     nothing is attached to kvm_exit, kvm_entry, kvm_msr and kvm_pio until there is poison\n".to_owned()
        }
        Some(why) => format!(
            "hot path     programs are attached to kvm_exit and kvm_entry from the start ({})\n",
            probes::reasons(why)
        ),
    }
}

/// The same for the service, where it differs.
pub fn hot_path_of_service(why: &[ProbeReason]) -> String {
    format!(
        "note         the service attaches its programs to them from the start: {}\n",
        probes::reasons(why)
    )
}

/// Whether the attached probes allow a verdict: `missing` are those without which there is none; `blind`: KVM traces no
/// exit here ([`Limit::OtherKvm`]).
pub fn verdict(missing: &[ProbeId], blind: bool) -> String {
    match missing {
        [] if blind => {
            "a verdict is possible on this kernel, but without the guest's accesses, their number and their \
                        times: KVM traces no exit\n"
                .to_owned()
        }
        [] => "a verdict is possible on this kernel\n".to_owned(),
        missing => format!(
            "no verdict is possible on this kernel without: {}\n",
            names(missing)
        ),
    }
}

/// As [`verdict`], for a health check; `None`: a verdict is possible.
pub fn not_ready(missing: &[ProbeId]) -> Option<String> {
    (!missing.is_empty()).then(|| format!("no verdict is possible without: {}", names(missing)))
}

fn names(probes: &[ProbeId]) -> String {
    let names: Vec<&str> = probes.iter().map(ProbeId::name).collect();
    names.join(", ")
}

/// The line of a limit.
pub fn limit(limit: Limit) -> String {
    let text = match limit {
        Limit::KvmAbsent => "KVM is not loaded: modprobe kvm_intel or kvm_amd; `run` waits for it".to_owned(),
        Limit::KvmIdle => "KVM is loaded without kvm_intel or kvm_amd: no guest can run".to_owned(),
        Limit::OtherKvm => "KVM runs its guests without VMX and SVM here (kvm_pvm, for one): exits, page faults and entries are not traced, so no access of a guest is seen; signals and memory_failure() are".to_owned(),
        Limit::ShadowPaging => {
            "shadow paging (ept=0 or npt=0): fault addresses are guest-virtual, GPAs are not known".to_owned()
        }
        Limit::Poisoned { kb } => {
            format!("{kb} kB are poisoned already (HardwareCorrupted): armed from the start")
        }
    };
    format!("note         {text}\n")
}

/// The line of a kernel.
pub fn kernel(kernel: &Kernel<'_>) -> String {
    let kvm = match kernel.kvm {
        Kvm::Absent => "KVM not loaded".to_owned(),
        Kvm::Idle => "KVM loaded, no processor's module on it".to_owned(),
        Kvm::BuiltIn => "KVM built in".to_owned(),
        Kvm::LoadedWith(users) => format!("KVM loaded with {}", users.join(", ")),
    };
    let paging = match kernel.nested_paging {
        Some(true) => "nested paging",
        Some(false) => "shadow paging",
        None => "kind of paging not known",
    };
    let btf = match kernel.btf.as_slice() {
        [] => "nothing".to_owned(),
        all => all.join(", "),
    };
    let kprobes = if kernel.kprobes { "kprobes" } else { "no kprobes" };
    format!(
        "kernel       {}; {kvm}, {paging}; BTF of {btf}; {kprobes}; lockdown {}\n",
        kernel.release,
        kernel.lockdown.unwrap_or("not seen")
    )
}

/// The line of a row of the plan.
pub fn planned(row: &PlannedProbe<'_>) -> String {
    let reasons = probes::reasons(&row.reasons);
    if row.alternatives.is_empty() {
        let lost = probes::unavailable(row.probe).unwrap_or_default();
        return format!("unavailable  {:<22} {reasons}; lost: {lost}\n", row.probe);
    }
    let notes = match reasons.is_empty() {
        true => String::new(),
        false => format!(" ({reasons})"),
    };
    let standby = row
        .standby
        .as_ref()
        .map_or_else(String::new, |held| format!("{}; then ", probes::binding(held)));
    let ways: Vec<String> = row.alternatives.iter().map(|way| probes::hooks(way)).collect();
    format!(
        "planned      {:<22} {standby}{}{notes}\n",
        row.probe,
        ways.join("; else ")
    )
}

/// The line of a field of the plan.
pub fn field(field: &PlannedField<'_>) -> String {
    let at = field
        .offset
        .map_or_else(|| "absent".to_owned(), |offset| format!("at {offset}"));
    format!(
        "field        {:<22} {}.{} as {}: {at}\n",
        field.global,
        field.of.replace('/', ":"),
        field.name,
        field.shape
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(probe: ProbeId, binding: Option<ProbeBinding>, why: Vec<ProbeReason>) -> ProbeStatus {
        ProbeStatus {
            probe,
            binding,
            why,
            unavailable_info: None,
        }
    }

    #[test]
    fn a_row_names_its_hooks_or_what_is_lost_without_it() {
        let fentry = ProbeBinding::Attached(vec![Hook::Fentry("vcpu_ioctl".into())]);
        assert_eq!(
            row(&status(ProbeId::VcpuIoctlMce, Some(fentry), Vec::new())),
            "attached     vcpu_ioctl_mce         fentry vcpu_ioctl (known as kvm_inject_mce)\n"
        );
        assert_eq!(
            row(&status(ProbeId::KvmMsr, None, vec![ProbeReason::KvmAbsent])),
            "unavailable  kvm_msr                KVM is not loaded; lost: whether the guest's #MC handler finished: survived and died look alike\n"
        );
    }

    #[test]
    fn a_verdict_names_the_rows_that_it_lacks() {
        assert_eq!(verdict(&[], false), "a verdict is possible on this kernel\n");
        assert!(verdict(&[], true).contains("KVM traces no exit"));
        let missing = [ProbeId::KvmExit, ProbeId::SendSigMceerr];
        assert_eq!(
            verdict(&missing, true),
            "no verdict is possible on this kernel without: kvm_exit, send_sig_mceerr\n"
        );
        assert_eq!(not_ready(&[]), None);
    }
}
