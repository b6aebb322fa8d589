//! The iterator over vCPUs: loaded, and run when somebody asks. It hooks nothing, and nothing of it outlives the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
};

use aya::{Ebpf, EbpfLoader, programs::Iter};
use poisontrace_probes::vcpu::{BANK, Bank, VCPU, Vcpu, known};
use zerocopy::FromBytes as _;

use super::{
    binding::chain,
    fentry_btf,
    load::{LoadError, OBJECT},
    memory,
};
use poisontrace_kernel_facts::vcpus::VcpuLayout;
use poisontrace_model::{event::McVendor, forecast::facts::VcpuFacts};

const PROGRAM: &str = "vcpu_iterator";
/// Of what the iterator writes: 400,000 vCPUs, bytes.
const MAX_BYTES: u64 = 32 << 20;
/// Errors of one vCPU that are kept.
const MAX_HELD: usize = 32;

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Vcpus {
    /// By process.
    pub by_process: BTreeMap<u32, Vec<VcpuFacts>>,
    /// There were more than are read.
    pub truncated: bool,
}

/// The iterator, loaded: it can be run any number of times, without the privileges that loading takes (BPF_LINK_CREATE of an
/// iterator asks for none). Its maps are gone but for those that it uses.
pub struct VcpuIterator(Ebpf);

impl VcpuIterator {
    /// Loads it.
    ///
    /// # Errors
    /// If this build has no BPF programs, or the kernel does not take this one.
    pub fn load(layout: &VcpuLayout) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NotBuiltIn);
        }
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        // The maps are those of the other programs: as small as can be.
        loader.map_max_entries("PAGES", 1);
        loader.override_global("KVM_VCPU_IOCTL", &layout.ioctl, true);
        for (name, offset) in &layout.offsets {
            loader.override_global(name, offset, true);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|err| failed(&err))?;
        let btf = fentry_btf::of(&layout.functions).map_err(LoadError::Btf)?;
        program(&mut ebpf)?
            .load("task_file", &btf)
            .map_err(|err| failed(&err))?;
        drop(btf);
        let names: Vec<String> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            drop(ebpf.take_map(&name));
        }
        memory::give_back();
        Ok(Self(ebpf))
    }

    /// Runs it once, and returns what it wrote.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn run(&mut self) -> Result<Vec<u8>, LoadError> {
        let program = program(&mut self.0)?;
        let link = program.attach().map_err(|err| failed(&err))?;
        let link = program.take_link(link).map_err(|err| failed(&err))?;
        let file = link.into_file().map_err(|err| failed(&err))?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|err| LoadError::Object(format!("cannot read the iterator: {err}")))?;
        Ok(bytes)
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Iter, LoadError> {
    ebpf.program_mut(PROGRAM)
        .ok_or(LoadError::Map(PROGRAM))?
        .try_into()
        .map_err(|err: aya::programs::ProgramError| failed(&err))
}

fn failed(err: &(dyn std::error::Error + 'static)) -> LoadError {
    LoadError::Object(chain(err))
}

/// Decodes what the iterator wrote. What is of no known kind ends it: nothing behind it can be trusted.
pub fn decode(mut bytes: &[u8]) -> Vcpus {
    let mut vcpus = Vcpus {
        truncated: bytes.len() as u64 >= MAX_BYTES,
        ..Vcpus::default()
    };
    let mut held: Vec<(u64, u8, u64)> = Vec::new();
    let mut seen = BTreeSet::new();
    while let Some(kind) = bytes.first_chunk().map(|kind| u32::from_ne_bytes(*kind)) {
        match kind {
            BANK => {
                let Ok((bank, rest)) = Bank::read_from_prefix(bytes) else {
                    break;
                };
                bytes = rest;
                if held.len() < MAX_HELD {
                    held.push((bank.vcpu, u8::try_from(bank.bank).unwrap_or(u8::MAX), bank.status));
                }
            }
            VCPU => {
                let Ok((vcpu, rest)) = Vcpu::read_from_prefix(bytes) else {
                    break;
                };
                bytes = rest;
                // A descriptor may be open twice, and old kernels show each thread's.
                if seen.insert((vcpu.tgid, vcpu.vcpu)) {
                    let mine = held.iter().filter(|(of, ..)| *of == vcpu.vcpu);
                    let mine = mine.map(|(_, bank, status)| (*bank, *status)).collect();
                    vcpus
                        .by_process
                        .entry(vcpu.tgid)
                        .or_default()
                        .push(facts(&vcpu, mine));
                }
                held.clear();
            }
            _ => break,
        }
    }
    vcpus.truncated |= !bytes.is_empty();
    for of_one in vcpus.by_process.values_mut() {
        of_one.sort_by_key(|vcpu| vcpu.id);
    }
    vcpus
}

fn facts(vcpu: &Vcpu, held: Vec<(u8, u64)>) -> VcpuFacts {
    let has = |bit| vcpu.known & bit != 0;
    VcpuFacts {
        id: vcpu.number,
        mcg_cap: has(known::CAP).then_some(vcpu.mcg_cap),
        mcg_status: has(known::STATUS).then_some(vcpu.mcg_status),
        mcg_ctl: has(known::CTL).then_some(vcpu.mcg_ctl),
        cr4: has(known::CR4).then_some(vcpu.cr4),
        banks_read: has(known::BANKS),
        held,
        vendor: has(known::VENDOR).then(|| vendor(vcpu.vendor)),
        ras: has(known::RAS).then_some(vcpu.ras),
    }
}

fn vendor(name: [u32; 3]) -> McVendor {
    let bytes: Vec<u8> = name.iter().flat_map(|word| word.to_le_bytes()).collect();
    match bytes.as_slice() {
        b"GenuineIntel" => McVendor::Intel,
        b"AuthenticAMD" | b"HygonGenuine" => McVendor::Amd,
        _ => McVendor::Other,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    fn words(name: &[u8; 12]) -> [u32; 3] {
        let word = |n: usize| u32::from_le_bytes(name[n..n + 4].try_into().unwrap());
        [word(0), word(4), word(8)]
    }

    fn vcpu(tgid: u32, number: u32) -> Vcpu {
        Vcpu {
            kind: VCPU,
            known: u32::MAX,
            vcpu: 0xffff_8880_0000_0000 + u64::from(tgid) * 0x10_0000 + u64::from(number) * 0x1000,
            tgid,
            number,
            mcg_cap: 0x10a,
            mcg_status: 0,
            mcg_ctl: u64::MAX,
            cr4: 1 << 6,
            vendor: words(b"AuthenticAMD"),
            ras: 3,
        }
    }

    #[test]
    fn vcpus_are_read_with_their_banks_and_each_once() {
        let (first, second) = (vcpu(100, 1), vcpu(100, 0));
        let bank = Bank {
            kind: BANK,
            bank: 9,
            vcpu: second.vcpu,
            status: 0x9c00_1800_0000_0000,
        };
        let bytes = [
            first.as_bytes(),
            bank.as_bytes(),
            second.as_bytes(),
            first.as_bytes(),
        ]
        .concat();
        let read = decode(&bytes);
        assert!(!read.truncated);
        let of = &read.by_process[&100];
        assert_eq!(of.iter().map(|vcpu| vcpu.id).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(of[0].held, [(9, 0x9c00_1800_0000_0000)]);
        assert_eq!(
            (of[1].held.len(), of[1].vendor, of[1].ras),
            (0, Some(McVendor::Amd), Some(3))
        );
    }

    #[test]
    fn what_a_kernel_does_not_show_is_unknown_and_a_torn_end_is_stated() {
        let blind = Vcpu {
            known: known::CAP,
            ..vcpu(7, 0)
        };
        let bytes = [blind.as_bytes(), &[1, 0, 0]].concat();
        let read = decode(&bytes);
        let of = &read.by_process[&7][0];
        assert_eq!(
            (of.mcg_cap, of.cr4, of.vendor, of.banks_read),
            (Some(0x10a), None, None, false)
        );
        assert!(read.truncated);
        assert!(decode(&[9; 64]).by_process.is_empty());
    }
}
