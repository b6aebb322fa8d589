//! Records with machine-check banks: the host's own, and those that a VMM sets.

use alloc::collections::BTreeMap;

use poisontrace_probes::{
    ioctl,
    record::{self, kind},
};
use zerocopy::FromBytes;

use super::{
    super::{Bank, EventKind, HostMce, McContext, McVendor},
    DecodeError,
};
use crate::hex::Hex;

pub fn host_mce(r: &record::HostMce) -> HostMce {
    /// `struct mce.bank` of the firmware's errors (arch/x86/kernel/cpu/mce/apei.c: -1).
    const NO_BANK: u32 = 0xff;
    /// kvm_machine_check() hands in CS 3 and nothing else.
    const KVM_CS: u32 = 3;
    HostMce {
        cpu: (r.cpu != u32::MAX).then_some(r.cpu),
        bank: (r.bank != NO_BANK).then_some(r.bank),
        status: Hex(r.status),
        addr: Hex(r.addr),
        misc: Hex(r.misc),
        mcg_status: Hex(r.mcg_status),
        context: match (r.cs, r.ip) {
            (KVM_CS, 0) => McContext::Guest,
            (0, _) => McContext::None,
            (cs, _) if cs & 3 == 3 => McContext::User,
            _ => McContext::Kernel,
        },
        vendor: match r.vendor {
            // arch/x86/include/asm/processor.h: Intel; AMD, Hygon.
            0 => McVendor::Intel,
            2 | 9 => McVendor::Amd,
            _ => McVendor::Other,
        },
    }
}

pub fn bank(b: &record::Bank) -> Bank {
    Bank {
        bank: u32::try_from(b.bank).unwrap_or(u32::MAX),
        status: Hex(b.status),
        addr: Hex(b.addr),
        misc: Hex(b.misc),
    }
}

/// The machine-check MSRs of a KVM_SET_MSRS list: MCG_STATUS, and the banks whose STATUS is valid.
pub fn set_msrs(bytes: &[u8]) -> Result<EventKind, DecodeError> {
    let length = |expected| DecodeError::Length {
        kind: kind::SET_MSRS,
        len: bytes.len(),
        expected,
    };
    let (head, rest) =
        record::SetMsrs::read_from_prefix(bytes).map_err(|_| length(size_of::<record::SetMsrs>()))?;
    // The ring buffer rounds lengths up to eight bytes; an entry has sixteen.
    let expected = (head.used as usize).saturating_mul(size_of::<record::Msr>());
    let list = rest
        .get(..expected)
        .ok_or_else(|| length(size_of::<record::SetMsrs>().saturating_add(expected)))?;
    let mut mcg_status = None;
    let mut banks: BTreeMap<u32, Bank> = BTreeMap::new();
    for msr in list.chunks_exact(size_of::<record::Msr>()) {
        let Ok(msr) = record::Msr::read_from_bytes(msr) else {
            continue;
        };
        if msr.index == ioctl::MCG_STATUS {
            mcg_status = Some(Hex(msr.data));
        }
        let Some(slot) = msr
            .index
            .checked_sub(ioctl::MC0_CTL)
            .filter(|slot| *slot < ioctl::LEGACY_BANKS * 4)
        else {
            continue;
        };
        let bank = banks.entry(slot / 4).or_insert_with(|| Bank {
            bank: slot / 4,
            status: Hex(0),
            addr: Hex(0),
            misc: Hex(0),
        });
        match slot % 4 {
            1 => bank.status = Hex(msr.data),
            2 => bank.addr = Hex(msr.data),
            3 => bank.misc = Hex(msr.data),
            _ => {}
        }
    }
    Ok(EventKind::SetMsrs {
        mcg_status,
        banks: banks
            .into_values()
            .filter(|bank| bank.status.0 & ioctl::STATUS_VAL != 0)
            .collect(),
        truncated: head.nmsrs > head.used && head.unreadable == 0,
        unreadable: head.unreadable != 0,
    })
}

#[cfg(test)]
mod tests {
    use poisontrace_probes::record::Record;
    use zerocopy::IntoBytes;

    use super::{
        super::{Decoder, tests::header},
        *,
    };

    #[test]
    fn the_machine_check_banks_are_found_among_all_the_msrs_that_qemu_sets() {
        let msr = |index, data| record::Msr {
            index,
            reserved: 0,
            data,
        };
        let list = [
            msr(0x10, 7),
            msr(0x17a, 7),
            // Bank 8: not valid. Bank 9: valid.
            msr(0x421, 0),
            msr(0x424, u64::MAX),
            msr(0x425, 0xfc00_0800_0000_0000),
            msr(0x426, 0x2be_b000),
            msr(0x427, 0x8c),
            msr(0xc000_0080, 1),
        ];
        let used = list.len() as u32;
        let head = record::SetMsrs {
            h: header(record::SetMsrs::KIND),
            nmsrs: used,
            used,
            unreadable: 0,
            pad: 0,
        };
        let mut bytes = head.as_bytes().to_vec();
        list.iter().for_each(|msr| bytes.extend(msr.as_bytes()));
        let event = Decoder::default().decode(&bytes).unwrap();
        let bank = Bank {
            bank: 9,
            status: Hex(0xfc00_0800_0000_0000),
            addr: Hex(0x2be_b000),
            misc: Hex(0x8c),
        };
        assert_eq!(
            event.what,
            EventKind::SetMsrs {
                mcg_status: Some(Hex(7)),
                banks: vec![bank],
                truncated: false,
                unreadable: false
            }
        );
        assert!(Decoder::default().decode(&bytes[..bytes.len() - 1]).is_err());
    }

    fn mce(cs: u32, ip: u64, bank: u32) -> record::HostMce {
        record::HostMce {
            h: header(record::HostMce::KIND),
            mcg_status: 0,
            status: 0x9c00_1800_0000_0000,
            addr: 0x10_9d30_0000,
            misc: 0x8c,
            ip,
            cpu: 0,
            bank,
            cs,
            vendor: 2,
        }
    }

    #[test]
    fn what_ran_on_the_processor_is_in_the_banks_record() {
        let context = |cs, ip| {
            let event = Decoder::default().decode(mce(cs, ip, 1).as_bytes()).unwrap();
            let EventKind::HostMce(mce) = event.what else {
                panic!("{event:?}")
            };
            (mce.context, mce.bank)
        };
        assert_eq!(context(3, 0), (McContext::Guest, Some(1)));
        assert_eq!(context(0, 0).0, McContext::None);
        assert_eq!(context(0x33, 0x7f00_0000_1000).0, McContext::User);
        assert_eq!(context(0x10, 0xffff_ffff_8100_0000).0, McContext::Kernel);
        let firmware = Decoder::default().decode(mce(0, 0, 0xff).as_bytes()).unwrap();
        assert!(matches!(
            firmware.what,
            EventKind::HostMce(HostMce { bank: None, .. })
        ));
    }
}
