//! The BPF object with a map whose entries are allocated at load, for kernels whose tracing programs may use no other
//! ([`poisontrace_kernel_facts::facts::Facts::maps_may_allocate`]). The loader has no option for a map's flags.

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

/// The map, and the section of the maps' definitions (`struct bpf_map_def`).
const MAP: &str = "PAGES";
const SECTION: &str = "maps";
/// `map_flags` follows type, key_size, value_size and max_entries.
const FLAGS: u64 = 16;
/// uapi `linux/bpf.h`.
const BPF_F_NO_PREALLOC: u32 = 1;

/// A copy of `object`, aligned as allocations are, without BPF_F_NO_PREALLOC on the totals' map.
///
/// # Errors
/// An object that has no such map.
pub fn object(object: &[u8]) -> Result<Vec<u8>, String> {
    let at = flags(object).ok_or_else(|| format!("it has no map {MAP}"))?;
    let mut changed = object.to_vec();
    let bytes = changed
        .get_mut(at..at.saturating_add(size_of::<u32>()))
        .ok_or_else(|| format!("its map {MAP} is torn"))?;
    let mut flags = [0; size_of::<u32>()];
    flags.copy_from_slice(bytes);
    let without = u32::from_le_bytes(flags) & !BPF_F_NO_PREALLOC;
    bytes.copy_from_slice(&without.to_le_bytes());
    Ok(changed)
}

/// Where in the file the map's flags are.
fn flags(object: &[u8]) -> Option<usize> {
    let file = object::File::parse(object).ok()?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(MAP))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    if section.name() != Ok(SECTION) {
        return None;
    }
    let (start, _) = section.file_range()?;
    usize::try_from(start.checked_add(symbol.address())?.checked_add(FLAGS)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_the_map_is_refused() {
        assert!(object(b"").is_err());
        assert!(object(b"\x7fELF").is_err());
    }

    #[test]
    fn the_totals_of_the_built_object_lose_the_flag_and_nothing_else() {
        static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probes.o"));
        if OBJECT.is_empty() {
            return;
        }
        let at = flags(OBJECT).unwrap();
        let changed = object(OBJECT).unwrap();
        assert_eq!(OBJECT[at] & 1, 1);
        assert_eq!(changed[at], OBJECT[at] & !1);
        assert_eq!(changed[..at], OBJECT[..at]);
        assert_eq!(changed[at + 1..], OBJECT[at + 1..]);
    }
}
