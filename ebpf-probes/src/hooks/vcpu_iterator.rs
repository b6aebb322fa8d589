//! `forecast`: the machine-check state of every vCPU of the host. An iterator over open files (`iter/task_file`, Linux 5.8 on):
//! it runs only while somebody reads it, and hooks nothing.
//!
//! A file is a vCPU's by its ioctl function, kvm_vcpu_ioctl() (virt/kvm/kvm_main.c), whose address the daemon names. Where the kernel
//! keeps that to CAP_SYSLOG, it is one by its name, `kvm-vcpu:N`, and by its file system: the names of anonymous inodes are the kernel's
//! to choose (create_vcpu_fd()), those of all other files their owners'.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    bindings::seq_file,
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_probe_read_kernel as probe_read, bpf_seq_write},
    },
};
use poisontrace_probes::vcpu::{BANK, Bank, VCPU, Vcpu, known};

use super::fields::{
    ARCH_BANKS, ARCH_CPUID, ARCH_CPUID_COUNT, ARCH_CR4, ARCH_MCG_CAP, ARCH_MCG_CTL, ARCH_MCG_STATUS,
    DENTRY_NAME, FILE_INODE, FILE_OPERATIONS, FILE_PATH, FILE_PRIVATE, INODE_SUPER, NAME_TEXT,
    OPERATIONS_IOCTL, Offset, PATH_DENTRY, SUPER_MAGIC, TASK_TGID, VCPU_ARCH, VCPU_NUMBER, member,
};

/// Address of kvm_vcpu_ioctl(); 0: not known, and then the name decides.
#[unsafe(no_mangle)]
static KVM_VCPU_IOCTL: Global<u64> = Global::new(0);

/// `struct bpf_iter__task_file` (kernel/bpf/task_iter.c).
#[repr(C)]
#[derive(Clone, Copy)]
struct Context {
    meta: u64,
    task: u64,
    fd: u64,
    file: u64,
}

/// `struct bpf_iter_meta` (include/linux/bpf.h).
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// `struct kvm_cpuid_entry2` (uapi asm/kvm.h) up to EDX.
#[repr(C)]
#[derive(Clone, Copy)]
struct CpuidEntry {
    function: u32,
    index: u32,
    flags: u32,
    eax: u32,
    ebx: u32,
    ecx: u32,
    edx: u32,
}

/// include/uapi/linux/magic.h
const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;
const NAME: &[u8; 9] = b"kvm-vcpu:";
/// Of a whole entry.
const ENTRY_BYTES: u64 = 40;
/// KVM_MAX_CPUID_ENTRIES is 256; QEMU has some 50.
const MAX_ENTRIES: u32 = 128;
const RAS_LEAF: u32 = 0x8000_0007;
/// KVM_MAX_MCE_BANKS; each has CTL, STATUS, ADDR and MISC.
const MAX_BANKS: u32 = 32;
const BANK_BYTES: u64 = 32;
const VAL: u64 = 1 << 63;

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
fn vcpu_iterator(ctx: *mut c_void) -> i32 {
    // Read as numbers: a pointer that the verifier knows allows no arithmetic with an offset of ours.
    if let Some(Context { task, file, .. }) = at::<Context>(ctx as u64)
        && task != 0
        && file != 0
    {
        // SAFETY: the verifier knows the context of this iterator and the pointers in it, of which bpf_seq_write() wants this.
        let seq = unsafe { (*(*ctx.cast::<*const Meta>())).seq };
        let _ = one(seq, task, file);
    }
    0
}

#[inline(always)]
fn one(seq: *mut seq_file, task: u64, file: u64) -> Option<()> {
    let is_vcpu = match KVM_VCPU_IOCTL.load() {
        0 => named(file)?,
        wanted => {
            let operations = member(file, &FILE_OPERATIONS)?.0;
            member(operations, &OPERATIONS_IOCTL)?.0 == wanted
        }
    };
    if !is_vcpu {
        return None;
    }
    let address = member(file, &FILE_PRIVATE)?.0;
    let arch = address + u64::from(VCPU_ARCH.get()?);
    let mut vcpu = Vcpu {
        kind: VCPU,
        known: 0,
        vcpu: address,
        tgid: member(task, &TASK_TGID)? as u32,
        number: member(address, &VCPU_NUMBER)? as u32,
        mcg_cap: 0,
        mcg_status: 0,
        mcg_ctl: 0,
        cr4: 0,
        vendor: [0; 3],
        ras: 0,
    };
    vcpu.known |= register(&mut vcpu.mcg_cap, arch, &ARCH_MCG_CAP, known::CAP);
    vcpu.known |= register(&mut vcpu.mcg_status, arch, &ARCH_MCG_STATUS, known::STATUS);
    vcpu.known |= register(&mut vcpu.mcg_ctl, arch, &ARCH_MCG_CTL, known::CTL);
    vcpu.known |= register(&mut vcpu.cr4, arch, &ARCH_CR4, known::CR4);
    let cap = vcpu.mcg_cap;
    cpuid(arch, &mut vcpu);
    if vcpu.known & known::CAP != 0 && banks(seq, address, arch, cap).is_some() {
        vcpu.known |= known::BANKS;
    }
    write(seq, &vcpu)
}

/// Whether the file is an anonymous inode's with the name of a vCPU; `kvm-vcpu-stats:N` is another.
#[inline(always)]
fn named(file: u64) -> Option<bool> {
    let inode = member(file, &FILE_INODE)?.0;
    let of = member(inode, &INODE_SUPER)?.0;
    if member(of, &SUPER_MAGIC)? != ANON_INODE_FS_MAGIC {
        return Some(false);
    }
    let path = file + u64::from(FILE_PATH.get()?);
    let dentry = member(path, &PATH_DENTRY)?.0;
    if dentry == 0 {
        return Some(false);
    }
    let name = dentry + u64::from(DENTRY_NAME.get()?);
    let text: [u8; NAME.len()] = at(member(name, &NAME_TEXT)?.0)?;
    Some(text == *NAME)
}

/// Reads a register, and returns its bit if that succeeds: by arithmetic, as with a branch for each the verifier would go through the
/// loops below once for every combination.
#[inline(always)]
fn register(into: &mut u64, arch: u64, offset: &Offset<u64>, bit: u32) -> u32 {
    let Some(offset) = offset.get() else { return 0 };
    let from = arch + u64::from(offset);
    // SAFETY: fault-safe read of kernel memory into eight bytes of ours.
    let failed = unsafe { probe_read((into as *mut u64).cast(), 8, from as *const c_void) };
    bit & !((failed >> 63) as u32)
}

/// A read that cannot fault, of what the layout does not name.
#[inline(always)]
fn at<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: fault-safe read of kernel memory.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

#[inline(always)]
fn cpuid(arch: u64, vcpu: &mut Vcpu) -> Option<()> {
    let count = u32::try_from(member(arch, &ARCH_CPUID_COUNT)?).ok()?;
    let entries = member(arch, &ARCH_CPUID)?.0;
    if entries == 0 {
        return None;
    }
    for n in 0..MAX_ENTRIES {
        if n >= count {
            break;
        }
        let entry: CpuidEntry = at(entries + u64::from(n) * ENTRY_BYTES)?;
        if entry.function == 0 {
            vcpu.vendor = [entry.ebx, entry.edx, entry.ecx];
            vcpu.known |= known::VENDOR;
        }
        if entry.function == RAS_LEAF {
            vcpu.ras = entry.ebx;
            vcpu.known |= known::RAS;
        }
    }
    if count <= MAX_ENTRIES {
        vcpu.known |= known::RAS;
    }
    Some(())
}

#[inline(always)]
fn banks(seq: *mut seq_file, address: u64, arch: u64, cap: u64) -> Option<()> {
    let banks = member(arch, &ARCH_BANKS)?.0;
    let count = (cap & 0xff) as u32;
    if banks == 0 {
        return None;
    }
    for bank in 0..MAX_BANKS {
        if bank >= count {
            break;
        }
        let status: u64 = at(banks + u64::from(bank) * BANK_BYTES + 8)?;
        if status & VAL != 0 {
            let held = Bank {
                kind: BANK,
                bank,
                vcpu: address,
                status,
            };
            write(seq, &held)?;
        }
    }
    Some(())
}

/// What does not fit is written again by the kernel, with a larger buffer (bpf_seq_read()).
#[inline(always)]
fn write<T>(seq: *mut seq_file, what: &T) -> Option<()> {
    let bytes = size_of::<T>() as u32;
    // SAFETY: `what` is initialised, without padding, and `bytes` long.
    let written = unsafe { bpf_seq_write(seq, (what as *const T).cast_mut().cast(), bytes) };
    (written == 0).then_some(())
}
