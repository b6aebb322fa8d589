//! A line on its way through the scanner: its sender, its time, and whose words it can be.

use super::{Sender, clock, clock::Stamp, envelope::Envelope, journal, program};
use crate::origin::{OfDomain, Origin};
use poisontrace_model::{event::log_statement::Role, text::sanitise};

/// What is kept of a line, to be shown.
const MAX_TEXT: usize = 200;

/// The host's name where nobody has given it one.
const UNNAMED: &str = "localhost";

/// A label inside of another: two pods may have consoles of one name.
pub fn within(outer: Option<&str>, inner: Option<String>) -> Option<String> {
    match (outer, inner) {
        (Some(outer), Some(inner)) if outer != inner => Some(format!("{outer} {inner}")),
        (outer, inner) => inner.or_else(|| outer.map(str::to_owned)),
    }
}

/// A line on its way through the scanner.
pub struct Line<'a> {
    pub number: u64,
    /// As it is shown.
    pub whole: &'a [u8],
    /// Times and names of the journal's entry that holds it.
    pub entry: Option<&'a journal::Entry>,
    pub envelope: Envelope<'a>,
    /// Its time by `dmesg -H`, which counts on from the line before.
    pub human: Option<i64>,
    /// What stands around it.
    pub origin: &'a Origin,
    /// A name before it that is of no known shape.
    pub column: Option<&'a str>,
    /// Boots of the kernel that speaks, and of the host.
    pub boot: (Option<u32>, Option<u32>),
}

impl Line<'_> {
    pub fn stamp(&self) -> Stamp {
        if let Some(wall) = self.human {
            return Stamp {
                wall: Some(wall),
                no_year: true,
                local: true,
                ..Stamp::default()
            };
        }
        let from = self.envelope.from.min(self.envelope.at);
        let own = clock::stamp(&self.whole[from..], self.envelope.at - from);
        let Some(entry) = self.entry else { return own };
        Stamp {
            // A relayed kernel's own time stands in the message.
            boot: own.boot.or(entry.stamp.boot.filter(|_| entry.of_kernel())),
            ..entry.stamp
        }
    }

    pub fn sender(&self) -> Sender {
        let own = self.envelope.sender();
        let own = match self.entry {
            None => own,
            Some(entry) => Sender {
                domain: own.domain,
                relay: own.relay || entry.sender.relay,
                tag: own.tag.filter(|_| own.relay).or_else(|| entry.sender.tag.clone()),
                label: own.label,
                ..entry.sender.clone()
            },
        };
        let around = self.origin.host.as_deref();
        let domain = self.origin.domain.as_deref();
        let domain = domain.filter(|_| self.origin.of_domain != OfDomain::Console);
        Sender {
            domain: own.domain.or_else(|| domain.map(str::to_owned)),
            pasted: own.relay && self.origin.of_domain == OfDomain::Console,
            launcher: self.origin.of_domain == OfDomain::Launcher,
            host: own
                .host
                .filter(|host| host != UNNAMED || around.is_none())
                .or_else(|| around.map(str::to_owned)),
            label: within(
                self.origin.label.as_deref(),
                own.label.or_else(|| self.column.map(str::to_owned)),
            ),
            ..own
        }
    }

    /// The machine that logged it, as its loggers and what stands around it name it: host, label, and the label inside.
    pub fn machine(&self) -> [Option<&[u8]>; 3] {
        let of_entry = |name: fn(&Sender) -> &Option<String>| {
            let entry = self.entry?;
            name(&entry.sender).as_deref().map(str::as_bytes)
        };
        let around = self.origin.host.as_deref().map(str::as_bytes);
        let host = of_entry(|sender| &sender.host).or(self.envelope.host);
        [
            host.filter(|host| *host != UNNAMED.as_bytes() || around.is_none())
                .or(around),
            self.origin.label.as_deref().map(str::as_bytes),
            self.envelope.label.or(self.column.map(str::as_bytes)),
        ]
    }

    pub fn text(&self) -> String {
        let line = String::from_utf8_lossy(&self.whole[..self.whole.len().min(2 * MAX_TEXT)]);
        sanitise(line.trim(), MAX_TEXT)
    }
}

/// Whether a line of this sender can be one that such a program prints.
pub fn may_print(role: Role, line: &Line<'_>, of_vmm: bool) -> bool {
    let e = &line.envelope;
    let tag = line
        .entry
        .and_then(|entry| entry.sender.tag.as_deref().map(str::as_bytes))
        .or(e.tag);
    match role {
        // A kernel's own line, or a console that somebody relays: with a time since boot, or through a known relay.
        Role::Kernel => {
            !of_vmm
                && (tag.is_none() || tag == Some(b"kernel") || e.relay.is_some() || e.printk || relays(tag))
        }
        Role::Vmm => tag != Some(b"kernel"),
        Role::Libvirt => {
            tag.is_none() && e.libvirt
                || tag.is_some_and(|tag| tag.starts_with(b"libvirt") || tag == b"virtqemud")
        }
        _ => !of_vmm,
    }
}

/// Programs whose messages are the lines of a guest's console.
fn relays(tag: Option<&[u8]>) -> bool {
    let tag = tag.map(String::from_utf8_lossy).unwrap_or_default();
    program::is_vmm(&tag)
        || ["microvm", "qemu", "console", "conserver", "ttyS", "hvc"]
            .iter()
            .any(|part| tag.contains(part))
}
