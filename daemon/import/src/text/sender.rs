//! Who sent a line, as its loggers name him; what decides whose words they are is [`super::super::parties`].

/// Names of a sender. Lines of one file with the same names come from the same one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sender {
    pub host: Option<String>,
    pub boot: Option<String>,
    pub tag: Option<String>,
    pub pid: Option<u32>,
    pub unit: Option<String>,
    pub domain: Option<String>,
    /// The tag is that of a relay of consoles.
    pub relay: bool,
}
