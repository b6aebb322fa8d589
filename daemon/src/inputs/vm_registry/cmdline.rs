//! A VM's name from its VMM's command line or its libvirt cgroup.

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

/// `0::/machine.slice/machine-qemu\x2d3\x2dweb01.scope/…`: systemd's escaping of libvirt's `qemu-3-web01`. Elsewhere than
/// in the system's own machine.slice users make cgroups of any name.
pub fn libvirt_machine(cgroup: &str) -> Option<String> {
    let path = |line: &'_ str| line.splitn(3, ':').nth(2).map(str::to_owned);
    cgroup.lines().find_map(|line| machine_of(&path(line)?))
}

fn machine_of(path: &str) -> Option<String> {
    let scope = path.strip_prefix("/machine.slice/machine-")?.split('/').next()?;
    let name = unescape(scope.strip_suffix(".scope")?);
    let rest = name.strip_prefix("qemu-")?;
    let (number, name) = rest.split_once('-')?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty())
        .then(|| name.to_owned())
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [b'x', high, low, ..] if *first == b'\\' => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(arguments: &[&str]) -> Named {
        identify(&arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn qemu_firecracker_and_libvirt_name_their_guests_each_in_its_way() {
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
        let scope = "0::/machine.slice/machine-qemu\\x2d3\\x2dweb\\x2d01.scope/libvirt/emulator\n";
        assert_eq!(libvirt_machine(scope).as_deref(), Some("web-01"));
        assert_eq!(
            libvirt_machine("0::/machine.slice/machine-lxc\\x2d1\\x2dx.scope"),
            None
        );
        assert_eq!(libvirt_machine("0::/user.slice"), None);
        let users =
            "0::/user.slice/user-1000.slice/user@1000.service/machine.slice/machine-qemu\\x2d3\\x2dweb.scope";
        assert_eq!(libvirt_machine(users), None, "a user's own systemd");
        let hybrid = "3:cpu:/machine.slice/machine-qemu\\x2d3\\x2dweb.scope/vcpu0\n0::/\n";
        assert_eq!(libvirt_machine(hybrid).as_deref(), Some("web"));
    }
}
