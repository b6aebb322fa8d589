//! The registers field by field: Intel SDM volume 3, "Machine-Check Architecture" (IA32_MCG_STATUS,
//! IA32_MCi_STATUS, IA32_MCi_MISC, "Interpreting the MCA Error Codes"), AMD APM volume 2, "Machine Check
//! Architecture" (MCG_STATUS, MCi_STATUS).

use poisontrace_model::incident::mca::{ADDRV, AR, DEFERRED, EN, MCIP, MISCV, OVER, PCC, POISON, S, UC, VAL};

/// A field of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Highest and lowest bit.
    pub bits: (u32, u32),
    pub name: &'static str,
    pub value: u64,
    /// Of a flag: when it is set. Of a number: of this number.
    pub meaning: String,
}

impl Field {
    /// One bit, that is, not a number.
    pub fn is_flag(&self) -> bool {
        self.bits.0 == self.bits.1
    }
}

/// Whose layout a STATUS has where the two differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Both,
    Intel,
    Amd,
}

/// AMD: task context corrupt; Intel has AR here.
const TCC: u64 = 1 << 55;

/// Flags of MCi_STATUS, highest first.
const STATUS: [(u64, &str, Form, &str); 12] = [
    (VAL, "VAL", Form::Both, "the bank holds an error"),
    (
        OVER,
        "OVER",
        Form::Both,
        "it still held an earlier error when this one came",
    ),
    (UC, "UC", Form::Both, "the hardware could not correct it"),
    (EN, "EN", Form::Both, "the guest had enabled reports of it"),
    (MISCV, "MISCV", Form::Both, "MISC is valid"),
    (ADDRV, "ADDRV", Form::Both, "ADDR is valid"),
    (
        PCC,
        "PCC",
        Form::Both,
        "processor context corrupt: no kernel can go on",
    ),
    (S, "S", Form::Intel, "signalled by a machine check (#MC)"),
    (
        AR,
        "AR",
        Form::Intel,
        "action required: what ran on the vCPU cannot go on as it is",
    ),
    (
        TCC,
        "TCC",
        Form::Amd,
        "task context corrupt: the task that ran cannot go on",
    ),
    (
        DEFERRED,
        "DEFERRED",
        Form::Amd,
        "found, not yet consumed; no machine check (#MC)",
    ),
    (
        POISON,
        "POISON",
        Form::Amd,
        "the data is poisoned: found (with DEFERRED) or consumed (with UC)",
    ),
];

/// By the flags that only one of the two sets when memory was lost.
fn form(status: u64) -> Form {
    if status & S == 0 && status & (DEFERRED | POISON) != 0 {
        Form::Amd
    } else if status & (S | AR) != 0 {
        Form::Intel
    } else {
        Form::Both
    }
}

fn status_flags(status: u64) -> impl Iterator<Item = (u64, &'static str, &'static str)> {
    let form = form(status);
    STATUS
        .into_iter()
        .filter(move |(_, _, of, _)| *of == Form::Both || *of == form)
        .map(|(bit, name, _, meaning)| (bit, name, meaning))
}

/// The names of the flags that are set in MCi_STATUS, highest first.
pub fn status_names(status: u64) -> String {
    let set: Vec<&str> = status_flags(status)
        .filter(|(bit, _, _)| status & bit != 0)
        .map(|(_, name, _)| name)
        .collect();
    set.join(" ")
}

/// MCi_STATUS.
pub fn status(status: u64) -> Vec<Field> {
    let mut fields: Vec<Field> = status_flags(status)
        .map(|(bit, name, meaning)| flag(status, bit, name, meaning))
        .collect();
    fields.push(match form(status) {
        Form::Amd => number(status, (21, 16), "ErrorCodeExt", |_| {
            "of the bank's own".to_owned()
        }),
        _ => number(status, (31, 16), "MSCOD", |_| {
            "of the processor's model".to_owned()
        }),
    });
    fields.push(number(status, (15, 0), "MCACOD", error_code));
    fields
}

/// MCG_STATUS of the vCPU.
pub fn mcg_status(value: u64) -> Vec<Field> {
    [
        (
            MCIP,
            "MCIP",
            "a machine check is in progress; a second one now is fatal",
        ),
        (1 << 1, "EIPV", "the RIP on the stack is that of the error"),
        (1 << 0, "RIPV", "the guest may go on at the RIP on the stack"),
    ]
    .into_iter()
    .map(|(bit, name, meaning)| flag(value, bit, name, meaning))
    .collect()
}

/// MCi_MISC as Intel lays it out, and as VMMs fill it; on AMD hardware the register counts errors.
pub fn misc(value: u64) -> Vec<Field> {
    vec![
        number(value, (8, 6), "address mode", |mode| {
            match mode {
                0 => "segment offset",
                1 => "linear address",
                2 => "physical address",
                3 => "memory address",
                7 => "generic",
                _ => "reserved",
            }
            .to_owned()
        }),
        number(value, (5, 0), "recoverable LSB", |lsb| {
            let lost = 1u64 << lsb;
            match lsb {
                0..10 => format!("{lost} bytes of ADDR are lost"),
                _ => format!("{} KiB from ADDR are lost", lost >> 10),
            }
        }),
    ]
}

fn flag(register: u64, bit: u64, name: &'static str, meaning: &str) -> Field {
    let no = bit.trailing_zeros();
    Field {
        bits: (no, no),
        name,
        value: u64::from(register & bit != 0),
        meaning: meaning.to_owned(),
    }
}

fn number(register: u64, bits: (u32, u32), name: &'static str, meaning: impl Fn(u64) -> String) -> Field {
    let value = register >> bits.1 & ((1 << (bits.0 - bits.1 + 1)) - 1);
    Field {
        bits,
        name,
        value,
        meaning: meaning(value),
    }
}

/// The compound error codes that both vendors share.
fn error_code(code: u64) -> String {
    const LEVEL: [&str; 4] = ["level 0", "level 1", "level 2", "any level"];
    const WHAT: [&str; 4] = ["instruction", "data", "generic", "reserved"];
    const REQUEST: [&str; 9] = [
        "error",
        "read",
        "write",
        "data read",
        "data write",
        "instruction fetch",
        "prefetch",
        "eviction",
        "snoop",
    ];
    let field = |names: &'static [&'static str], shift: u32, bits: u32| {
        names
            .get((code >> shift & ((1 << bits) - 1)) as usize)
            .copied()
            .unwrap_or("reserved")
    };
    // Bit 12 shows only that corrected errors are counted no further (Intel).
    match code & !(1 << 12) {
        0 => "no code".to_owned(),
        0x10..0x20 => format!("TLB: {}, {}", field(&WHAT, 2, 2), field(&LEVEL, 0, 2)),
        0x80..0x100 => {
            let what = ["generic", "read", "write", "address or command", "scrubbing"];
            let what = what.get((code >> 4 & 7) as usize).copied().unwrap_or("reserved");
            match code & 0xf {
                0xf => format!("memory controller: {what}, channel unknown"),
                channel => format!("memory controller: {what}, channel {channel}"),
            }
        }
        0x100..0x200 => format!(
            "cache hierarchy: {}, {}, {}",
            field(&REQUEST, 4, 4),
            field(&WHAT, 2, 2),
            field(&LEVEL, 0, 2)
        ),
        0x800..0x1000 => format!(
            "bus or interconnect: {}, {}",
            field(&REQUEST, 4, 4),
            field(&LEVEL, 0, 2)
        ),
        _ => "not one of the shared codes".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(fields: &[Field]) -> Vec<&str> {
        fields
            .iter()
            .filter(|field| field.is_flag() && field.value == 1)
            .map(|field| field.name)
            .collect()
    }

    fn meaning<'a>(fields: &'a [Field], name: &str) -> &'a str {
        &fields.iter().find(|field| field.name == name).unwrap().meaning
    }

    #[test]
    fn qemu_injects_a_data_load_from_a_lost_page_into_an_intel_guest() {
        let injection = status(VAL | UC | EN | MISCV | ADDRV | S | AR | 0x134);
        assert_eq!(set(&injection), ["VAL", "UC", "EN", "MISCV", "ADDRV", "S", "AR"]);
        assert_eq!(
            meaning(&injection, "MCACOD"),
            "cache hierarchy: data read, data, level 0"
        );
        let scrubbed = status(VAL | UC | EN | MISCV | ADDRV | S | 0xc0);
        assert_eq!(
            meaning(&scrubbed, "MCACOD"),
            "memory controller: scrubbing, channel 0"
        );
        assert_eq!(set(&mcg_status(0x5)), ["MCIP", "RIPV"]);
        let misc = misc(0x8c);
        assert_eq!(meaning(&misc, "address mode"), "physical address");
        assert_eq!(meaning(&misc, "recoverable LSB"), "4 KiB from ADDR are lost");
    }

    #[test]
    fn qemu_injects_consumed_poison_into_an_amd_guest() {
        let injection = status(0xfc00_0800_0000_0000);
        assert_eq!(
            set(&injection),
            ["VAL", "OVER", "UC", "EN", "MISCV", "ADDRV", "POISON"]
        );
        assert!(
            injection
                .iter()
                .any(|field| field.name == "TCC" && field.value == 0)
        );
        assert_eq!(meaning(&injection, "MCACOD"), "no code");
        assert_eq!(
            status_names(0xfc00_0800_0000_0000),
            "VAL OVER UC EN MISCV ADDRV POISON"
        );
    }

    #[test]
    fn any_register_can_be_decoded() {
        for shift in 0..64 {
            for value in [1u64 << shift, u64::MAX << shift, u64::MAX >> shift] {
                assert!(status(value).len() > 8 && mcg_status(value).len() == 3 && misc(value).len() == 2);
            }
        }
    }
}
