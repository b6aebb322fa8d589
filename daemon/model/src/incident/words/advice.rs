//! What to do now, most urgent first; each names the next command.

use crate::incident::{
    evidence::Evidence,
    model::{Cause, Outcome},
    verdict::Verdict,
};

/// `linked`: ids of the incidents of other VMs that held the same page of the host.
pub fn advice(e: &Evidence, v: Verdict, linked: &[String]) -> Vec<String> {
    let mut advice: Vec<String> = about_the_guest(e, v).into_iter().collect();
    advice.extend(about_the_cause(e, v));
    if !linked.is_empty() {
        advice.push(format!(
            "The same page of the host was in use by other guests too; each has its own answer: {}.",
            linked
                .iter()
                .map(|id| format!("poisontrace explain {id}"))
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    match (e.pfn, v.cause) {
        (_, Cause::NotPoison) => {}
        (Some(pfn), _) => advice.push(format!(
            "Find the DIMM of physical address {:#x} (`ras-mc-ctl --errors`, EDAC in `journalctl -k`, or `ipmitool sel list`) and have it replaced if it is not its first.",
            pfn.saturating_mul(4096)
        )),
        (None, _) => advice.push(
            "Look in the host's kernel log for the page (`journalctl -k --grep 'Memory failure'`), and for its DIMM (`ras-mc-ctl --errors`)."
                .to_owned(),
        ),
    }
    advice
}

fn name(e: &Evidence) -> &str {
    e.vmm.name.as_deref().unwrap_or("NAME")
}

fn about_the_guest(e: &Evidence, v: Verdict) -> Option<String> {
    match v.outcome {
        Outcome::GuestPanicked | Outcome::GuestReset | Outcome::VmmKilled | Outcome::VmmExited => Some(format!(
            "Start the guest again (libvirt: `virsh start {0}`, or `virsh reset {0}` where it hangs): it gets other memory (a reset inside the same QEMU process remaps the page as well).",
            name(e)
        )),
        // migrate_prepare() in QEMU's migration code, since 9.0: "Can't migrate this vm with hardware poisoned
        // memory"; before that the migration thread read the page.
        Outcome::Running | Outcome::Survived if !e.vmm_gone() => Some(
            "Do not live-migrate the guest before it has been reset: QEMU refuses while the guest holds lost memory (9.0 on), and an older QEMU dies of reading the page. Agree on a reboot with its owner; it frees the page."
                .to_owned(),
        ),
        _ => None,
    }
}

fn about_the_cause(e: &Evidence, v: Verdict) -> Option<String> {
    let text = match v.cause {
        Cause::MceNested if e.is_passed_over() => {
            "Its vCPU cannot get past this page: reset the guest. See its kernel's command line (mce=off, nomce) and for other lost pages of it (`poisontrace incidents`)."
        }
        Cause::MceOverflow => {
            "Give the guest's CPU model MCA overflow recovery and SUCCOR (QEMU: +overflow-recov,+succor on AMD) so that its kernel can survive the next one."
        }
        Cause::FatalNotification => {
            "The guest's CPU model makes every notice fatal: use one with software error recovery (MCG_SER_P), or a VMM that does not pass action-optional errors on to it (QEMU does)."
        }
        Cause::MceNested => {
            "Look for the other lost pages of this guest (`poisontrace incidents`): it met one while it dealt with another. A guest with several is better moved by a restart than left to run."
        }
        Cause::MceDisabled => {
            "The guest ran without machine checks: see its kernel's command line (mce=off, nomce) and its CPU model (QEMU: +mce,+mca); a guest in its firmware or boot loader has them off too."
        }
        Cause::SigbusUnhandled => {
            "This VMM dies with any lost page of its guest: keep its guests off this host until the memory is replaced."
        }
        Cause::SecondSigbus => {
            "Two errors came at once: look for other lost pages at that time (`journalctl -k --grep 'Memory failure'`), a failing DIMM loses more."
        }
        Cause::VmmOwnMemory => {
            "The guest is not to blame, and nothing in it needs a look: the VMM lost memory of its own."
        }
        Cause::MceDropped => {
            "The VMM sets MCG_CTL or a bank's CTL so that KVM drops what it injects: both must be all ones (KVM_SET_MSRS) before KVM_X86_SET_MCE; tell the VMM's vendor."
        }
        Cause::GuestMemfd => {
            "Private memory has no way to tell the guest of a lost page yet: start it again, its state cannot be saved."
        }
        Cause::KernelAccess => {
            "Keep the guest's console log of the panic (libvirt: /var/log/libvirt/qemu, or its console): the backtrace says what in its kernel touched the page."
        }
        Cause::Clflush => {
            "See the guest's kernel version: from 5.19 on, and with QEMU from 5.8, 5.4.y and 4.19.y on, Linux unmaps a lost page without flushing it."
        }
        Cause::SigbusSpin => "Kill the VMM: its vCPU cannot get past this page.",
        Cause::NotPoison => {
            "Look elsewhere for the end: the VMM's own log, `coredumpctl list`, and `journalctl -k --grep 'Out of memory'`."
        }
        Cause::Contained | Cause::NotTouched | Cause::Unknown => return None,
    };
    Some(text.to_owned())
}
