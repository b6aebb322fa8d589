//! What the iterator over vCPUs needs of the running kernel: offsets and a function's number by BTF, and an address by kallsyms.

use std::{collections::BTreeMap, fs, io, io::BufRead as _, path::Path};

use poisontrace_model::forecast::terms::Reason;
use poisontrace_probes::{
    ABSENT,
    layout::{FIELDS, Field, Shape},
};

use crate::btf::{Btf, Member, Prototype, shape_name};

/// The function that the kernel describes its iterator by (`DEFINE_BPF_ITER_FUNC(task_file, …)`).
pub const ITERATOR: &str = "bpf_iter_task_file";
/// The ioctls of a vCPU's file.
const IOCTL: &str = "kvm_vcpu_ioctl";
/// Structures that the iterator reads.
const STRUCTURES: [&str; 10] = [
    "task_struct",
    "file",
    "file_operations",
    "inode",
    "super_block",
    "path",
    "dentry",
    "qstr",
    "kvm_vcpu",
    "kvm_vcpu_arch",
];
/// Members without which no vCPU is found; the others are facts that it then lacks.
const NEEDED: [&str; 4] = ["TASK_TGID", "FILE_PRIVATE", "VCPU_NUMBER", "VCPU_ARCH"];
/// By which a vCPU's file is known: its ioctl function.
const BY_FUNCTION: [&str; 2] = ["FILE_OPERATIONS", "OPERATIONS_IOCTL"];
/// The same where the function's address is kept from us: the name of an anonymous inode.
const BY_NAME: [&str; 7] = [
    "FILE_INODE",
    "INODE_SUPER",
    "SUPER_MAGIC",
    "FILE_PATH",
    "PATH_DENTRY",
    "DENTRY_NAME",
    "NAME_TEXT",
];

/// See the module.
#[derive(Debug)]
pub struct VcpuLayout {
    /// Globals of the BPF object, or [`ABSENT`].
    pub offsets: BTreeMap<&'static str, u32>,
    /// [`ITERATOR`] alone, with its number.
    pub functions: BTreeMap<String, Prototype>,
    /// Address of `kvm_vcpu_ioctl()`; 0: the kernel keeps it to CAP_SYSLOG, and the names of the files decide.
    pub ioctl: u64,
}

impl VcpuLayout {
    /// Reads it below `root` (`/`).
    ///
    /// # Errors
    /// Why the vCPUs cannot be read on this kernel.
    pub fn read(root: &Path) -> Result<Self, Reason> {
        let folder = root.join("sys/kernel/btf");
        let bytes = fs::read(folder.join("vmlinux")).map_err(|err| match err.kind() {
            io::ErrorKind::PermissionDenied => Reason::NotPermitted,
            _ => Reason::NoBtf,
        })?;
        let vmlinux = Btf::parse(&bytes).map_err(|_| Reason::NoBtf)?;
        let functions = vmlinux.functions(&[ITERATOR]);
        if functions.is_empty() {
            return Err(Reason::KernelTooOld);
        }
        let wanted: Vec<&Field> = FIELDS
            .iter()
            .filter(|field| STRUCTURES.contains(&field.of))
            .collect();
        let names: Vec<(&str, &str)> = wanted.iter().map(|field| (field.of, field.name)).collect();
        let mut members = vmlinux.members(&names);
        // KVM as a module whose structures the kernel proper does not describe.
        if !members.contains_key("kvm_vcpu.arch")
            && let Ok(bytes) = fs::read(folder.join("kvm"))
            && let Ok(kvm) = Btf::parse_module(&bytes, &vmlinux)
        {
            members.extend(kvm.members(&names));
        }
        let offsets: BTreeMap<_, _> = wanted
            .iter()
            .map(|field| (field.global, offset(field, &members)))
            .collect();
        let missing = |globals: &[&str]| {
            globals
                .iter()
                .any(|global| offsets.get(global).is_none_or(|at| *at == ABSENT))
        };
        let ioctl = address(&root.join("proc/kallsyms")).filter(|_| !missing(&BY_FUNCTION));
        if missing(&NEEDED) || ioctl.is_none() && missing(&BY_NAME) {
            return Err(Reason::MembersMissing);
        }
        Ok(Self {
            offsets,
            functions,
            ioctl: ioctl.unwrap_or(0),
        })
    }
}

fn offset(field: &Field, members: &BTreeMap<String, Member>) -> u32 {
    let member = members.get(&format!("{}.{}", field.of, field.name));
    let fits = |member: &&Member| field.shape == Shape::Any || member.is == shape_name(field.shape);
    member.filter(fits).map_or(ABSENT, |member| member.offset)
}

/// `ffffffffc0801230 t kvm_vcpu_ioctl [kvm]`. Zeros, or no such line, is how the kernel keeps addresses from us.
fn address(kallsyms: &Path) -> Option<u64> {
    let file = fs::File::open(kallsyms).ok()?;
    let mut file = io::BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let mut words = line.split(u8::is_ascii_whitespace);
        if let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
            && name == IOCTL.as_bytes()
        {
            let address = std::str::from_utf8(address)
                .ok()
                .and_then(|hex| u64::from_str_radix(hex, 16).ok());
            return address.filter(|address| *address != 0);
        }
        line.clear();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_and_one_that_is_hidden_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kallsyms");
        let of = |text: &str| {
            fs::write(&file, text).unwrap();
            address(&file)
        };
        let text = "ffffffff81000000 T _text\nffffffffc0801230 t kvm_vcpu_ioctl\t[kvm]\n";
        assert_eq!(of(text), Some(0xffff_ffff_c080_1230));
        assert_eq!(of("0000000000000000 t kvm_vcpu_ioctl\t[kvm]\n"), None);
        assert_eq!(of("ffffffff81000000 T _text\n"), None);
    }

    #[test]
    fn a_kernel_without_btf_or_without_the_iterator_is_named() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(VcpuLayout::read(root.path()).unwrap_err(), Reason::NoBtf);
        fs::create_dir_all(root.path().join("sys/kernel/btf")).unwrap();
        // A header, no types, the empty string.
        let empty = [
            0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0,
        ];
        fs::write(root.path().join("sys/kernel/btf/vmlinux"), empty).unwrap();
        assert_eq!(VcpuLayout::read(root.path()).unwrap_err(), Reason::KernelTooOld);
    }
}
