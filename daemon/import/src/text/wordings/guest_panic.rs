//! What libvirt writes into a domain's log when its guest reports its own panic.

use super::{Fields, Wording};
use poisontrace_model::{
    event::log_statement::{LogStatement, Role},
    hex::Hex,
};

pub const WORDINGS: &[Wording] = &[Wording {
    program: "libvirt, qemu_process.c qemuProcessGuestPanicEventInfo()",
    versions: "3.3 on",
    role: Role::Libvirt,
    shape: "panic hyper-v: arg1='{arg1:hex}', arg2='{arg2:hex}', arg3='{arg3:hex}', arg4='{arg4:hex}', arg5='{arg5:hex}'",
    read: bug_check,
    line: "panic hyper-v: arg1='0x124', arg2='0x0', arg3='0xffffe00000000000', arg4='0x0', arg5='0x0'",
}];

fn bug_check(f: &Fields<'_>) -> Option<LogStatement> {
    let args: Option<Vec<Hex>> = ["arg1", "arg2", "arg3", "arg4", "arg5"]
        .map(|name| f.hex(name))
        .into_iter()
        .collect();
    Some(LogStatement::BugCheck {
        domain: None,
        args: args?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_first_argument() {
        let (_, statement) = super::super::read(WORDINGS[0].line.as_bytes()).unwrap();
        let LogStatement::BugCheck { args, .. } = statement else {
            panic!("{statement:?}")
        };
        assert_eq!((args.len(), args[0]), (5, Hex(0x124)));
    }
}
