//! Who sent a line, as its loggers name him; the `speakers` decide the role.

/// Names of a sender. Lines of one file with the same names come from the same one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sender {
    /// Name of the host.
    pub host: Option<String>,
    /// Boot of the journal.
    pub boot: Option<String>,
    /// Tag of syslog, or the program's name.
    pub tag: Option<String>,
    /// The process.
    pub pid: Option<u32>,
    /// Unit of systemd.
    pub unit: Option<String>,
    /// Name of the libvirt domain.
    pub domain: Option<String>,
    /// The tag is that of a relay of consoles.
    pub relay: bool,
    /// A name before the line, of a machine, a console or a file: what it is to a VM its lines show.
    pub label: Option<String>,
    /// The monitor of QEMU that sent an event (`mon=0x…`), or which session of one it is.
    pub monitor: Option<String>,
    /// Its console as somebody pasted it: nothing shows where that ends.
    pub pasted: bool,
    /// The pod that runs one VM and no other.
    pub launcher: bool,
}

impl Sender {
    /// The machine that logged the line. A name of which nothing is known is one, too.
    pub fn machine(&self) -> Option<&str> {
        self.host.as_deref().or(self.label.as_deref())
    }
}
