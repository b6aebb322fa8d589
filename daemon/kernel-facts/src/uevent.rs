//! The kernel's own word that a module came or went (NETLINK_KOBJECT_UEVENT, lib/kobject_uevent.c): costs nothing while
//! nothing happens.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
        recv, socket_with,
    },
};

/// The group that the kernel sends to.
const KERNEL: u32 = 1;

/// A socket that gets the uevents of this host.
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Opens it, so that reading does not block.
    ///
    /// # Errors
    /// Where netlink sockets are forbidden.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            Some(KOBJECT_UEVENT),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(Self(socket))
    }

    /// Takes what is there; returns whether any of it is about one of KVM's modules. Lost events count as such.
    pub fn about_kvm(&self) -> bool {
        let mut about = false;
        let mut message = [0; 4096];
        loop {
            match recv(&self.0, &mut message, RecvFlags::empty()) {
                Ok((length, _)) => about |= is_about_kvm(&message[..length.min(message.len())]),
                Err(rustix::io::Errno::NOBUFS) => about = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return about,
            }
        }
    }

    /// Blocks until there is something, or the time is over.
    pub fn wait(&self, limit: Duration) {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        // Woken too early or too late: the caller looks again.
        let _ = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit));
    }
}

impl AsRawFd for Uevents {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// `add@/module/kvm_amd`, `remove@/module/kvm`, then zero bytes and variables.
fn is_about_kvm(message: &[u8]) -> bool {
    let first = message.split(|byte| *byte == 0).next().unwrap_or_default();
    memchr::memmem::find(first, b"@/module/kvm").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kvms_modules_are_heard_of() {
        assert!(is_about_kvm(b"add@/module/kvm_amd\0ACTION=add\0"));
        assert!(is_about_kvm(b"remove@/module/kvm\0"));
        assert!(!is_about_kvm(b"add@/module/9p\0NAME=@/module/kvm\0"));
        assert!(!is_about_kvm(b"change@/devices/virtual/misc/kvm\0"));
        assert!(!is_about_kvm(b""));
    }
}
