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
}
