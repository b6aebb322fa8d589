//! The facts of the running kernel, from /proc, /sys and tracefs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, BufRead as _},
    path::{Path, PathBuf},
};

use poisontrace_probes::layout::FIELDS;

use super::{EVENTS, Facts, FactsError, Module};
use crate::{
    btf::Btf,
    format::Format,
    functions::{FUNCTIONS, RAW_TRACEPOINTS},
};

const BTF: &str = "sys/kernel/btf";
const VMLINUX: &str = "vmlinux";
/// Modules that hold what the plan asks for.
const MODULES: [&str; 3] = ["kvm", "kvm_intel", "kvm_amd"];
const PARAMETERS: [&str; 8] = [
    "ept", "npt", "nested", "sev", "sev_es", "sev_snp", "tdx", "tdp_mmu",
];
/// Bits of CapEff (uapi `linux/capability.h`).
const CAPABILITIES: [(u32, &str); 7] = [
    (2, "dac_read_search"),
    (19, "sys_ptrace"),
    (21, "sys_admin"),
    (24, "sys_resource"),
    (34, "syslog"),
    (38, "perfmon"),
    (39, "bpf"),
];

impl Facts {
    /// Reads the facts of the running kernel.
    ///
    /// # Errors
    /// What is missing so badly that nothing can be attached.
    pub fn of_this_kernel() -> Result<Self, FactsError> {
        let root = Path::new("/");
        let held = capabilities(root);
        let may = |name: &str| held.contains(name);
        // The kernel's error names what else it takes.
        if !(may("sys_admin") || may("bpf") || may("perfmon")) {
            return Err(FactsError::NotRoot);
        }
        if !in_first_pid_namespace(root) {
            return Err(FactsError::PidNamespace);
        }
        Self::read(root)
    }

    /// Reads the facts of the kernel whose files lie under `root`.
    ///
    /// # Errors
    /// As [`Facts::of_this_kernel`].
    pub fn read(root: &Path) -> Result<Self, FactsError> {
        let tracefs = tracefs(root)?;
        let mut facts = Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            symbols: symbols(root, &tracefs),
            kprobes: root.join("sys/bus/event_source/devices/kprobe/type").exists()
                || tracefs.join("kprobe_events").exists(),
            modules: modules(root),
            capabilities: capabilities(root),
            lockdown: lockdown(root),
            hardware_corrupted_kb: hardware_corrupted_kb(root),
            events: events(&tracefs),
            clocksource: word(
                root,
                "sys/devices/system/clocksource/clocksource0/current_clocksource",
            ),
            perf_event_paranoid: word(root, "proc/sys/kernel/perf_event_paranoid")
                .and_then(|level| level.parse().ok()),
            ..Self::default()
        };
        facts.read_btf(&root.join(BTF))?;
        Ok(facts)
    }

    /// HardwareCorrupted of /proc/meminfo as it is now, kB.
    pub fn hardware_corrupted_kb_now() -> Option<u64> {
        hardware_corrupted_kb(Path::new("/"))
    }

    fn read_btf(&mut self, folder: &Path) -> Result<(), FactsError> {
        let names: Vec<&str> = FUNCTIONS.iter().map(|function| function.name).collect();
        let raw = RAW_TRACEPOINTS.map(|tracepoint| tracepoint.name);
        let members: Vec<(&str, &str)> = FIELDS
            .iter()
            .filter(|field| !field.of.contains('/'))
            .map(|field| (field.of, field.name))
            .collect();
        let path = folder.join(VMLINUX);
        let shown = || format!("/{BTF}/{VMLINUX}");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(FactsError::NoBtf(shown())),
            Err(err) => return Err(FactsError::Io(path, err)),
        };
        let vmlinux = Btf::parse(&bytes).map_err(|err| FactsError::BadBtf(shown(), err))?;
        self.btf.insert(VMLINUX.to_owned());
        self.functions = vmlinux.functions(&names);
        self.raw_tracepoints = vmlinux.raw_tracepoints(&raw);
        self.members = vmlinux.members(&members);
        // Without a module's BTF, or with one that is not understood, arguments go unchecked, and its own structures unread.
        for module in MODULES {
            let Ok(bytes) = fs::read(folder.join(module)) else {
                continue;
            };
            match Btf::parse_module(&bytes, &vmlinux) {
                Ok(btf) => {
                    self.btf.insert(module.to_owned());
                    for (path, member) in btf.members(&members) {
                        self.members.entry(path).or_insert(member);
                    }
                    for (name, mut prototype) in btf.functions(&names) {
                        prototype.module = Some(module.to_owned());
                        self.functions.entry(name).or_insert(prototype);
                    }
                    for (name, mut prototype) in btf.raw_tracepoints(&raw) {
                        prototype.module = Some(module.to_owned());
                        self.raw_tracepoints.entry(name).or_insert(prototype);
                    }
                }
                Err(err) => tracing::debug!(module, error = %err, "its BTF cannot be used"),
            }
        }
        Ok(())
    }
}

/// Whether process numbers are the kernel's own, as BPF programs have them. Without /proc/self/ns/pid there are no namespaces.
pub fn in_first_pid_namespace(root: &Path) -> bool {
    /// PROC_PID_INIT_INO (include/linux/proc_ns.h).
    const FIRST: &str = "pid:[4026531836]";
    fs::read_link(root.join("proc/self/ns/pid")).map_or(true, |name| name.as_os_str() == FIRST)
}

/// Where tracefs is mounted.
///
/// # Errors
/// If it is not.
pub fn tracefs(root: &Path) -> Result<PathBuf, FactsError> {
    ["sys/kernel/tracing", "sys/kernel/debug/tracing"]
        .iter()
        .map(|dir| root.join(dir))
        .find(|dir| dir.join("events").is_dir())
        .ok_or(FactsError::NoTracefs)
}

fn events(tracefs: &Path) -> BTreeMap<String, Format> {
    EVENTS
        .iter()
        .filter_map(|name| {
            let text = fs::read_to_string(tracefs.join("events").join(name).join("format")).ok()?;
            Some(((*name).to_owned(), Format::parse(&text)))
        })
        .collect()
}

/// Those of the functions that kprobes can bind to. systemd's ProtectKernelTunables hides kallsyms (it reads as empty); then
/// what ftrace can trace, which on kernels with dynamic ftrace lacks none of them.
fn symbols(root: &Path, tracefs: &Path) -> BTreeSet<String> {
    // `ffffffff81000000 T name	[module]`
    let found = named(&root.join("proc/kallsyms"), |line| {
        let mut words = words(line).skip(1);
        words.next().filter(|kind| matches!(*kind, b"T" | b"t"))?;
        words.next()
    });
    match found.is_empty() {
        false => found,
        // `name [module]`
        true => named(&tracefs.join("available_filter_functions"), |line| {
            words(line).next()
        }),
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
}

/// Those of the functions that a line names; streamed, as there are 200,000 lines.
fn named(file: &Path, name: impl Fn(&[u8]) -> Option<&[u8]>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let Ok(file) = fs::File::open(file) else {
        return found;
    };
    let mut file = io::BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        if let Some(name) = name(&line)
            && let Some(function) = FUNCTIONS.iter().find(|f| f.name.as_bytes() == name)
        {
            found.insert(function.name.to_owned());
        }
        line.clear();
    }
    found
}

fn modules(root: &Path) -> BTreeMap<String, Module> {
    let mut found = BTreeMap::new();
    for name in MODULES {
        let folder = root.join("sys/module").join(name);
        if !folder.is_dir() {
            continue;
        }
        // Only a module that was loaded has a folder of its users.
        let users = fs::read_dir(folder.join("holders")).ok().map(|entries| {
            let mut users: Vec<String> = entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            users.sort();
            users
        });
        let parameters = PARAMETERS
            .iter()
            .filter_map(|name| {
                let value = fs::read_to_string(folder.join("parameters").join(name)).ok()?;
                Some(((*name).to_owned(), value.trim().to_owned()))
            })
            .collect();
        found.insert(name.to_owned(), Module { users, parameters });
    }
    found
}

/// Capabilities that this process holds, of those that reading and loading may take.
pub fn capabilities(root: &Path) -> BTreeSet<String> {
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective >> bit & 1 != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// A file of one word.
fn word(root: &Path, file: &str) -> Option<String> {
    let text = fs::read_to_string(root.join(file)).ok()?;
    Some(text.trim().to_owned()).filter(|word| !word.is_empty())
}

/// `none [integrity] confidentiality`: the one in brackets.
fn lockdown(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("sys/kernel/security/lockdown")).ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// HardwareCorrupted, kB.
pub fn hardware_corrupted_kb(root: &Path) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("HardwareCorrupted:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use poisontrace_probes::layout::Shape;

    use super::*;

    /// A root folder with what `with` names of: btf, tracefs, kvm.
    fn root(with: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        if with.contains(&"btf") {
            // A header, no types, the empty string.
            put(
                "sys/kernel/btf/vmlinux",
                &[
                    0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0,
                ],
            );
        }
        if with.contains(&"bad btf") {
            put("sys/kernel/btf/vmlinux", b"junk");
        }
        if with.contains(&"tracefs") {
            put("sys/kernel/tracing/events/sched/sched_process_exit/format", b"");
        }
        if with.contains(&"kvm") {
            put(
                "sys/kernel/tracing/events/kvm/kvm_exit/format",
                b"\tfield:unsigned int vcpu_id;\toffset:56;\tsize:4;\tsigned:0;\n",
            );
            put("sys/module/kvm/parameters/tdp_mmu", b"Y\n");
            put("sys/module/kvm_amd/parameters/npt", b"Y\n");
        }
        put("proc/kallsyms", b"ffffffff81000000 T memory_failure\nffffffffc0000000 t kvm_arch_vcpu_ioctl\t[kvm]\nffffffff82000000 D send_sig_mceerr\n");
        put("proc/meminfo", b"MemTotal: 1 kB\nHardwareCorrupted:     8 kB\n");
        put("proc/self/status", b"Name:\tx\nCapEff:\t000000c000000000\n");
        put(
            "sys/kernel/security/lockdown",
            b"none [integrity] confidentiality\n",
        );
        root
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let err = |with: &[&str]| Facts::read(root(with).path()).unwrap_err().to_string();
        assert!(err(&["btf"]).contains("mount -t tracefs"), "no tracefs");
        assert!(
            err(&["tracefs", "kvm"]).contains("CONFIG_DEBUG_INFO_BTF"),
            "no BTF"
        );
        assert!(
            err(&["tracefs", "kvm", "bad btf"]).contains("cannot be used"),
            "damaged BTF"
        );
    }

    #[test]
    fn facts_are_read_from_where_the_kernel_keeps_them() {
        use crate::kvm::Kvm;
        let facts = Facts::read(root(&["tracefs", "btf", "kvm"]).path()).unwrap();
        assert_eq!(
            facts.events["kvm/kvm_exit"].offset("vcpu_id", Shape::Unsigned(4)),
            Some(56)
        );
        // Functions of modules count, data does not.
        assert!(facts.symbols.contains("kvm_arch_vcpu_ioctl") && !facts.symbols.contains("send_sig_mceerr"));
        assert_eq!(
            (facts.hardware_corrupted_kb, facts.nested_paging(), facts.kvm()),
            (Some(8), Some(true), Kvm::Ready)
        );
        assert_eq!(facts.lockdown.as_deref(), Some("integrity"));
        assert_eq!(
            facts.capabilities,
            ["bpf".to_owned(), "perfmon".to_owned()].into()
        );
        let hidden = root(&["tracefs", "btf", "kvm"]);
        fs::write(hidden.path().join("proc/kallsyms"), b"").unwrap();
        fs::write(
            hidden
                .path()
                .join("sys/kernel/tracing/available_filter_functions"),
            b"memory_failure\nkvm_arch_vcpu_ioctl [kvm]\n",
        )
        .unwrap();
        let hidden = Facts::read(hidden.path()).unwrap();
        assert!(
            hidden.symbols == facts.symbols,
            "kallsyms hidden, ftrace's list read"
        );
        let without = Facts::read(root(&["tracefs", "btf"]).path()).unwrap();
        assert_eq!(without.kvm(), Kvm::Absent);
    }

    #[test]
    fn process_numbers_of_another_namespace_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("proc/self/ns");
        assert!(in_first_pid_namespace(root.path()));
        fs::create_dir_all(&folder).unwrap();
        for (name, first) in [("pid:[4026531836]", true), ("pid:[4026532281]", false)] {
            let link = folder.join("pid");
            fs::remove_file(&link).ok();
            std::os::unix::fs::symlink(name, &link).unwrap();
            assert_eq!(in_first_pid_namespace(root.path()), first, "{name}");
        }
        assert!(FactsError::PidNamespace.to_string().contains("hostPID: true"));
    }
}
