//! Memory that the start took.

use std::{fs, ops::Range};

/// Gives back to the kernel what is free. aya reads the kernel's whole BTF before it can be kept from it, in a hundred
/// thousand small pieces; once they are free they lie between what lives, and would stay resident for good.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; glibc guards its own arenas.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Drops those of the program's own pages that the start has touched: what is needed again comes back from the page
/// cache, and of the start's code and of the BPF object inside the binary little is.
pub fn forget_start() {
    let (Ok(program), Ok(smaps)) = (
        fs::read_link("/proc/self/exe"),
        fs::read_to_string("/proc/self/smaps"),
    ) else {
        return;
    };
    for mapping in clean(&smaps, &program.to_string_lossy()) {
        // SAFETY: pages of the program's file of which this process has no copy of its own, and which it cannot write
        // to: dropped, they are read again as they are. A failure changes nothing.
        unsafe {
            libc::madvise(
                mapping.start as *mut libc::c_void,
                mapping.len(),
                libc::MADV_DONTNEED,
            );
        }
    }
}

/// Mappings of `program` that are not writable and hold no page of the process's own (relocations do).
fn clean(smaps: &str, program: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if first == "Anonymous:" {
            found.extend(candidate.take().filter(|_| words.next() == Some("0")));
        } else if !first.ends_with(':') {
            // `55d0c0a00000-55d0c0fb1000 r--p 00000000 fe:00 123 /usr/bin/poisontrace`
            candidate = range(first)
                .filter(|_| words.next().is_some_and(|rights| !rights.contains('w')))
                .filter(|_| words.nth(3) == Some(program));
        }
    }
    found
}

fn range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-2000 r--p 00000000 fe:00 7 /usr/bin/poisontrace
Rss: 4 kB
Anonymous: 0 kB
2000-5000 r-xp 00001000 fe:00 7 /usr/bin/poisontrace
Anonymous: 0 kB
5000-6000 r--p 00004000 fe:00 7 /usr/bin/poisontrace
Anonymous: 4 kB
6000-7000 rw-p 00005000 fe:00 7 /usr/bin/poisontrace
Anonymous: 0 kB
7000-8000 r--p 00000000 fe:00 8 /usr/lib/libc.so.6
Anonymous: 0 kB
8000-9000 rw-p 00000000 00:00 0
Anonymous: 0 kB
";

    #[test]
    fn relocated_writable_and_foreign_pages_are_kept() {
        assert_eq!(
            clean(SMAPS, "/usr/bin/poisontrace"),
            [0x1000..0x2000, 0x2000..0x5000]
        );
    }

    #[test]
    fn what_forgets_its_start_goes_on() {
        let before = include_str!("memory.rs").len();
        forget_start();
        assert_eq!(include_str!("memory.rs").len(), before);
    }
}
