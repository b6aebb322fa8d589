//! Heads of sections of a file that several machines' lines were put into: `tail`, `dshbak`, `clush`, Ansible, and the prompt
//! of a shell before the command whose output follows.

use super::{
    console,
    shell::{PROMPTS, operand, words},
};
use crate::origin::{OfDomain, Origin};
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
        if let Some(domain) = console::domain(line).and_then(text) {
            // What stood before it was of the machine on which the command ran.
            self.origin = Origin {
                domain: Some(domain),
                of_domain: OfDomain::Console,
                ..Origin::default()
            };
            return true;
        }
        if self.origin.of_domain == OfDomain::Console && console::ends(line) {
            self.origin = Origin::default();
            return true;
        }
        if let Some(path) = of_tail(line) {
            self.origin = Origin {
                label: text(path),
                ..Origin::default()
            };
            return true;
        }
        let prompted = prompt(line);
        if let Some((host, domain)) = prompted.and_then(|host| Some((host, of_log(line)?))) {
            self.origin = Origin {
                host: text(host),
                domain: text(domain),
                ..Origin::default()
            };
            return true;
        }
        let host = of_ansible(line)
            .or(prompted)
            .or_else(|| of_pssh(line))
            .or_else(|| of_ssh(line));
        if let Some(host) = host.and_then(text) {
            self.host(host);
            return true;
        }
        if let Some(name) = heading(line) {
            self.origin = Origin {
                label: text(name),
                ..Origin::default()
            };
            return true;
        }
        false
    }

    fn host(&mut self, host: Arc<str>) {
        self.origin = Origin {
            host: Some(host),
            ..Origin::default()
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

/// `[1] 15:45:34 [SUCCESS] node1` of pssh.
fn of_pssh(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"[")?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = rest[digits..].strip_prefix(b"] ")?;
    let time = rest
        .iter()
        .take_while(|b| b.is_ascii_digit() || **b == b':')
        .count();
    let rest = rest[time..].strip_prefix(b" [")?;
    let rest = rest
        .strip_prefix(b"SUCCESS] ")
        .or_else(|| rest.strip_prefix(b"FAILURE] "))?;
    let host = rest.split(|b| *b == b' ').next()?;
    (digits > 0 && time > 0 && is_host(host)).then_some(host)
}

/// `cat /var/log/libvirt/qemu/db-7.log`, the only file that a command names: what follows is of that domain.
fn of_log(line: &[u8]) -> Option<&[u8]> {
    const FOLDER: &[u8] = b"libvirt/qemu/";
    let words = line.split(|b| *b == b' ').skip(1);
    let mut files = words.filter(|word| word.contains(&b'/'));
    let path = files.find(|word| memchr::memmem::find(word, FOLDER).is_some())?;
    if files.next().is_some() {
        return None;
    }
    let path = std::str::from_utf8(path).ok()?;
    super::libvirt::domain_of_log(path).map(str::as_bytes)
}

/// `ssh -p 22 root@node1 dmesg`, behind a prompt or not: what follows is the other machine's.
fn of_ssh(line: &[u8]) -> Option<&[u8]> {
    const WITH_VALUE: [&[u8]; 6] = [b"-p", b"-i", b"-l", b"-o", b"-F", b"-J"];
    let prompt = PROMPTS.iter().find_map(|prompt| line.strip_prefix(*prompt));
    let rest = prompt.unwrap_or(line).strip_prefix(b"ssh ")?;
    let word = operand(&mut words(rest), &WITH_VALUE)?;
    let at = memchr::memchr(b'@', word);
    let host = at.map_or(word, |at| &word[at + 1..]);
    // "ssh to the machine" is a sentence.
    let named = at.is_some()
        || host
            .iter()
            .any(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'));
    (named && is_host(host)).then_some(host)
}

/// `=== node1 ===`, `### hv-2`, `node1:` alone (Salt).
fn heading(line: &[u8]) -> Option<&[u8]> {
    const LONGEST: usize = 96;
    const MARKS: &[u8] = b"=#*~-+<>_ ";
    // Heads of parts of one machine's evidence.
    const PARTS: [&[u8]; 12] = [
        b"log", b"dmesg", b"journal", b"console", b"qemu", b"kern", b"part", b"step", b"boot", b"case",
        b"file", b"mce",
    ];
    let (first, last) = (line.first()?, line.last()?);
    if line.len() > LONGEST || !(MARKS.contains(first) || *last == b':') || *first == b' ' {
        return None;
    }
    let marks = line.iter().take_while(|b| MARKS.contains(b)).count();
    let end = line.iter().rev().take_while(|b| MARKS.contains(b)).count();
    let inner = line.get(marks..line.len().saturating_sub(end))?;
    let name = inner.strip_suffix(b":");
    if marks < 2 && name.is_none() {
        return None;
    }
    let name = name.unwrap_or(inner);
    let has = |of: fn(&u8) -> bool| name.iter().any(of);
    let points = name.iter().filter(|b| **b == b'.').count();
    let machine = has(u8::is_ascii_digit) && (has(u8::is_ascii_alphabetic) || points == 3);
    let lower = name.to_ascii_lowercase();
    let part = PARTS
        .iter()
        .any(|part| memchr::memmem::find(&lower, part).is_some());
    (machine && !part && is_host(name)).then_some(name)
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
    let command = after.get(2..).unwrap_or_default();
    (user_is && sign && is_host(host)).then(|| of_ssh(command).unwrap_or(host))
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
        assert_eq!(origin(&["[2] 15:45:34 [SUCCESS] node7"]), host("node7"));
        assert_eq!(origin(&["ssh -p 22 root@hv dmesg"]), host("hv"));
        assert_eq!(origin(&["root@jump:~# ssh hv3 dmesg"]), host("hv3"));
        for head in ["=== hv1 ===", "### hv1", "***** hv1 *****", "hv1:", "--- hv1:"] {
            assert_eq!(origin(&[head]), (None, Some("hv1".to_owned())), "{head}");
        }
        let (none, label) = origin(&["==> node1/kern.log <=="]);
        assert_eq!((none, label.as_deref()), (None, Some("node1/kern.log")));
    }

    #[test]
    fn other_lines_are_no_heads() {
        for line in [
            "mail to kim@example.org: see below",
            "kim@example.org",
            "a | b | c",
            "ssh to the machine",
            "=== dmesg1 ===",
            "=== host ===",
            "dmesg:",
            "# dmesg",
            "We tried 2 things:",
            "[root@hv2",
            "----------------",
            "[   12.3] x@y:~# z",
            "",
        ] {
            assert_eq!(origin(&[line]), (None, None), "{line}");
        }
    }
}
