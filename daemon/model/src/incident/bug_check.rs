//! Windows' bug checks of hardware errors: MACHINE_CHECK_EXCEPTION (0x9C) and WHEA_UNCORRECTABLE_ERROR (0x124), in the parameters
//! that Microsoft documents for x64.

use serde::{Deserialize, Serialize};

use super::mca;
use crate::hex::Hex;

/// What a Windows guest's bug check names of the error that it stopped on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BugCheckError {
    /// A machine check, with MCi_STATUS where it is given.
    MachineCheck {
        /// MCi_STATUS.
        status: Option<u64>,
    },
    /// Hardware of another kind (PCI Express, NMI, firmware).
    OtherHardware,
}

/// What the parameters of a bug check name; `None`: it is none of hardware. MACHINE_CHECK_EXCEPTION (0x9C) and
/// WHEA_UNCORRECTABLE_ERROR (0x124) have MCi_STATUS in their last two; 0x124 has its source in the first, 0 for a machine check.
pub fn error(args: &[Hex]) -> Option<BugCheckError> {
    const MACHINE_CHECK_EXCEPTION: u64 = 0x9c;
    const WHEA_UNCORRECTABLE_ERROR: u64 = 0x124;
    const LOW: u64 = 0xffff_ffff;
    let of = |n: usize| args.get(n).map_or(0, |arg| arg.0);
    let status = (of(3) <= LOW && of(4) <= LOW)
        .then(|| of(3) << 32 | of(4))
        .filter(|status| status & mca::VAL != 0);
    match (of(0), of(1)) {
        (MACHINE_CHECK_EXCEPTION, _) | (WHEA_UNCORRECTABLE_ERROR, 0) => {
            Some(BugCheckError::MachineCheck { status })
        }
        (WHEA_UNCORRECTABLE_ERROR, _) => Some(BugCheckError::OtherHardware),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: [u64; 5]) -> Option<BugCheckError> {
        error(&args.map(Hex))
    }

    #[test]
    fn the_bank_stands_in_the_last_two_parameters() {
        let status = Some(0xbd80_0000_0000_0134);
        let machine_check = Some(BugCheckError::MachineCheck { status });
        assert_eq!(
            of([0x124, 0, 0xffff_e48d_3c45_8028, 0xbd80_0000, 0x134]),
            machine_check
        );
        assert_eq!(
            of([0x9c, 9, 0xffff_f800_00ba_1c30, 0xbd80_0000, 0x134]),
            machine_check
        );
        let unknown = Some(BugCheckError::MachineCheck { status: None });
        assert_eq!(of([0x124, 0, 1, 0, 0]), unknown, "the bank is not valid");
        assert_eq!(
            of([0x124, 4, 1, 0, 0]),
            Some(BugCheckError::OtherHardware),
            "PCI Express"
        );
        assert_eq!(of([0x3e, 0, 0, 0xbd80_0000, 0x134]), None);
        assert_eq!(error(&[]), None);
    }
}
