//! Memory that loading took.

/// Gives back to the kernel what is free. aya reads the kernel's BTF whole before it can be told not to, in a hundred
/// thousand small pieces; once they are free they lie between what lives, and would stay resident for good.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; glibc guards its own arenas.
    unsafe {
        libc::malloc_trim(0);
    }
}
