//! The kernel's BTF as far as aya asks for it. To bind fentry and fexit it wants nothing but the number of a function
//! in the kernel's BTF; parsed whole, that takes 30 MB and most of the start's time.

use std::collections::BTreeMap;

use aya::{Btf, Endianness};

use poisontrace_kernel_facts::btf::Prototype;

const MAGIC: u32 = 0x0001_eb9f;
const HEADER: u32 = 24;
/// A forward declaration without a name: the shortest type.
const FILLER: [u32; 3] = [0, 7 << 24, 0];
const FUNC: u32 = 12 << 24;
/// Far above the 200,000 of a large kernel.
const MAX_ID: u32 = 4_000_000;

/// BTF in which each of the kernel proper's functions has its number, and all others are fillers.
///
/// # Errors
/// Never of such text, unless aya's reading of BTF changes.
pub fn of(functions: &BTreeMap<String, Prototype>) -> Result<Btf, String> {
    let mut numbered: Vec<(u32, &str)> = functions
        .iter()
        .filter(|(_, function)| function.module.is_none() && (1..MAX_ID).contains(&function.id))
        .map(|(name, function)| (function.id, name.as_str()))
        .collect();
    numbered.sort_unstable();
    let mut strings = vec![0];
    let mut types: Vec<u8> = Vec::new();
    let mut next = 1;
    let mut push = |words: [u32; 3]| types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    for (id, name) in numbered {
        while next < id {
            push(FILLER);
            next += 1;
        }
        push([u32::try_from(strings.len()).unwrap_or(0), FUNC, 0]);
        next += 1;
        strings.extend(name.as_bytes());
        strings.push(0);
    }
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(0);
    let header = [MAGIC, HEADER, 0, length(&types), length(&types), length(&strings)];
    let mut btf: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    btf.extend(types);
    btf.extend(strings);
    Btf::parse(&btf, Endianness::Little).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::BtfKind;

    use super::*;

    #[test]
    fn each_function_has_the_number_that_the_kernel_gave_it() {
        let function = |id, module: Option<&str>| Prototype {
            id,
            module: module.map(str::to_owned),
            ..Prototype::default()
        };
        let functions = BTreeMap::from([
            ("memory_failure".to_owned(), function(41_000, None)),
            ("get_user_pages_unlocked".to_owned(), function(7, None)),
            ("kvm_arch_vcpu_ioctl".to_owned(), function(41_001, Some("kvm"))),
        ]);
        let btf = of(&functions).unwrap();
        let id = |name| btf.id_by_type_name_kind(name, BtfKind::Func).ok();
        assert_eq!(id("memory_failure"), Some(41_000));
        assert_eq!(id("get_user_pages_unlocked"), Some(7));
        assert_eq!(id("kvm_arch_vcpu_ioctl"), None);
    }
}
