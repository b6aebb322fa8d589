//! A guest's memory, through its VMM's mappings: by the VM's memslots, or where they are not known, as far as the mapping
//! of the poisoned page reaches.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
};

/// Why guest memory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("the VMM's memory map cannot be read: {0}")]
    Map(io::Error),
    #[error("the poisoned page is in no mapping of the VMM any more")]
    NoMapping,
    #[error(
        "GPA {0:#x} is in none of the VM's memslots, or, where these are not known, not in the poisoned page's mapping on its side of the hole below 4 GiB"
    )]
    Elsewhere(u64),
    #[error("GPA {0:#x} cannot be read: {1}")]
    Read(u64, io::Error),
}

/// Where the hole below 4 GiB ends: VMMs put the memory that does not fit below it above.
const FOUR_GIB: u64 = 1 << 32;

/// Where a range of guest memory lies in the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub gpa: u64,
    pub bytes: u64,
    pub hva: u64,
}

impl Slot {
    /// From the mapping that holds the poisoned page: the page's own place in it, on its side of the hole.
    fn of_mapping(maps: &str, gpa: u64, hva: u64) -> Option<Self> {
        let (start, end) = mapping(maps, hva)?;
        let (low, high) = if gpa < FOUR_GIB {
            (0, FOUR_GIB)
        } else {
            (FOUR_GIB, u64::MAX)
        };
        let below = (hva - start).min(gpa - low);
        let above = (end - hva).min(high - gpa);
        Some(Self {
            gpa: gpa - below,
            bytes: below + above,
            hva: hva - below,
        })
    }

    fn address(&self, gpa: u64, len: u64) -> Option<u64> {
        let offset = gpa.checked_sub(self.gpa)?;
        let end = offset.checked_add(len)?;
        (end <= self.bytes).then(|| self.hva.checked_add(offset))?
    }
}

/// See the module.
pub struct GuestMemory {
    mem: File,
    slots: Vec<Slot>,
}

impl GuestMemory {
    /// `gpa` and `hva`: the poisoned page's. `slots`: the VM's, if known.
    ///
    /// # Errors
    /// A VMM that is gone, or that may not be read.
    pub fn open(pid: u32, slots: &[Slot], gpa: u64, hva: u64) -> Result<Self, MemoryError> {
        let slots = if slots.is_empty() {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(MemoryError::Map)?;
            vec![Slot::of_mapping(&maps, gpa, hva).ok_or(MemoryError::NoMapping)?]
        } else {
            slots.to_vec()
        };
        // Read-only: nothing here could write to the guest even by mistake.
        let mem = File::open(format!("/proc/{pid}/mem")).map_err(MemoryError::Map)?;
        Ok(Self { mem, slots })
    }

    /// The VMM's address of `len` bytes from `gpa` on.
    fn address(&self, gpa: u64, len: u64) -> Result<u64, MemoryError> {
        let found = self.slots.iter().find_map(|slot| slot.address(gpa, len));
        found.ok_or(MemoryError::Elsewhere(gpa))
    }

    /// Reads guest-physical memory.
    ///
    /// # Errors
    /// Memory that is not known to be there, is poisoned, or whose VMM is gone.
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let at = self.address(gpa, buffer.len() as u64)?;
        self.mem
            .read_exact_at(buffer, at)
            .map_err(|err| MemoryError::Read(gpa, err))
    }

    /// Reads one page-table entry.
    ///
    /// # Errors
    /// As [`GuestMemory::read`].
    pub fn word(&self, gpa: u64) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The mapping of /proc/PID/maps that holds `hva`.
fn mapping(maps: &str, hva: u64) -> Option<(u64, u64)> {
    maps.lines().find_map(|line| {
        let (start, rest) = line.split_once('-')?;
        let (end, _) = rest.split_once(' ')?;
        let (start, end) = (
            u64::from_str_radix(start, 16).ok()?,
            u64::from_str_radix(end, 16).ok()?,
        );
        (start <= hva && hva < end).then_some((start, end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_read_where_the_poisoned_page_says_it_lies() {
        // This process plays the VMM: its buffer is the guest's memory from GPA 0x10000 on.
        let memory: Vec<u8> = (0..=255).cycle().take(64 * 1024).collect();
        let hva = memory.as_ptr() as u64;
        let guest = GuestMemory::open(std::process::id(), &[], 0x1_0000, hva).unwrap();
        let mut bytes = [0; 4];
        guest.read(0x1_0102, &mut bytes).unwrap();
        assert_eq!(bytes, [2, 3, 4, 5]);
        assert_eq!(
            guest.word(0x1_0000).unwrap(),
            u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7])
        );
        assert!(matches!(
            guest.word(FOUR_GIB + 0x1_0000),
            Err(MemoryError::Elsewhere(_))
        ));
        assert!(matches!(guest.word(u64::MAX), Err(MemoryError::Elsewhere(_))));
    }

    #[test]
    fn memslots_lead_to_memory_on_both_sides_of_the_hole() {
        let (low, high) = (vec![1u8; 4096], vec![2u8; 4096]);
        let slot = |gpa, memory: &[u8]| Slot {
            gpa,
            bytes: 4096,
            hva: memory.as_ptr() as u64,
        };
        let slots = [slot(0x1000, &low), slot(FOUR_GIB, &high)];
        let guest = GuestMemory::open(std::process::id(), &slots, 0x1000, slots[0].hva).unwrap();
        let mut bytes = [0; 2];
        guest.read(FOUR_GIB + 0xffe, &mut bytes).unwrap();
        assert_eq!(bytes, [2, 2]);
        guest.read(0x1fff, &mut bytes[..1]).unwrap();
        assert_eq!(bytes, [1, 2]);
        for outside in [0xfff, 0x1fff, 0x2000, FOUR_GIB - 1, FOUR_GIB + 0xfff] {
            let err = guest.read(outside, &mut bytes).unwrap_err();
            assert!(matches!(err, MemoryError::Elsewhere(_)), "{outside:#x}");
        }
    }

    #[test]
    fn the_mapping_is_found_or_there_is_none() {
        let maps = "7f00-8000 rw-p 0 00:00 0 \n9000-a000 r--p 0 00:00 0 /x\nnonsense\n";
        assert_eq!(mapping(maps, 0x9fff), Some((0x9000, 0xa000)));
        assert_eq!(mapping(maps, 0xa000), None);
    }
}
