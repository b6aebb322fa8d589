//! File handling: an unreadable file is named and the others are used; any size is read in constant memory.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};

use crate::{amd, explain, incidents_of, only, trace};

#[test]
fn an_unreadable_file_is_named_and_the_others_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let recording =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/panic-amd-6.12.ptrace"))
            .unwrap();
    let second_line = recording.iter().position(|b| *b == b'\n').unwrap() + 1;
    let mut damaged = recording[..second_line].to_vec();
    damaged.extend(b"{\"t\": 1, no event\n");
    let mut tar = vec![0; 512];
    tar[..4].copy_from_slice(b"dmsg");
    tar[257..262].copy_from_slice(b"ustar");
    let bad: [(PathBuf, &str); 18] = [
        (
            file("packed", b"\xfd7zXZ\0 and so on"),
            "packed: line 1: compressed by xz: unpack it",
        ),
        (
            file("zstd", b"\x28\xb5\x2f\xfd and so on"),
            "zstd: line 1: compressed by zstd",
        ),
        (
            file("report.zip", b"PK\x03\x04\x14\0 and so on"),
            "report.zip: line 1: a zip archive: unpack it",
        ),
        (
            file("report.7z", b"7z\xbc\xaf\x27\x1c and so on"),
            "report.7z: line 1: a 7z archive: unpack it",
        ),
        (
            file("report.rar", b"Rar!\x1a\x07 and so on"),
            "report.rar: line 1: a RAR archive: unpack it",
        ),
        (
            file("lz4", b"\x04\x22\x4d\x18 and so on"),
            "lz4: line 1: compressed by lz4: unpack it",
        ),
        (
            file("torn.gz", &gzip(b"[ 1.0] Memory failure: 0x1: ")[..20]),
            "torn.gz: line 1: ",
        ),
        (
            file("perf.data", b"PERFILE2 and so on"),
            "perf.data: line 1: a perf.data file: give the text of `perf script",
        ),
        (
            file("trace.dat", b"\x17\x08\x44tracing6\0"),
            "trace.dat: line 1: a trace.dat file",
        ),
        (
            file("logs.tar", &tar),
            "logs.tar: line 1: a tar archive: unpack it",
        ),
        (
            file("logs.tar.gz", &gzip(&tar)),
            "logs.tar.gz: line 1: a tar archive: unpack it",
        ),
        (
            file("journal", b"LPKSHHRH and so on"),
            "journal: line 1: a binary journal",
        ),
        (
            file("other.db", b"SQLite format 3\0 and nothing more"),
            "other.db: ",
        ),
        (
            file("letter", b"to somebody\n"),
            "letter: nothing in its 1 line is known",
        ),
        (file("empty", b""), "empty: an empty file"),
        (file("damaged", &damaged), "damaged: line 2: "),
        (dir.path().join("gone"), "gone: there is no such file"),
        (dir.path().to_owned(), "Is a directory"),
    ];
    let mut files: Vec<PathBuf> = bad.iter().map(|(path, _)| path.clone()).collect();
    files.insert(4, amd("console.txt"));
    let output = explain(&files);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(incidents_of(&output).len(), 1);
    assert_eq!(stderr.lines().count(), bad.len(), "{stderr}");
    for (_, words) in &bad {
        assert!(stderr.contains(words), "{words} in: {stderr}");
    }
    for (path, words) in &bad {
        let output = explain(std::slice::from_ref(path));
        assert_eq!(output.status.code(), Some(2), "{words}: {output:?}");
        assert!(output.stdout.is_empty());
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn recording() -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(dir.join("tests/recordings/panic-amd-6.12.ptrace")).unwrap()
}

fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

#[test]
fn a_recording_that_went_through_an_editor_or_a_shell_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recording");
    let text = recording();
    let answer = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        only(std::slice::from_ref(&file))
    };
    let expected = answer(text.as_bytes());
    let marked = format!("\u{feff}{text}");
    for bytes in [
        marked.clone().into_bytes(),
        format!("\n\r\n {text}\n").into_bytes(),
        text.replace('\n', "\r\n").into_bytes(),
        text.replacen("{\"", "{ \"", 1)
            .replace("\":", "\": ")
            .into_bytes(),
        utf16(&marked, u16::to_le_bytes),
        utf16(&marked, u16::to_be_bytes),
        utf16(&text, u16::to_le_bytes),
        gzip(&utf16(&marked, u16::to_le_bytes)),
    ] {
        assert_eq!(answer(&bytes), expected);
    }
}

#[test]
fn a_recording_in_parts_is_refused_and_no_all_clear() {
    let dir = tempfile::tempdir().unwrap();
    let text = recording();
    let without_header: String = text.split_inclusive('\n').skip(1).collect();
    for (bytes, says) in [
        (
            format!("{text}{text}"),
            "another recording begins after the closing line",
        ),
        (
            format!("{text}[ 1.0] Linux version 6.12"),
            "text follows the closing line",
        ),
        (
            format!("$ cat recording\n{text}"),
            "line 2: a recording begins here",
        ),
        (
            without_header,
            "line 1: an event of a recording whose header is missing",
        ),
    ] {
        let file = dir.path().join("recording");
        fs::write(&file, bytes).unwrap();
        let output = explain(&[file]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(says), "{stderr}");
    }
}

#[test]
fn a_torn_compressed_file_is_read_as_far_as_it_goes_where_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("torn.gz");
    let trace = fs::read(amd("ftrace.txt")).unwrap();
    for (text, misses) in [
        (recording().into_bytes(), "the end of the recording"),
        (trace, "the end of torn.gz"),
    ] {
        let whole = gzip(&text);
        fs::write(&file, &whole[..whole.len() * 9 / 10]).unwrap();
        let refused = explain(std::slice::from_ref(&file));
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(stderr.contains("--allow-truncated"), "{stderr}");
        let options = ["explain", "--format", "json", "--allow-truncated", "--from"].map(PathBuf::from);
        let allowed = crate::poisontrace(options.iter().chain(std::slice::from_ref(&file)));
        let incidents = incidents_of(&allowed);
        assert_eq!(incidents.len(), 1, "{allowed:?}");
        assert!(crate::misses(&incidents[0], misses), "{incidents:#?}");
    }
}

#[test]
fn lines_that_a_user_sends_to_the_journal_in_the_kernels_name_open_no_incident() {
    let entry = |transport: &str, tag: &str| {
        format!(
            "{{\"__REALTIME_TIMESTAMP\":\"1795362334000000\",\"_TRANSPORT\":\"{transport}\",{tag}\"MESSAGE\":\
             \"Memory failure: 0xf7eb: Sending SIGBUS to qemu-system-x86:4242 due to hardware memory corruption\"}}\n"
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal.json");
    for tag in ["", "\"SYSLOG_IDENTIFIER\":\"kernel\","] {
        fs::write(&file, entry("syslog", tag)).unwrap();
        let output = explain(std::slice::from_ref(&file));
        assert!(
            !String::from_utf8_lossy(&output.stdout).contains("4242"),
            "{output:?}"
        );
    }
    fs::write(&file, entry("kernel", "")).unwrap();
    assert_eq!(incidents_of(&explain(&[file])).len(), 1);
}

#[test]
fn rotated_logs_are_read_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/panic-amd-6.12.ptrace");
    for file in [amd("console.txt"), amd("ftrace.txt"), recording] {
        let packed = dir.path().join("packed.gz");
        fs::write(&packed, gzip(&fs::read(&file).unwrap())).unwrap();
        let mut expected = only(&[file]);
        let mut answer = only(&[packed]);
        for answer in [&mut expected, &mut answer] {
            // The timeline's messages contain the file's name.
            answer["timeline"] = answer["timeline"].as_array().unwrap().len().into();
        }
        assert_eq!(answer, expected);
    }
}

#[test]
fn a_pipe_by_name_is_read_as_a_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let text = fs::read(amd("qemu.log")).unwrap();
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::write(pipe, text).unwrap()
    });
    let i = only(&[pipe]);
    writer.join().unwrap();
    assert_eq!(i["page"]["gpa"], "0x2beb000");
}

/// A text of `left` more bytes.
struct Endless<'a> {
    text: &'a [u8],
    at: usize,
    left: u64,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = wanted.min(self.text.len() - self.at);
        buffer[..n].copy_from_slice(&self.text[self.at..self.at + n]);
        self.at = (self.at + n) % self.text.len();
        self.left -= n as u64;
        Ok(n)
    }
}

/// Peak resident size in KiB of the binary when `bytes` of `text` are piped into it.
fn resident_kib(text: &[u8], bytes: u64) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_poisontrace"))
        .args(["explain", "--from", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut endless = Endless {
        text,
        at: 0,
        left: bytes,
    };
    io::copy(&mut endless, &mut input).unwrap();
    // All but a pipe's capacity has been read: this is the final size.
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    drop(input);
    child.wait().unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_does_not_grow_with_the_input() {
    const MIB: u64 = 1 << 20;
    let trace = fs::read(amd("ftrace.txt")).unwrap();
    let storm = fs::read(trace_of_the_storm()).unwrap();
    let log = fs::read(amd("host.log")).unwrap();
    let junk: Vec<u8> = (0..200_003_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let long_line = vec![b'['; 100_000];
    for (kind, text) in [
        ("trace", trace),
        ("storm", storm),
        ("log", log),
        ("junk", junk),
        ("one line", long_line),
    ] {
        let [small, large] = [1, 8].map(|mib| resident_kib(&text, mib * MIB));
        assert!(
            large < small + 8 * 1024,
            "{kind}: {small} KiB of 2 MiB, {large} KiB of 32 MiB"
        );
    }
}

fn trace_of_the_storm() -> PathBuf {
    trace("intel-tiny-vmm/clflushopt-stepped-over.ftrace.txt")
}

/// The best of three runs over `lines` lines of a trace's hot events.
fn time_of(hot: &str, lines: usize) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("long");
    let mut out = fs::File::create(&file).unwrap();
    let each = hot.lines().count();
    for _ in 0..lines.div_ceil(each) {
        out.write_all(hot.as_bytes()).unwrap();
    }
    drop(out);
    let run = || {
        let begun = Instant::now();
        let output = explain(std::slice::from_ref(&file));
        assert!(output.status.success(), "{output:?}");
        begun.elapsed()
    };
    (0..3).map(|_| run()).min().unwrap()
}

/// An optimised build reads millions of lines a second; this test holds on any build and machine that the cost of a line
/// does not depend on the length of the trace.
#[test]
fn a_line_costs_the_same_in_a_long_trace_as_in_a_short_one() {
    let text = fs::read_to_string(amd("ftrace.txt")).unwrap();
    let hot: String = text
        .lines()
        .filter(|line| line.contains(": kvm_e") || line.contains(": sys_ioctl") || line.contains(": kvm_u"))
        .map(|line| format!("{line}\n"))
        .collect();
    let [short, long] = [25_000, 100_000].map(|lines| time_of(&hot, lines));
    println!("{:.0} lines/s", 100_000.0 / long.as_secs_f64());
    assert!(
        long < short * 8,
        "4 times the lines took {long:?}, {short:?} before"
    );
}

#[test]
fn incidents_that_an_answer_has_no_room_for_are_counted() {
    const PAGES: u64 = 16_384 + 100;
    let mut text = String::new();
    for page in 0..PAGES {
        let t = format!("{}.{:06}", page / 1_000_000, page % 1_000_000);
        text += &format!(
            "vmm-194 [000] d..1. {t}: kvm_exit: vcpu 0 reason EPT_VIOLATION rip 0x10011 info1 0x581 info2 0x0\n"
        );
        text += &format!(
            "vmm-194 [000] ..... {t}: kvm_page_fault: vcpu 0 rip 0x10011 address {:#018x} error_code 0x581\n",
            page << 12
        );
        text += &format!(
            "vmm-194 [000] d..1. {t}: signal_generate: sig=7 errno=0 code=4 comm=vmm pid=194 grp=0 res=0\n"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace");
    fs::write(&file, text).unwrap();
    let output = explain(&[file]);
    assert_eq!(incidents_of(&output).len(), 16_384);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("the first 100 incidents are left out"),
        "{stderr}"
    );
}
