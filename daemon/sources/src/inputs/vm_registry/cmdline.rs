//! A VM's name from its VMM's command line, which its owner chooses.

/// What the command line contains.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub name: Option<String>,
    pub uuid: Option<String>,
}

/// Splits /proc/PID/cmdline.
pub fn split(bytes: &[u8]) -> Vec<String> {
    bytes
        .split(|b| *b == 0)
        .filter(|a| !a.is_empty())
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .collect()
}

/// Finds the VM's name and UUID among a VMM's arguments: QEMU's `-name [guest=]NAME[,…]` and `-uuid UUID`,
/// Firecracker's `--id ID`.
pub fn identify(arguments: &[String]) -> Named {
    let mut named = Named::default();
    let mut arguments = arguments.iter().skip(1);
    while let Some(option) = arguments.next() {
        let (option, inline) = match option.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value)),
            _ => (option.as_str(), None),
        };
        match option {
            "-name" | "--name" => {
                named.name = inline
                    .or_else(|| arguments.next().map(String::as_str))
                    .and_then(qemu_name);
            }
            "-uuid" | "--uuid" => {
                named.uuid = inline
                    .or_else(|| arguments.next().map(String::as_str))
                    .map(str::to_owned);
            }
            "--id" => {
                named.name = inline
                    .or_else(|| arguments.next().map(String::as_str))
                    .map(str::to_owned);
            }
            _ => {}
        }
    }
    named
}

/// `guest=web,debug-threads=on`, `web,process=x`, `web`. A doubled comma is QEMU's quoted comma.
fn qemu_name(value: &str) -> Option<String> {
    const COMMA: char = '\u{0}';
    let value = value.replace(",,", &COMMA.to_string());
    let mut first = None;
    for (n, part) in value.split(',').enumerate() {
        match part.split_once('=') {
            Some(("guest", name)) => return Some(name.replace(COMMA, ",")),
            None if n == 0 && !part.is_empty() => first = Some(part.replace(COMMA, ",")),
            _ => {}
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(arguments: &[&str]) -> Named {
        identify(&arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn qemu_and_firecracker_name_their_guests_each_in_its_way() {
        let qemu = name(&["qemu", "-name", "guest=web01,debug-threads=on", "-uuid", "1-2-3"]);
        assert_eq!(
            (qemu.name.as_deref(), qemu.uuid.as_deref()),
            (Some("web01"), Some("1-2-3"))
        );
        assert_eq!(name(&["qemu", "-name", "plain"]).name.as_deref(), Some("plain"));
        assert_eq!(
            name(&["qemu", "-name", "guest=a,,b,process=x"]).name.as_deref(),
            Some("a,b")
        );
        assert_eq!(name(&["qemu", "-name", "debug-threads=on"]).name, None);
        assert_eq!(name(&["firecracker", "--id", "fc7"]).name.as_deref(), Some("fc7"));
        assert_eq!(name(&["firecracker", "--id=fc8"]).name.as_deref(), Some("fc8"));
        assert_eq!(name(&["qemu", "-name"]), Named::default());
    }
}
