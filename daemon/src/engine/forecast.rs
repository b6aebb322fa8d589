//! `forecast`: from the facts of this host and its VMs to the answer. Nothing is attached, and nothing is left.

use std::path::Path;

use crate::failure::Failure;
use poisontrace_kernel_facts::{
    facts::{
        FactsError,
        live::{capabilities, in_first_pid_namespace},
    },
    kvm::Kvm,
    vcpus::VcpuLayout,
};
use poisontrace_model::forecast::{
    Counts, VmForecast,
    facts::{HostFacts, Known, VmFacts},
    forecast,
    terms::Reason,
};
use poisontrace_report::forecast::{Document, document, limits};
use poisontrace_sources::{
    host::machine,
    inputs::forecast::{self as inputs, Versions, Vms},
    probes::{
        load::LoadError,
        vcpus::{self, VcpuIterator, Vcpus},
    },
};

/// Where the vCPUs' facts come from.
pub enum Source<'a> {
    /// The running kernel.
    Kernel,
    /// What an iterator wrote on some host.
    Recorded(&'a [u8]),
    /// They are not read.
    None,
}

/// Each VM with its answer, and the facts of the host.
pub struct Forecasts {
    pub host: HostFacts,
    pub vms: Vec<(VmFacts, VmForecast)>,
    /// What limits the answer.
    pub limits: Vec<String>,
    /// Processes that could not be looked at.
    hidden: u64,
    /// All that the answer hangs on was read.
    pub complete: bool,
}

impl Forecasts {
    /// The answer with its text.
    pub fn document(self) -> Document {
        document(
            machine::this_host(),
            &self.host,
            &self.vms,
            self.limits,
            self.hidden,
        )
    }
}

/// Answers for the host whose files lie under `root` (`/`).
///
/// # Errors
/// A host without KVM, and a PID namespace of its own, in which the host's VMs do not show.
pub fn answer(root: &Path, source: &Source) -> Result<Forecasts, Failure> {
    let kvm = Kvm::of(root);
    if kvm == Kvm::Absent {
        return Err(Failure::new(
            "this host has no KVM (no /sys/module/kvm): no guest can run; load kvm_intel or kvm_amd",
        ));
    }
    if !in_first_pid_namespace(root) {
        return Err(FactsError::PidNamespace.into());
    }
    let mut found = inputs::vms(&root.join("proc"));
    let mut limits = Vec::new();
    if kvm == Kvm::Idle {
        limits.push(limits::kvm_idle());
    }
    if let Err(reason) = add_vcpus(&mut found, || read_vcpus(root, source)) {
        limits.push(limits::no_vcpus(reason));
    }
    Ok(of(inputs::host::read(root), found, limits))
}

/// Loads the iterator over the vCPUs of the host whose files lie under `root`, with what that may take.
///
/// # Errors
/// Why the vCPUs of this host cannot be read.
pub fn iterator(root: &Path) -> Result<VcpuIterator, Reason> {
    let held = capabilities(root);
    let may = |name: &str| held.contains(name);
    if !(may("sys_admin") || may("bpf") && may("perfmon")) {
        return Err(Reason::NotPermitted);
    }
    VcpuIterator::load(&VcpuLayout::read(root)?).map_err(|err| reason(&err))
}

/// VMs that are known, by what an error would do to each.
pub fn counts(
    root: &Path,
    pids: &[u32],
    versions: &Versions,
    iterator: &mut Result<VcpuIterator, Reason>,
) -> Counts {
    let mut found = inputs::vms_of(&root.join("proc"), pids, versions);
    // Without them the counts have unknown pairs.
    let _ = add_vcpus(&mut found, || match iterator {
        Ok(iterator) => run(iterator),
        Err(reason) => Err(*reason),
    });
    let forecasts = of(inputs::host::read(root), found, Vec::new()).vms;
    Counts::of(forecasts.iter().map(|(_, forecast)| forecast))
}

/// Why nothing was read stands in the answer, and the kernel's own words in the log.
fn read_vcpus(root: &Path, source: &Source) -> Result<Vcpus, Reason> {
    match source {
        Source::None => Err(Reason::NoIterator),
        Source::Recorded(bytes) => Ok(vcpus::decode(bytes)),
        Source::Kernel => run(&mut iterator(root)?),
    }
}

fn run(iterator: &mut VcpuIterator) -> Result<Vcpus, Reason> {
    let bytes = iterator.run().map_err(|err| reason(&err))?;
    Ok(vcpus::decode(&bytes))
}

fn reason(err: &LoadError) -> Reason {
    match err {
        LoadError::NotBuiltIn => Reason::NotBuiltIn,
        err => {
            tracing::warn!(error = %err, "cannot read the vCPUs from the kernel");
            Reason::NoIterator
        }
    }
}

/// Reads the vCPUs where there is a VM, and notes with each VM why they could not be read.
fn add_vcpus(found: &mut Vms, read: impl FnOnce() -> Result<Vcpus, Reason>) -> Result<(), Reason> {
    if found.vms.is_empty() {
        return Ok(());
    }
    read()
        .map(|vcpus| add(found, vcpus))
        .inspect_err(|reason| found.vms.iter_mut().for_each(|vm| vm.vcpus = Known::Not(*reason)))
}

fn add(found: &mut Vms, mut vcpus: Vcpus) {
    let absent = match vcpus.truncated {
        true => Reason::Truncated,
        false => Reason::ProcessGone,
    };
    for vm in &mut found.vms {
        let of_vm = vcpus.by_process.remove(&vm.pid);
        vm.vcpus = of_vm.map_or(Known::Not(absent), Known::Is);
    }
}

fn of(host: HostFacts, found: Vms, mut limits: Vec<String>) -> Forecasts {
    if found.denied > 0 {
        limits.push(limits::denied(found.denied));
    }
    if found.left_out > 0 {
        limits.push(limits::left_out(found.left_out));
    }
    limits.push(limits::assumptions());
    let hidden = found.denied.saturating_add(found.left_out);
    let complete = hidden == 0 && found.vms.iter().all(is_complete);
    let vms = found.vms.into_iter().map(|vm| {
        let forecast = forecast(&host, &vm);
        (vm, forecast)
    });
    Forecasts {
        vms: vms.collect(),
        host,
        limits,
        hidden,
        complete,
    }
}

fn is_complete(vm: &VmFacts) -> bool {
    let vcpus = matches!(vm.vcpus, Known::Is(_));
    vcpus && matches!(vm.sigbus, Known::Is(_)) && matches!(vm.backing, Known::Is(_))
}
