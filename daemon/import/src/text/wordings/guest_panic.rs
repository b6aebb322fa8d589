//! Panics that Windows guests report: what libvirt and QEMU log of them, and the same bug check as Windows itself and its
//! debugger print it.

use super::{Fields, Wording};
use poisontrace_model::{
    event::log_statement::{LogStatement, Role},
    hex::Hex,
};

const fn row(
    program: &'static str,
    versions: &'static str,
    role: Role,
    shape: &'static str,
    line: &'static str,
) -> Wording {
    Wording {
        program,
        versions,
        role,
        shape,
        read: bug_check,
        line,
    }
}

const WINDBG: &str = "Windows' debugger, !analyze and .bugcheck";

pub const WORDINGS: &[Wording] = &[
    row(
        "libvirt, qemu_process.c qemuProcessGuestPanicEventInfo()",
        "3.3 on",
        Role::Libvirt,
        "panic hyper-v: arg1='{arg1:hex}', arg2='{arg2:hex}', arg3='{arg3:hex}', arg4='{arg4:hex}', arg5='{arg5:hex}'",
        "panic hyper-v: arg1='0x124', arg2='0x0', arg3='0xffffe00000000000', arg4='0x0', arg5='0x0'",
    ),
    row(
        "QEMU with -d guest_errors, qemu_system_guest_panicked()",
        "2.9 to 10.2",
        Role::Vmm,
        "HV crash parameters: ({arg1:hex} {arg2:hex} {arg3:hex} {arg4:hex} {arg5:hex})",
        "HV crash parameters: (0x124 0 0xffffe00000000000 0xbd800000 0x134)",
    ),
    row(
        "Windows, event 1001 of the system's log",
        "7 on",
        Role::Tool,
        "The computer has rebooted from a bugcheck.  The bugcheck was: {arg1:hex} ({arg2:hex}, {arg3:hex}, {arg4:hex}, {arg5:hex}). A dump was saved in: {dump}",
        "The computer has rebooted from a bugcheck.  The bugcheck was: 0x00000124 (0x0000000000000000, 0xffffe48d3c458028, 0x00000000bf800000, 0x0000000000000800). A dump was saved in: C:\\Windows\\MEMORY.DMP.",
    ),
    row(
        "Windows, event 1001 of the system's log, a blank less",
        "7 on",
        Role::Tool,
        "The computer has rebooted from a bugcheck. The bugcheck was: {arg1:hex} ({arg2:hex}, {arg3:hex}, {arg4:hex}, {arg5:hex}). A dump was saved in: {dump}",
        "The computer has rebooted from a bugcheck. The bugcheck was: 0x00000124 (0x0000000000000000, 0xffffe48d3c458028, 0x00000000bf800000, 0x0000000000000800). A dump was saved in: C:\\Windows\\MEMORY.DMP.",
    ),
    row(
        "Windows, its stop screen",
        "up to 7",
        Role::Tool,
        "*** STOP: {arg1:hex} ({arg2:hex}, {arg3:hex}, {arg4:hex}, {arg5:hex})",
        "*** STOP: 0x0000009C (0x0000000000000000, 0xFFFFF80000BA1C30, 0x00000000BD800000, 0x0000000000000134)",
    ),
    Wording {
        program: WINDBG,
        versions: "up to 10.0.1",
        role: Role::Tool,
        shape: "BugCheck {arg1:hex}, {args}",
        read: in_braces,
        line: "BugCheck 124, {0, fffffa80061ad8f8, bd800000, 134}",
    },
    row(
        WINDBG,
        "10.0 on",
        Role::Tool,
        "Bugcheck code {arg1:hex} Arguments {arg2:word} {arg3:word} {arg4:word} {arg5:word}",
        "Bugcheck code 00000124 Arguments 00000000`00000000 ffffe48d`3c458028 00000000`bd800000 00000000`00000134",
    ),
];

/// The debugger writes `ffffe48d`3c458028`.
fn number(f: &Fields<'_>, name: &str) -> Option<Hex> {
    let digits: Vec<u8> = f.bytes(name)?.iter().copied().filter(|b| *b != b'`').collect();
    let digits = digits
        .strip_prefix(b"0x")
        .or_else(|| digits.strip_prefix(b"0X"))
        .unwrap_or(&digits);
    crate::trace::hex(digits).map(Hex)
}

fn bug_check(f: &Fields<'_>) -> Option<LogStatement> {
    let args: Option<Vec<Hex>> = ["arg1", "arg2", "arg3", "arg4", "arg5"]
        .map(|name| number(f, name))
        .into_iter()
        .collect();
    Some(LogStatement::BugCheck {
        domain: None,
        args: args?,
    })
}

/// `BugCheck 124, {0, fffffa80061ad8f8, bd800000, 134}`.
fn in_braces(f: &Fields<'_>) -> Option<LogStatement> {
    let inner = f.bytes("args")?.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let mut args = Vec::from([f.hex("arg1")?]);
    for digits in inner.split(|b| *b == b',') {
        args.push(Hex(crate::trace::hex(digits.trim_ascii())?));
    }
    const CODE_AND_PARAMETERS: usize = 5;
    (args.len() == CODE_AND_PARAMETERS).then_some(LogStatement::BugCheck { domain: None, args })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_first_argument_and_the_bank_the_last_two() {
        for wording in WORDINGS {
            let (_, statement) = super::super::read(wording.line.as_bytes()).unwrap();
            let LogStatement::BugCheck { args, .. } = statement else {
                panic!("{statement:?}")
            };
            assert_eq!(args.len(), 5, "{}", wording.line);
            assert!(matches!(args[0], Hex(0x124 | 0x9c)), "{}", wording.line);
            assert!(args[4].0 <= 0x800, "{}", wording.line);
        }
    }
}
