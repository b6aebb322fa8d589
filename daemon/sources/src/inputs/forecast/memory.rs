//! What is behind a VM's memory.

use std::{path::Path, time::Instant};

use super::process::{Descriptors, Status, bounded, kibibytes};
use poisontrace_model::forecast::{
    facts::{Backing, Known},
    terms::Reason,
};

/// A file by device and inode, as maps has them.
pub type FileKey = ([u8; 8], u64);

const MAX_MAPS: u64 = 4 << 20;
const MAX_SMAPS: u64 = 16 << 20;
/// Smaller mappings hold no guest's memory, bytes.
const MIN_MEMORY: u64 = 1 << 20;
/// Files of one process that are kept.
const MAX_FILES: usize = 64;

/// Files that are mapped shared and may be guest memory, and whether one is of a DAX device.
pub fn files(dir: &Path) -> (Vec<FileKey>, bool) {
    let maps = bounded(&dir.join("maps"), MAX_MAPS).unwrap_or_default();
    let text = String::from_utf8_lossy(&maps);
    let (mut files, mut dax) = (Vec::new(), false);
    for line in text.lines() {
        let Some(mapping) = Mapping::parse(line) else {
            continue;
        };
        dax |= mapping.path.starts_with("/dev/dax");
        let memory =
            mapping.shared && mapping.bytes >= MIN_MEMORY && !mapping.path.starts_with("anon_inode:");
        if memory && mapping.file.1 != 0 && files.len() < MAX_FILES {
            files.push(mapping.file);
        }
    }
    files.sort_unstable();
    files.dedup();
    (files, dax)
}

struct Mapping<'a> {
    bytes: u64,
    shared: bool,
    file: FileKey,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    /// `7f00-7f10 rw-s 00000000 00:01 1234   /memfd:ram (deleted)`.
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(6, ' ');
        let (from, to) = parts.next()?.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        let permissions = parts.next()?;
        let _offset = parts.next()?;
        let device = parts.next()?;
        let inode = parts.next()?.parse().ok()?;
        let mut key = [0; 8];
        let bytes = device.as_bytes();
        key.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self {
            bytes: address(to)?.checked_sub(address(from)?)?,
            shared: permissions.ends_with('s'),
            file: (key, inode),
            path: parts.next().unwrap_or_default().trim_start(),
        })
    }
}

/// Puts together what status and descriptors show; for huge or pinned memory also smaps, while there is time for it.
pub fn backing(
    dir: &Path,
    status: Result<&Status, &Reason>,
    descriptors: &Descriptors,
    dax: bool,
    walks_until: Instant,
) -> Known<Backing> {
    let status = match status {
        Ok(status) => status,
        Err(reason) => return Known::Not(*reason),
    };
    let mut backing = Backing {
        small: status.resident,
        transparent: None,
        hugetlb: status.hugetlb,
        hugetlb_page: None,
        dax,
        guest_memfd: descriptors.guest_memfd,
        vfio: descriptors.vfio,
        shared_with: Vec::new(),
    };
    let asks = backing.hugetlb > 0 || backing.vfio;
    if asks
        && Instant::now() < walks_until
        && let Ok(smaps) = bounded(&dir.join("smaps"), MAX_SMAPS)
    {
        add_pages(&mut backing, &String::from_utf8_lossy(&smaps));
    }
    Known::Is(backing)
}

/// Adds what smaps shows: transparent huge pages, and the size of most pages of hugetlbfs.
fn add_pages(backing: &mut Backing, smaps: &str) {
    let (mut transparent, mut page, mut most) = (0_u64, 0, 0_u64);
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let bytes = || kibibytes(value);
        match name {
            "KernelPageSize" => page = bytes(),
            "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped" => {
                transparent = transparent.saturating_add(bytes());
            }
            // They come after KernelPageSize in each mapping.
            "Shared_Hugetlb" | "Private_Hugetlb" if bytes() > most => {
                most = bytes();
                backing.hugetlb_page = Some(page);
            }
            _ => {}
        }
    }
    backing.transparent = Some(transparent);
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[test]
    fn mapped_files_are_known_by_device_and_inode() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("maps"),
            "7f0000000000-7f0010000000 rw-s 00000000 00:01 1234                       /memfd:ram (deleted)\n\
             7f0010000000-7f0020000000 rw-p 00000000 00:00 0 \n\
             7f0020000000-7f0020001000 rw-s 00000000 00:0e 9                          anon_inode:kvm-vcpu:0\n\
             7f0030000000-7f0040000000 rw-s 00000000 00:06 77                         /dev/dax0.0\n\
             no mapping\n",
        )
        .unwrap();
        let (files, dax) = files(dir.path());
        assert_eq!(
            files.iter().map(|(_, inode)| *inode).collect::<Vec<_>>(),
            [1234, 77]
        );
        assert!(dax);
    }

    #[test]
    fn huge_and_pinned_memory_is_looked_at_more_closely() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("smaps"),
            "7f0000000000-7f0010000000 rw-s 00000000 00:0f 5 /dev/hugepages/ram\n\
             KernelPageSize:     2048 kB\nAnonHugePages:         0 kB\nPrivate_Hugetlb:   262144 kB\n",
        )
        .unwrap();
        let mut status = Status::default();
        status.hugetlb = 256 << 20;
        let later = Instant::now() + Duration::from_secs(60);
        let of = |until| backing(dir.path(), Ok(&status), &Descriptors::default(), false, until);
        let Known::Is(found) = of(later) else { panic!() };
        assert_eq!((found.hugetlb_page, found.transparent), (Some(2 << 20), Some(0)));
        // There was no time for it.
        let Known::Is(found) = of(Instant::now()) else {
            panic!()
        };
        assert_eq!((found.hugetlb, found.transparent), (256 << 20, None));
    }
}
