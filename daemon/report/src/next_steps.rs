//! What to do now, in words; each names the next command.

use std::borrow::Cow;

use super::container::kubevirt;
use poisontrace_model::incident::next_steps::NextStep;

/// The step as a sentence.
pub fn message(step: &NextStep) -> Cow<'static, str> {
    match step {
        NextStep::StartGuest { name } => format!(
            "Start the guest again (libvirt: `virsh start {0}`, or `virsh reset {0}` if it hangs): it gets other memory (a reset inside the same QEMU process remaps the page as well).",
            name.as_deref().unwrap_or("NAME")
        ).into(),
        NextStep::StartGuestOfPod { name, pod_uid } => match name.as_deref().and_then(kubevirt) {
            Some((namespace, name)) => format!(
                "Start the guest again (KubeVirt: `virtctl start {name} -n {namespace}`, unless its runStrategy has done so): it gets other memory.",
            ),
            None => format!(
                "Let the pod's controller start the guest again (`kubectl get pods -A -o custom-columns=:.metadata.namespace,:.metadata.name,:.metadata.uid | grep {pod_uid}` names the pod, `kubectl delete pod` replaces it): it gets other memory.",
            ),
        }
        .into(),
        NextStep::ExplainRelated { ids, more } => format!(
            "Other guests used the same host page; explain them too: {}{}.",
            ids.iter()
                .map(|id| format!("poisontrace explain {id}"))
                .collect::<Vec<_>>()
                .join(", "),
            match more {
                0 => String::new(),
                more => format!(", and {more} more (`poisontrace incidents`)"),
            }
        ).into(),
        NextStep::FindDimm { pfn } => format!(
            "Find the DIMM of physical address {:#x} (`ras-mc-ctl --errors`, EDAC in `journalctl -k`, or `ipmitool sel list`) and have it replaced unless this is its first error.",
            pfn.0.saturating_mul(4096)
        ).into(),
        NextStep::ReplaceDimm { label } => format!(
            "Have DIMM {label} replaced unless this is its first error (`ras-mc-ctl --errors` counts them): the host's hardware log names it for this page.",
        ).into(),
        NextStep::DoNotMigrate => "Do not live-migrate the guest before it has been reset: QEMU refuses while the guest holds a poisoned page (9.0 and later), and an older QEMU dies when it reads the page. Agree on a reboot with its owner; it frees the page.".into(),
        NextStep::ResetStuckGuest => "Reset the guest: its vCPU cannot get past this page. Check its kernel's command line (mce=off, nomce) and its other poisoned pages (`poisontrace incidents`).".into(),
        NextStep::AddOverflowRecovery => "Give the guest's CPU model MCA overflow recovery and SUCCOR (QEMU: +overflow-recov,+succor on AMD) so that its kernel can survive the next error.".into(),
        NextStep::UseErrorRecovery => "The guest's CPU model makes every notification fatal: use one with software error recovery (MCG_SER_P), or a VMM that does not pass action-optional errors on to it (QEMU does).".into(),
        NextStep::FindOtherPages => "Look for other poisoned pages of this guest (`poisontrace incidents`): it met one while it handled another. Restart a guest that has several.".into(),
        NextStep::EnableMachineChecks => "The guest ran with machine checks disabled: check its kernel's command line (mce=off, nomce) and its CPU model (QEMU: +mce,+mca); firmware and boot loaders disable them too.".into(),
        NextStep::AvoidVmm => "This VMM dies with any poisoned page of its guest: keep its guests off this host until the memory is replaced.".into(),
        NextStep::FindSimultaneousErrors => "Two errors came at once: look for other poisoned pages at that time (`journalctl -k --grep 'Memory failure'`); a failing DIMM causes more.".into(),
        NextStep::LeaveGuestAlone => "The guest is not the cause and needs no analysis: the page was the VMM's own memory.".into(),
        NextStep::FixMceControls => "The VMM sets MCG_CTL or a bank's CTL so that KVM drops its injections: both must be all ones (KVM_SET_MSRS) before KVM_X86_SET_MCE. Report it to the VMM's vendor.".into(),
        NextStep::RestartPrivateGuest => "Restart the guest: private memory has no way yet to report a poisoned page to it, and its state cannot be saved.".into(),
        NextStep::KeepConsole => "Keep the guest's console log of the panic (libvirt: /var/log/libvirt/qemu, or its console): the backtrace shows which kernel function accessed the page.".into(),
        NextStep::UpdateGuestKernel => "Update the guest's kernel: one older than 5.19 can flush a poisoned page; if the error covers a whole page, as QEMU reports it, 5.8 and newer, and 5.4.y and 4.19.y with the fix, do not.".into(),
        NextStep::EvacuateHost => "Move the guests off this host and reboot it: the kernel could not take the page out of use (a split of a huge page or an unmapping failed, as with pages that VFIO has pinned), so the next access kills another process or panics the host.".into(),
        NextStep::KillVmm => "Kill the VMM: its vCPU cannot get past this page.".into(),
        NextStep::LookElsewhere => "Look elsewhere for the cause: the VMM's own log, `coredumpctl list`, and `journalctl -k --grep 'Out of memory'`.".into(),
        NextStep::CheckClaim => "Leave the memory of this host alone: its kernel has lost none. After a live migration look at the host that the guest came from (QEMU marks the pages that were poisoned there); otherwise ask who runs this VMM, and look for failed reads of the swap device (`journalctl -k --grep 'swap|I/O error'`).".into(),
        NextStep::RestartGuestsElsewhere => "All guests of this host went down with its kernel: bring them up on another host, and keep them off this one until the cause is found.".into(),
        NextStep::KeepHostDump => "Keep the host's dump or console log of the panic (kdump: /var/crash; pstore: /sys/fs/pstore; serial console of the BMC): its backtrace shows which function of its kernel accessed the page.".into(),
        NextStep::ExamineProcessor => "Have the processor, its cooling and its board examined (`ipmitool sel list`; firmware and microcode updates): the machine check names no memory.".into(),
        NextStep::FindKernel => "Find out which machine logged this: a physical machine's log has DMI or PPIN lines of a vendor, a guest's has \"Hypervisor detected\". Give the whole log, or that of the other side, to `poisontrace explain --from`.".into(),
        NextStep::AskPlatform { name } => format!(
            "Give time and address to the operator of the platform ({name}): the host's memory and log are theirs. Start the guest again by the platform's own means; it may come up on other memory."
        ).into(),
        NextStep::FindSigbusReason => "Find the reason of the SIGBUS in the host's log (`journalctl -k --grep 'Memory failure|hardware memory corruption'`); where it shows no poison, look at free huge pages (`grep Huge /proc/meminfo`) and at the size of the guest's memory file.".into(),
        NextStep::ReplaceVmm => "Migrate the guest away, or restart its VMM at a quiet time: the page is memory of the VMM itself, and its next access ends the VMM and the guest.".into(),
        NextStep::KeepMinidump => "Keep the guest's minidump (C:\\Windows\\Minidump) and its WHEA events (`Get-WinEvent -ProviderName Microsoft-Windows-WHEA-Logger`): they name bank and address of the machine check.".into(),
        NextStep::EnableRecovery => "Set vm.memory_failure_recovery to 1 (sysctl): at 0 the host's kernel panics for each memory error, and all guests end with it.".into(),
        NextStep::DisableEarlyKill => "Set vm.memory_failure_early_kill to 0 (sysctl): this VMM then ends only if its guest accesses the page, and not for a page that nothing uses.".into(),
        NextStep::UseHostVendor => "Give the guest a CPU model of the host's own vendor (libvirt: host-model): KVM on AMD hides software error recovery (MCG_SER_P) from a guest with an Intel model, and its kernel takes every notification for fatal.".into(),
        NextStep::UpdateQemu => "Run the guest on QEMU 9.1 or newer with +overflow-recov,+succor: an older one injects Intel's machine checks into an AMD guest, and has neither property.".into(),
        NextStep::AvoidHugePages => "Back the guest with transparent huge pages or 4 KiB pages if it must outlive a memory error: an error takes a whole page of hugetlbfs from it, of which its kernel learns 4 KiB.".into(),
        NextStep::AvoidPinnedThp => "Back the guest with hugetlbfs, or switch transparent huge pages off for it (madvise): the kernel cannot split one that VFIO has pinned, so the error stays in use.".into(),
        NextStep::UseRecoveringHost => "Keep guests that matter off this host: its processor cannot recover from an error that is consumed (no MCG_SER_P or SUCCOR), and its kernel panics.".into(),
        NextStep::RestartBeforeError => "Restart the guest before the next error: its vCPU has an unread or unfinished machine check, and cannot take another.".into(),
        NextStep::SearchKernelLog => "Search the host's kernel log for the page (`journalctl -k --grep 'Memory failure'`) and for its DIMM (`ras-mc-ctl --errors`).".into(),
    }
}
