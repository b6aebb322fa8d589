//! The guest: a few instructions in 64-bit mode, its page tables, and its handler of machine checks.

use anyhow::{Context, Result, bail};
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use lab_protocol::storm::{
    BARE_EXITS, GUEST_VIRTUAL, Instruction, LINE_SIZE, LINES, Mode, Page, Poison, StormPlan,
};

use crate::memory::{Memory, PAGE};

/// The page that is poisoned, but where that is one of the page tables.
pub const POISONED: u64 = 0x10_0000;
/// A page table of its own for one more address of that page, beyond what the other page tables map.
const LAST_TABLE: u64 = 0x5000;
const BEYOND: u64 = 2 << 20;

/// Ports that the guest speaks to the VMM by.
pub const POISON_ME: u16 = 0x80;
pub const DONE: u16 = 0x81;
pub const MACHINE_CHECK: u16 = 0x82;
pub const BARE_EXITS_DONE: u16 = 0x83;
/// Every line of the page was flushed while it was in use.
pub const FLUSHED: u16 = 0x84;

const PAGE_TABLES: u64 = 0x1000;
const CODE: u64 = 0x1_0000;
const HANDLER: u64 = 0x1_1000;
const IDT: u64 = 0x2_0000;
const GDT: u64 = 0x2_1000;
const STACK: u64 = 0x3_0000;

const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
const MACHINE_CHECK_VECTOR: u64 = 18;

/// An instruction that touches the poisoned page.
#[derive(Clone, Copy)]
struct Touch {
    rip: u64,
    length: u64,
}

pub struct Guest {
    touches: Vec<Touch>,
    /// The load that consumes poison in DRAM.
    consumes: Option<Touch>,
}

impl Guest {
    pub fn write(memory: &mut Memory, plan: StormPlan) -> Result<Self> {
        page_tables(memory)?;
        descriptor_tables(memory)?;
        let touch = encoding(plan.instruction);
        let mut code = Code::default();
        let mut touches = Vec::new();
        code.emit(&[0xc6, 0x07, 0x5a]); // movb $0x5a,(%rdi): KVM maps the page
        code.out(POISON_ME)?;
        let mut consumes = None;
        if plan.poison == Poison::Dram {
            walk(&mut code, encoding(Instruction::Clflush))?;
            code.out(FLUSHED)?;
            code.emit(&[0x48, 0x81, 0xef]); // sub $4096,%rdi: the first line again
            code.emit(&u32::try_from(PAGE)?.to_le_bytes());
            consumes = Some(code.touch(encoding(Instruction::Load))?);
        }
        bare_exits(&mut code)?;
        code.out(BARE_EXITS_DONE)?;
        touches.push(walk(&mut code, touch)?);
        let afterwards = match plan.mode {
            Mode::WalkThenRead => Some(Instruction::Load),
            Mode::WalkThenWrite => Some(Instruction::Store),
            _ => None,
        };
        if let Some(instruction) = afterwards {
            code.emit(&[0x48, 0x83, 0xef, 0x40]); // sub $64,%rdi: the last line
            touches.push(code.touch(encoding(instruction))?);
        }
        code.out(DONE)?;
        code.emit(&[0xf4]); // hlt
        memory.write(CODE, &code.0)?;
        let skipped = match (plan.mode, &consumes) {
            (Mode::Inject, Some(load)) if load.length != u64::try_from(touch.len())? => {
                bail!("the guest's handler steps over a load and over nothing longer")
            }
            (Mode::Inject, _) | (_, None) => touch,
            (_, Some(_)) => encoding(Instruction::Load),
        };
        memory.write(HANDLER, &handler(skipped)?)?;
        Ok(Self { touches, consumes })
    }

    /// Whether the load that consumes poison in DRAM is at `rip`.
    pub fn consumes(&self, rip: u64) -> bool {
        self.consumes.is_some_and(|load| load.rip == rip)
    }

    /// Where the guest goes on if the instruction at `rip` is left out.
    pub fn after(&self, rip: u64) -> Result<u64> {
        let touch = self.touches.iter().find(|touch| touch.rip == rip);
        touch
            .map(|touch| touch.rip + touch.length)
            .with_context(|| format!("SIGBUS at RIP {rip:#x}, where nothing touches the page"))
    }

    /// The page of this plan that is poisoned.
    pub const fn poisoned(page: Page) -> u64 {
        match page {
            Page::Data => POISONED,
            Page::Table => LAST_TABLE,
        }
    }

    /// The line of that page that an access at the guest's address in RDI meets: of a page table that of its first entry.
    pub const fn line(page: Page, rdi: u64) -> u64 {
        match page {
            Page::Data => rdi % PAGE / LINE_SIZE,
            Page::Table => 0,
        }
    }

    pub fn registers(page: Page) -> kvm_regs {
        kvm_regs {
            rip: CODE,
            rsp: STACK,
            rdi: match page {
                Page::Data => GUEST_VIRTUAL,
                Page::Table => BEYOND,
            },
            rflags: 2,
            ..kvm_regs::default()
        }
    }

    /// 64-bit mode, ring 0, machine checks enabled.
    pub fn enter_long_mode(sregs: &mut kvm_sregs) {
        const PRESENT_LONG: u64 = 0x500; // LME, LMA
        let code = kvm_segment {
            limit: 0xffff_ffff,
            selector: CODE_SELECTOR,
            present: 1,
            type_: 11,
            s: 1,
            l: 1,
            g: 1,
            ..kvm_segment::default()
        };
        let data = kvm_segment {
            selector: DATA_SELECTOR,
            type_: 3,
            l: 0,
            db: 1,
            ..code
        };
        sregs.cs = code;
        for segment in [
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
        ] {
            *segment = data;
        }
        sregs.gdt.base = GDT;
        sregs.gdt.limit = 23;
        sregs.idt.base = IDT;
        sregs.idt.limit = 256 * 16 - 1;
        sregs.cr3 = PAGE_TABLES;
        sregs.cr4 = 0x660; // PAE, MCE, OSFXSR, OSXMMEXCPT
        sregs.cr0 = 0x8005_0033;
        sregs.efer = PRESENT_LONG;
    }
}

/// CPUID again and again: it exits on every processor, touches no memory, and KVM answers it itself.
fn bare_exits(code: &mut Code) -> Result<()> {
    code.emit(&[0xbe]); // mov $n,%esi
    code.emit(&u32::try_from(BARE_EXITS)?.to_le_bytes());
    let top = code.0.len();
    code.emit(&[0x31, 0xc0, 0x31, 0xc9, 0x0f, 0xa2]); // xor %eax,%eax; xor %ecx,%ecx; cpuid
    code.emit(&[0xff, 0xce]); // dec %esi
    code.jnz(top)
}

/// One touch of each line, from RDI on.
fn walk(code: &mut Code, touch: &[u8]) -> Result<Touch> {
    code.emit(&[0xb9]); // mov $64,%ecx
    code.emit(&u32::try_from(LINES)?.to_le_bytes());
    let top = code.0.len();
    let touch = code.touch(touch)?;
    code.emit(&[0x48, 0x83, 0xc7, u8::try_from(LINE_SIZE)?]); // add $64,%rdi
    code.emit(&[0xff, 0xc9]); // dec %ecx
    code.jnz(top)?;
    Ok(touch)
}

/// All of them with their address in RDI.
fn encoding(instruction: Instruction) -> &'static [u8] {
    match instruction {
        Instruction::Clflush => &[0x0f, 0xae, 0x3f],
        Instruction::Clflushopt => &[0x66, 0x0f, 0xae, 0x3f],
        Instruction::Clwb => &[0x66, 0x0f, 0xae, 0x37],
        Instruction::Load => &[0x48, 0x8b, 0x07],
        Instruction::Store => &[0x48, 0x89, 0x07],
    }
}

/// Clears MCG_STATUS, as a kernel does once it has seen to it, and returns behind the instruction.
fn handler(touch: &[u8]) -> Result<Vec<u8>> {
    let mut code = Code::default();
    code.emit(&[0x50, 0x51, 0x52]); // push %rax, %rcx, %rdx
    code.out(MACHINE_CHECK)?;
    code.emit(&[0xb9, 0x7a, 0x01, 0, 0]); // mov $MCG_STATUS,%ecx
    code.emit(&[0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30]); // xor %eax,%eax; xor %edx,%edx; wrmsr
    code.emit(&[0x5a, 0x59, 0x58]);
    code.emit(&[0x48, 0x83, 0x04, 0x24, u8::try_from(touch.len())?]); // addq $length,(%rsp)
    code.emit(&[0x48, 0xcf]); // iretq
    Ok(code.0)
}

/// Pages of 4 KiB, all but one at their own address; and that one once more behind [`LAST_TABLE`].
fn page_tables(memory: &mut Memory) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 3;
    for level in 0..3 {
        let table = PAGE_TABLES + level * 0x1000;
        memory.write(table, &((table + 0x1000) | PRESENT_WRITABLE).to_le_bytes())?;
    }
    for page in 0..512 {
        // Accessed and dirty already: the processor has nothing to write back.
        let at = if page * PAGE == GUEST_VIRTUAL {
            POISONED
        } else {
            page * PAGE
        };
        let entry: u64 = at | 0x63;
        memory.write(PAGE_TABLES + 0x3000 + page * 8, &entry.to_le_bytes())?;
    }
    memory.write(
        PAGE_TABLES + 0x2000 + 8,
        &(LAST_TABLE | PRESENT_WRITABLE).to_le_bytes(),
    )?;
    memory.write(LAST_TABLE, &(POISONED | 0x63).to_le_bytes())?;
    Ok(())
}

fn descriptor_tables(memory: &mut Memory) -> Result<()> {
    memory.write(
        GDT + u64::from(CODE_SELECTOR),
        &0x00af_9b00_0000_ffff_u64.to_le_bytes(),
    )?;
    memory.write(
        GDT + u64::from(DATA_SELECTOR),
        &0x00cf_9300_0000_ffff_u64.to_le_bytes(),
    )?;
    let low = (HANDLER & 0xffff) | u64::from(CODE_SELECTOR) << 16 | 0x8e << 40 | (HANDLER >> 16) << 48;
    memory.write(IDT + MACHINE_CHECK_VECTOR * 16, &low.to_le_bytes())
}

/// Machine code as it grows, from CODE on.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn emit(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// out %al,$port
    fn out(&mut self, port: u16) -> Result<()> {
        self.emit(&[0xe6, u8::try_from(port)?]);
        Ok(())
    }

    fn jnz(&mut self, to: usize) -> Result<()> {
        let back = i8::try_from(to)? - i8::try_from(self.0.len() + 2)?;
        self.emit(&[0x75, back.cast_unsigned()]);
        Ok(())
    }

    fn touch(&mut self, encoding: &[u8]) -> Result<Touch> {
        let touch = Touch {
            rip: CODE + u64::try_from(self.0.len())?,
            length: u64::try_from(encoding.len())?,
        };
        self.emit(encoding);
        Ok(touch)
    }
}
