//! `poisontrace forecast` on made-up hosts: what it answers, what it states as not known, and its time for many VMs.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use poisontrace_probes::vcpu::{VCPU, Vcpu};
use serde_json::Value;
use zerocopy::IntoBytes as _;

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// An AMD host that recovers, with KVM.
fn host(root: &Path) {
    write(root, "proc/sys/vm/memory_failure_early_kill", "0\n");
    write(root, "proc/sys/vm/memory_failure_recovery", "1\n");
    write(
        root,
        "proc/cpuinfo",
        "vendor_id\t: AuthenticAMD\nflags\t\t: fpu mce overflow_recov succor smca\n",
    );
    write(root, "proc/meminfo", "HardwareCorrupted:     0 kB\n");
    for folder in ["sys/module/kvm", "sys/module/kvm_amd"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
}

struct Vm<'a> {
    pid: u32,
    program: &'a str,
    /// SigCgt.
    caught: &'a str,
    vcpus: u32,
    hugetlb_kb: u64,
}

const QEMU: Vm = Vm {
    pid: 1000,
    program: "qemu-system-x86_64",
    caught: "0000000000000040",
    vcpus: 2,
    hugetlb_kb: 0,
};

fn vm(root: &Path, vm: &Vm) {
    let program = root.join("usr/bin").join(vm.program);
    if !program.exists() {
        write(
            root,
            &format!("usr/bin/{}", vm.program),
            "\u{7f}ELF QEMU emulator version 10.0.2 (made up)\n",
        );
    }
    let dir = root.join("proc").join(vm.pid.to_string());
    fs::create_dir_all(dir.join("fd")).unwrap();
    symlink(&program, dir.join("exe")).unwrap();
    let mut links = vec!["/dev/null".to_owned(), "anon_inode:kvm-vm".to_owned()];
    links.extend((0..vm.vcpus).map(|n| format!("anon_inode:kvm-vcpu:{n}")));
    for (n, to) in links.iter().enumerate() {
        symlink(to, dir.join(format!("fd/{n}"))).unwrap();
    }
    let files = [
        ("cmdline", format!("{}\0-name\0guest=web{}\0", vm.program, vm.pid)),
        (
            "status",
            format!(
                "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t{}\nRssAnon:\t 1048576 kB\nHugetlbPages:\t {} kB\n",
                vm.caught, vm.hugetlb_kb
            ),
        ),
        (
            "maps",
            "7f0000000000-7f0040000000 rw-p 00000000 00:00 0 \n".repeat(200),
        ),
    ];
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
}

fn forecast(root: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_poisontrace"))
        .arg("forecast")
        .arg("--root")
        .arg(root)
        .args(more)
        .output()
        .unwrap()
}

/// What the iterator writes for the vCPUs of these processes: an AMD CPU model; `ras`: CPUID 0x80000007 EBX.
fn iterator(root: &Path, pids: std::ops::Range<u32>, vcpus: u32, ras: u32) -> String {
    let mut bytes = Vec::new();
    for tgid in pids {
        for number in 0..vcpus {
            let vcpu = Vcpu {
                kind: VCPU,
                known: u32::MAX,
                vcpu: u64::from(tgid) << 32 | u64::from(number),
                tgid,
                number,
                mcg_cap: 0x10a,
                mcg_status: 0,
                mcg_ctl: u64::MAX,
                cr4: 1 << 6,
                vendor: [0x6874_7541, 0x6974_6e65, 0x444d_4163],
                ras,
            };
            bytes.extend(vcpu.as_bytes());
        }
    }
    let file = root.join("vcpus");
    fs::write(&file, bytes).unwrap();
    file.to_string_lossy().into_owned()
}

/// The document; it must be as the schema has it.
fn document(root: &Path, more: &[&str]) -> Value {
    let output = forecast(root, &[&["--format", "json"], more].concat());
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|err| panic!("{err}: {}", String::from_utf8_lossy(&output.stderr)));
    let schema: Value = serde_json::from_str(include_str!("../report/forecast.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(&document)
        .map(|err| err.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    document
}

fn entry<'a>(vm: &'a Value, page: &str, notice: &str) -> &'a Value {
    let entries = vm["forecasts"].as_array().unwrap();
    let mut found = entries
        .iter()
        .filter(|e| e["page"] == page && e["notice"] == notice);
    found.next().unwrap()
}

#[test]
fn without_the_iterator_each_case_is_given_and_the_exit_status_shows_it() {
    let root = tempfile::tempdir().unwrap();
    host(root.path());
    vm(root.path(), &QEMU);
    let document = document(root.path(), &[]);
    let vm = &document["vms"][0];
    assert_eq!(
        (&vm["name"], &vm["qemu_version"]),
        (&"web1000".into(), &"10.0".into())
    );
    assert_eq!(vm["vcpus"], Value::Null);
    assert_eq!(vm["unknown"][0]["fact"], "vcpus");
    let process = entry(vm, "guest_process", "ao");
    assert_eq!(process["outcome"], Value::Null);
    assert!(process["cases"].as_array().unwrap().len() > 2, "{process}");
    assert_eq!(entry(vm, "untouched", "ar")["possible"], false);
    let output = forecast(root.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("AMD CPU model with SUCCOR"), "{text}");
}

#[test]
fn a_vmm_without_a_handler_needs_no_vcpus_for_its_answer() {
    let root = tempfile::tempdir().unwrap();
    host(root.path());
    vm(
        root.path(),
        &Vm {
            program: "own-vmm",
            caught: "0",
            ..QEMU
        },
    );
    let document = document(root.path(), &[]);
    let vm = &document["vms"][0];
    for notice in ["ao", "ar"] {
        let process = entry(vm, "guest_process", notice);
        assert_eq!(process["outcome"], "vmm_killed", "{process}");
        assert_eq!(process["cause"], "sigbus_unhandled");
    }
    assert_eq!(vm["headline"]["outcome"], "vmm_killed");
    let summary = document["summary"].as_str().unwrap();
    assert!(summary.starts_with("1 of 1 guest would not survive"), "{summary}");
}

/// The one line of a host of which there is no answer.
fn refused(root: &Path) -> String {
    let output = forecast(root, &[]);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), line.lines().count()),
        (Some(2), 1),
        "{line}"
    );
    line
}

#[test]
fn a_host_without_kvm_or_in_a_pid_namespace_has_one_clear_line() {
    let root = tempfile::tempdir().unwrap();
    let line = refused(root.path());
    assert!(line.contains("no KVM"), "{line}");

    host(root.path());
    fs::create_dir_all(root.path().join("proc/self/ns")).unwrap();
    symlink("pid:[4026532281]", root.path().join("proc/self/ns/pid")).unwrap();
    let line = refused(root.path());
    assert!(line.contains("hostPID: true"), "{line}");
}

#[test]
fn a_host_without_a_guest_is_an_answer() {
    let root = tempfile::tempdir().unwrap();
    host(root.path());
    let output = forecast(root.path(), &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("No guest runs on this host."), "{text}");
}

/// Run by a user who may look at no other's processes, it must not state that there is no guest.
#[test]
fn a_user_who_sees_no_guest_learns_that_there_may_be_some() {
    let root = tempfile::tempdir().unwrap();
    host(root.path());
    vm(root.path(), &QEMU);
    // As /proc shows it to others.
    let fd = root.path().join("proc/1000/fd");
    for (folder, mode) in [(fd, 0o000), (root.path().to_owned(), 0o755)] {
        fs::set_permissions(folder, PermissionsExt::from_mode(mode)).unwrap();
    }
    let output = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .arg(env!("CARGO_BIN_EXE_poisontrace"))
        .args(["forecast", "--root"])
        .arg(root.path())
        .output();
    // Only root can become another user.
    let Some(output) = output.ok().filter(|_| rustix::process::geteuid().is_root()) else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("No guest can be seen: 1 processes"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn with_the_iterator_the_guests_processor_decides() {
    let root = tempfile::tempdir().unwrap();
    host(root.path());
    vm(root.path(), &Vm { vcpus: 1, ..QEMU });
    for (ras, outcome, mends) in [(3, "survived", false), (0, "guest_panicked", true)] {
        let recorded = iterator(root.path(), 1000..1001, 1, ras);
        let more = ["--vcpus", &recorded];
        let document = document(root.path(), &more);
        let vm = &document["vms"][0];
        assert_eq!(entry(vm, "guest_process", "ao")["outcome"], outcome);
        assert_eq!(entry(vm, "guest_kernel", "ar")["outcome"], "guest_panicked");
        assert_eq!(vm["headline"]["setting_mends"], mends);
        assert_eq!(vm["vcpus"][0]["succor"], ras != 0);
        let output = forecast(root.path(), &more);
        assert_eq!(output.status.code(), Some(0), "all was read");
    }
}

/// The limit holds on two idle cores; a busy machine gets four times as much.
#[test]
fn a_thousand_vms_of_32_vcpus_take_less_than_a_second() {
    let root = tempfile::tempdir().unwrap();
    host(root.path());
    for n in 0..1000 {
        vm(
            root.path(),
            &Vm {
                pid: 1000 + n,
                vcpus: 32,
                ..QEMU
            },
        );
    }
    let recorded = iterator(root.path(), 1000..2000, 32, 3);
    let more = ["--vcpus", recorded.as_str()];
    let began = Instant::now();
    let document = document(root.path(), &more);
    let took = began.elapsed();
    println!("1000 VMs of 32 vCPUs: {took:?}, JSON and schema included");
    assert_eq!(document["vms"].as_array().unwrap().len(), 1000);
    assert!(took < Duration::from_secs(20), "{took:?}");
    let began = Instant::now();
    let output = forecast(root.path(), &more);
    let took = began.elapsed();
    println!("the same as text: {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("and 992 more"),
        "VMs with the same answer are together"
    );
}
