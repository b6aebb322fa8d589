//! A guest's page tables: 4-level and 5-level paging of long mode (Intel SDM volume 3, "4-Level Paging and 5-Level
//! Paging"; AMD APM volume 2, "Long-Mode Page Translation").

use poisontrace_model::event::Sregs;

/// Why an address has no translation.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("the guest is not in 64-bit mode")]
    Mode,
    #[error("the address is not mapped in the guest")]
    NotPresent,
    #[error("{0}")]
    Memory(#[from] super::memory::MemoryError),
}

const CR0_PG: u64 = 1 << 31;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Bits 12 to 51: the physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The GPA of `linear`. `word` reads a page-table entry.
///
/// # Errors
/// Not 64-bit mode, not mapped, or a table that cannot be read.
pub fn translate(
    linear: u64,
    sregs: &Sregs,
    mut word: impl FnMut(u64) -> Result<u64, super::memory::MemoryError>,
) -> Result<u64, WalkError> {
    let paging = sregs.cr0.0 & CR0_PG != 0 && sregs.efer.0 & EFER_LMA != 0;
    if !paging || !sregs.long_code {
        return Err(WalkError::Mode);
    }
    let levels: u32 = if sregs.cr4.0 & CR4_LA57 != 0 { 5 } else { 4 };
    let mut table = sregs.cr3.0 & ADDRESS;
    for level in (1..=levels).rev() {
        let shift = 12 + 9 * (level - 1);
        let entry = word(table + ((linear >> shift) & 0x1ff) * 8)?;
        if entry & PRESENT == 0 {
            return Err(WalkError::NotPresent);
        }
        // Only a page directory and a page-directory-pointer table can map a large page.
        if level == 1 || ((level == 2 || level == 3) && entry & LARGE != 0) {
            let offset = (1u64 << shift) - 1;
            return Ok((entry & ADDRESS & !offset) | (linear & offset));
        }
        table = entry & ADDRESS;
    }
    Err(WalkError::NotPresent)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use poisontrace_model::hex::Hex;

    fn sregs() -> Sregs {
        Sregs {
            cr0: Hex(CR0_PG | 1),
            cr3: Hex(0x1000 | 0x18),
            cr4: Hex(0x20),
            efer: Hex(EFER_LMA | 0x100),
            long_code: true,
        }
    }

    fn walk(linear: u64, tables: &[(u64, u64)], sregs: &Sregs) -> Result<u64, WalkError> {
        let tables: BTreeMap<u64, u64> = tables.iter().copied().collect();
        translate(linear, sregs, |gpa| Ok(tables.get(&gpa).copied().unwrap_or(0)))
    }

    #[test]
    fn pages_of_4_kib_2_mib_and_1_gib_are_translated() {
        let linear = 0xffff_ffff_8109_e6e8u64;
        let index = |level: u64| ((linear >> (12 + 9 * level)) & 0x1ff) * 8;
        let upper = [(0x1000 + index(3), 0x2003), (0x2000 + index(2), 0x3003)];
        let small = [
            upper[0],
            upper[1],
            (0x3000 + index(1), 0x4003),
            (0x4000 + index(0), 0x8000_0000_0123_4063),
        ];
        assert_eq!(walk(linear, &small, &sregs()).unwrap(), 0x123_46e8);
        let large = [upper[0], upper[1], (0x3000 + index(1), 0x20_00e3)];
        assert_eq!(
            walk(linear, &large, &sregs()).unwrap(),
            0x20_0000 | (linear & 0x1f_ffff)
        );
        let huge = [upper[0], (0x2000 + index(2), 0x4000_00e3)];
        assert_eq!(
            walk(linear, &huge, &sregs()).unwrap(),
            0x4000_0000 | (linear & 0x3fff_ffff)
        );
        assert!(matches!(
            walk(linear, &upper, &sregs()),
            Err(WalkError::NotPresent)
        ));
    }

    #[test]
    fn a_guest_outside_64_bit_mode_is_not_read() {
        let mut real = sregs();
        real.cr0 = Hex(0x10);
        assert!(matches!(walk(0x1000, &[], &real), Err(WalkError::Mode)));
        let mut compatibility = sregs();
        compatibility.long_code = false;
        assert!(matches!(walk(0x1000, &[], &compatibility), Err(WalkError::Mode)));
    }

    #[test]
    fn tables_that_point_at_themselves_come_to_an_end() {
        let linear = 0u64;
        assert_eq!(walk(linear, &[(0x1000, 0x1003)], &sregs()).unwrap(), 0x1000);
    }
}
