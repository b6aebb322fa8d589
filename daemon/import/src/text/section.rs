//! Heads of sections of a file that several machines' lines were put into: `tail`, `dshbak`, `clush`, Ansible, and the prompt
//! of a shell before the command whose output follows.

use crate::origin::Origin;
use std::sync::Arc;

/// Longest name.
const MAX_NAME: usize = 128;
/// Longest head.
const MAX_HEAD: usize = 256;

/// Follows the heads of one file.
#[derive(Default)]
pub struct Sections {
    /// Where the last line was one of dashes: a name may follow.
    dashes: bool,
    /// A name between two lines of dashes.
    named: Option<Arc<str>>,
    /// The section that lines stand in.
    pub origin: Origin,
}

impl Sections {
    /// Takes a line; whether it is a head, or part of one.
    pub fn line(&mut self, line: &[u8]) -> bool {
        if line.len() > MAX_HEAD {
            self.dashes = false;
            return false;
        }
        let line = line.trim_ascii();
        let dashes = line.len() >= 8 && line.iter().all(|b| *b == b'-');
        if dashes {
            if let Some(host) = self.named.take() {
                self.host(host);
            }
            self.dashes = true;
            return true;
        }
        let after_dashes = std::mem::take(&mut self.dashes);
        self.named = None;
        if after_dashes && is_host(line) {
            self.named = text(line);
            return true;
        }
        if let Some(path) = of_tail(line) {
            self.origin = Origin {
                host: None,
                label: text(path),
                column: None,
            };
            return true;
        }
        if let Some(host) = of_ansible(line).or_else(|| prompt(line)).and_then(text) {
            self.host(host);
            return true;
        }
        false
    }

    fn host(&mut self, host: Arc<str>) {
        self.origin = Origin {
            host: Some(host),
            label: None,
            column: None,
        };
    }
}

fn text(name: &[u8]) -> Option<Arc<str>> {
    let name = String::from_utf8_lossy(name.get(..name.len().min(MAX_NAME))?);
    (!name.is_empty()).then(|| poisontrace_model::text::sanitise(&name, MAX_NAME).into())
}

const fn of_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
}

/// Whether all of it is a host's name or address.
fn is_host(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name[0].is_ascii_alphanumeric()
        && name.iter().copied().all(of_name)
}

/// `==> node1/kern.log <==` of `tail` and `head`.
fn of_tail(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(b"==> ")?.strip_suffix(b" <==")
}

/// `node1 | CHANGED | rc=0 >>` of Ansible.
fn of_ansible(line: &[u8]) -> Option<&[u8]> {
    let at = memchr::memmem::find(line, b" | ")?;
    let rest = &line[at + 3..];
    let state = rest
        .split(|b| matches!(b, b' ' | b'!'))
        .next()
        .unwrap_or_default();
    let known = [&b"CHANGED"[..], b"SUCCESS", b"FAILED", b"UNREACHABLE"].contains(&state);
    (known && line.ends_with(b">>") && is_host(&line[..at])).then_some(&line[..at])
}

/// `root@hv1:~# dmesg`, `[root@hv1 ~]# dmesg`, `root@hv1 ~ $ dmesg`.
fn prompt(line: &[u8]) -> Option<&[u8]> {
    let bracketed = line.strip_prefix(b"[");
    let rest = bracketed.unwrap_or(line);
    let at = memchr::memchr(b'@', &rest[..rest.len().min(33)])?;
    let user = &rest[..at];
    let user_is = !user.is_empty() && user.iter().copied().all(of_name);
    let host = &rest[at + 1..];
    let end = host.iter().position(|b| !of_name(*b))?;
    let (host, after) = host.split_at(end);
    let after = match bracketed {
        Some(_) => {
            let close = memchr::memchr(b']', &after[..after.len().min(128)])?;
            (after.first() == Some(&b' ')).then(|| &after[close + 1..])?
        }
        None => {
            let path = after.strip_prefix(b":").or_else(|| after.strip_prefix(b" "))?;
            let begins = matches!(path.first(), Some(b'~' | b'/' | b'#' | b'$'));
            let sign = path.iter().take(128).position(|b| matches!(b, b'#' | b'$'))?;
            begins.then(|| &path[sign..])?
        }
    };
    let sign = matches!(after.first(), Some(b'#' | b'$')) && matches!(after.get(1), None | Some(b' '));
    (user_is && sign && is_host(host)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(lines: &[&str]) -> (Option<String>, Option<String>) {
        let mut sections = Sections::default();
        for line in lines {
            sections.line(line.as_bytes());
        }
        let text = |name: &Option<Arc<str>>| name.as_deref().map(str::to_owned);
        (text(&sections.origin.host), text(&sections.origin.label))
    }

    #[test]
    fn heads_name_the_machine_of_what_follows() {
        let host = |name: &str| (Some(name.to_owned()), None);
        assert_eq!(origin(&["root@hv1:~# dmesg | tail"]), host("hv1"));
        assert_eq!(origin(&["[root@hv2 log]# journalctl -k"]), host("hv2"));
        assert_eq!(origin(&["kim@hv3 ~ $ sudo dmesg"]), host("hv3"));
        assert_eq!(
            origin(&["----------------", "node1", "----------------"]),
            host("node1")
        );
        assert_eq!(origin(&["node7 | CHANGED | rc=0 >>"]), host("node7"));
        let (none, label) = origin(&["==> node1/kern.log <=="]);
        assert_eq!((none, label.as_deref()), (None, Some("node1/kern.log")));
    }

    #[test]
    fn other_lines_are_no_heads() {
        for line in [
            "mail to kim@example.org: see below",
            "kim@example.org",
            "a | b | c",
            "[root@hv2",
            "----------------",
            "[   12.3] x@y:~# z",
            "",
        ] {
            assert_eq!(origin(&[line]), (None, None), "{line}");
        }
    }
}
