//! Synthetic events: a few VMs in storms at once, three events an exit.

use poisontrace_probes::record::{
    FailureBegin, FailureEnd, Header, PoisonExit, Record, Reentry, Sigbus, address,
};
use zerocopy::IntoBytes;

const VMS: u32 = 16;
const VCPUS: u32 = 4;
const LINES: u64 = 64;
const PAGE: u64 = 4096;
/// Between two events, ns.
pub const STEP_NS: u64 = 100;
pub const START_NS: u64 = 1_000_000_000_000;

fn header<R: Record>(pid: u32, vcpu: u32) -> Header {
    Header {
        kind: R::KIND,
        vcpu,
        t_ns: START_NS,
        tid: pid + 1 + vcpu,
        pid,
    }
}

fn pid(vm: u32) -> u32 {
    1000 + vm * 16
}

fn hva(vm: u32) -> u64 {
    0x7f00_0000_0000 + u64::from(vm) * 0x1000_0000
}

/// The poisoning of a page of each VM, as records of the probes.
pub fn beginning() -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    for vm in 0..VMS {
        let begin = FailureBegin {
            h: header::<FailureBegin>(1, 0),
            pfn: 0x10_0000 + u64::from(vm),
            flags: 0,
            in_kvm_run: 0,
            pad: 0,
        };
        let end = FailureEnd {
            h: header::<FailureEnd>(1, 0),
            ret: 0,
        };
        records.push(begin.as_bytes().to_vec());
        records.push(sigbus(1, 0, vm, 5).as_bytes().to_vec());
        records.push(end.as_bytes().to_vec());
    }
    records
}

/// A walk over each VM's page by each of its vCPUs.
pub fn walk() -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    for line in 0..LINES {
        for vm in 0..VMS {
            for vcpu in 0..VCPUS {
                let exit = PoisonExit {
                    h: header::<PoisonExit>(pid(vm), vcpu),
                    exit_ns: START_NS,
                    fault_ns: START_NS + 500,
                    gup_ns: 700,
                    gup_ret: -133,
                    signal_ns: START_NS + 1500,
                    user_ns: START_NS + 2500,
                    entry_ns: 0,
                    rip: 0xffff_ffff_8100_0000,
                    gpa: 0x10_0000 + line * 64,
                    fault_code: 0x181,
                    hva: hva(vm),
                    exit_reason: 48,
                    isa: 1,
                    gup_calls: 1,
                    user_reason: 10,
                    user_errno: -4,
                    insn_len: 0,
                    insn: [0; 16],
                    address: address::GPA,
                    recovered: 0,
                    signal_lsb: 0,
                    pad: 0,
                    before_exit_ns: 0,
                    before_entry_ns: 0,
                };
                let entry = Reentry {
                    h: header::<Reentry>(pid(vm), vcpu),
                    exit_ns: START_NS,
                    entry_ns: START_NS + 4000,
                };
                records.push(sigbus(pid(vm), vcpu, vm, 4).as_bytes().to_vec());
                records.push(exit.as_bytes().to_vec());
                records.push(entry.as_bytes().to_vec());
            }
        }
    }
    records
}

fn sigbus(sender: u32, vcpu: u32, vm: u32, code: u32) -> Sigbus {
    Sigbus {
        h: header::<Sigbus>(sender, vcpu),
        hva: hva(vm) - hva(vm) % PAGE,
        code,
        lsb: 12,
        target_tid: if code == 4 { pid(vm) + 1 + vcpu } else { pid(vm) },
        target_pid: pid(vm),
        forced: 0,
        pad: 0,
        comm: *b"qemu-system-x86\0",
    }
}
