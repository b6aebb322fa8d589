//! The console of a libvirt domain, as `virsh console` shows it (tools/virsh-console.c): what follows is that VM's, until the
//! shell's next prompt.

use super::shell::{PROMPTS, operand, words};

/// Longest name.
const MAX_NAME: usize = 128;

/// The domain whose console begins: the command, behind a prompt or not, or what virsh prints of it (tools/virsh-domain.c,
/// `cmdRunConsole()`, up to 6.x without quotes).
pub fn domain(line: &[u8]) -> Option<&[u8]> {
    match line.strip_prefix(b"Connected to domain ") {
        Some(name) => of_name(
            name.strip_prefix(b"'")
                .and_then(|name| name.strip_suffix(b"'"))
                .unwrap_or(name),
        ),
        None => of_command(line),
    }
}

/// Where the console may end: what virsh prints then, `script` where the shell ends, a prompt without a name, and a sentence that
/// announces something else. A guest's own prompt ends it too: a name too few makes nothing wrong.
pub fn ends(line: &[u8]) -> bool {
    const OF_GUESTS: [&[u8]; 4] = [b"$ ", b"# ", b"~ # ", b"~# "];
    let announces = words(line).count() >= 3 && line.ends_with(b":") && !line.contains(&b'[');
    line.starts_with(b"Script done on ")
        || line.starts_with(b"error: Disconnected from ")
        || OF_GUESTS.iter().any(|prompt| line.starts_with(prompt))
        || announces
}

/// `virsh [options] console [options] NAME`.
fn of_command(line: &[u8]) -> Option<&[u8]> {
    const WITH_VALUE: [&[u8]; 6] = [b"-c", b"--connect", b"-d", b"--debug", b"-l", b"--log"];
    const OF_CONSOLE: [&[u8]; 2] = [b"--devname", b"--domain"];
    let at = memchr::memmem::find(line, b"virsh ")?;
    let before = line[..at].strip_suffix(b"sudo ").unwrap_or(&line[..at]);
    let begins = before.is_empty() || PROMPTS.iter().any(|prompt| before.ends_with(prompt));
    let mut words = words(&line[at + 6..]);
    if !begins || operand(&mut words, &WITH_VALUE)? != b"console" {
        return None;
    }
    let mut name = None;
    while let Some(word) = words.next() {
        match word.starts_with(b"--") {
            true if word == OF_CONSOLE[0] => drop(words.next()?),
            true if word == OF_CONSOLE[1] => name = words.next(),
            true => {}
            false if name.is_none() => name = Some(word),
            // The device, or a sentence.
            false => return None,
        }
    }
    of_name(name?)
}

fn of_name(name: &[u8]) -> Option<&[u8]> {
    let of = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@' | b':' | b'+');
    (!name.is_empty() && name.len() <= MAX_NAME && name.iter().all(of)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_and_what_it_prints() {
        for line in [
            "virsh console db-7",
            "# virsh console db-7",
            "root@h1:~# virsh -c qemu:///system console db-7",
            "[admin@h1 ~]$ sudo virsh --connect qemu+ssh://h1/system console --force db-7",
            "$ virsh console --domain db-7 --safe",
            "Connected to domain 'db-7'",
            "Connected to domain db-7",
        ] {
            assert_eq!(domain(line.as_bytes()), Some(&b"db-7"[..]), "{line}");
        }
        for line in [
            "use virsh console db-7",
            "virsh console",
            "virsh console to see what happens",
            "virsh list --all",
            "Connected to domain ''",
            "Connected to domain of the king",
        ] {
            assert_eq!(domain(line.as_bytes()), None, "{line}");
        }
    }
}
