//! Names on the command line are those of the JSON that the programs exchange.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use lab_protocol::storm::{Instruction, Mode};
use lab_protocol::vmm_fate::VmmFate;

#[test]
fn modes_and_instructions_are_named_as_in_their_json() {
    for mode in Mode::ALL {
        assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        assert_eq!(Mode::named(mode.name()), Some(mode));
    }
    for instruction in Instruction::ALL {
        assert_eq!(serde_json::to_value(instruction).unwrap(), instruction.name());
        assert_eq!(Instruction::named(instruction.name()), Some(instruction));
    }
}

#[test]
fn fates_of_vmms_are_named_as_in_their_json() {
    for fate in VmmFate::ALL {
        assert_eq!(serde_json::to_value(fate).unwrap(), fate.name());
        assert_eq!(VmmFate::named(fate.name()), Some(fate));
    }
}
