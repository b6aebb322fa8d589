//! The guest: one loop in real mode that leaves by one kind of exit.

use anyhow::{Result, ensure};
use lab_protocol::bench::Kind;

use storm_vmm::memory::Memory;

/// Where the code starts, and where RIP does.
pub const CODE: u64 = 0x1000;
/// Pages that the faults are taken on.
pub const FAULTS: u64 = 0x10_0000;
pub const FAULT_PAGES: u32 = 256;
/// A page that nothing uses.
pub const SPARE: u64 = 0x8_0000;

pub const LOOP: u16 = 0x90;
pub const DONE: u16 = 0x91;
/// The guest has touched all [`FAULT_PAGES`] and wants them untouched again.
pub const AGAIN: u16 = 0x92;

/// movb (%edi),%al
pub const LOAD: [u8; 3] = [0x67, 0x8a, 0x07];

/// IA32_MISC_ENABLE: KVM keeps a value of its own on every processor, so each read is an exit.
const MSR: u32 = 0x1a0;

/// The loop's counter is ESI: CPUID and RDMSR overwrite the others.
pub fn write(memory: &mut Memory, kind: Kind, exits: u32) -> Result<()> {
    let mut code = vec![0x66, 0xbe]; // mov $exits,%esi
    code.extend(exits.to_le_bytes());
    if kind == Kind::Fault {
        ensure!(
            exits.is_multiple_of(FAULT_PAGES),
            "faults come in passes of {FAULT_PAGES}"
        );
        code.truncate(2);
        code.extend((exits / FAULT_PAGES).to_le_bytes());
    }
    let top = code.len();
    match kind {
        Kind::Cpuid => code.extend([0x66, 0x31, 0xc0, 0x0f, 0xa2]), // xor %eax,%eax; cpuid
        Kind::Msr => {
            code.extend([0x66, 0xb9]); // mov $MSR,%ecx
            code.extend(MSR.to_le_bytes());
            code.extend([0x0f, 0x32]); // rdmsr
        }
        Kind::Pio => code.extend(out(LOOP)?),
        Kind::Hlt => code.push(0xf4),
        Kind::Poison => {
            code.extend([0x66, 0xbf]); // mov $SPARE,%edi
            code.extend(u32::try_from(SPARE)?.to_le_bytes());
            code.extend(LOAD);
            code.extend([0x66, 0xbe, 1, 0, 0, 0]); // mov $1,%esi: the VMM goes round
        }
        Kind::Fault => {
            code.extend([0x66, 0xbf]); // mov $FAULTS,%edi
            code.extend(u32::try_from(FAULTS)?.to_le_bytes());
            code.extend([0x66, 0xb9]); // mov $FAULT_PAGES,%ecx
            code.extend(FAULT_PAGES.to_le_bytes());
            code.extend([0x67, 0xc6, 0x07, 0x01]); // movb $1,(%edi)
            code.extend([0x66, 0x81, 0xc7, 0x00, 0x10, 0, 0]); // add $4096,%edi
            code.extend([0x66, 0x49, 0x75, 0xf1]); // dec %ecx; jnz to the movb
            code.extend(out(AGAIN)?);
        }
    }
    code.extend([0x66, 0x4e]); // dec %esi
    let back = i8::try_from(top)? - i8::try_from(code.len() + 2)?;
    code.extend([0x75, back.cast_unsigned()]); // jnz
    code.extend(out(DONE)?);
    memory.write(CODE, &code)
}

/// out %al,$port
fn out(port: u16) -> Result<[u8; 2]> {
    Ok([0xe6, u8::try_from(port)?])
}
