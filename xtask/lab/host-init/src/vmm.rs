//! Debian's QEMU with KVM: its process, its guest's console and its monitor.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab_protocol::flush::MachineCheck;
use lab_protocol::{GUEST_INITRAMFS_FILE, GUEST_KERNEL_FILE, GuestPlan};

use crate::machine::{HUGE_PAGES, SHARE};

const SERIAL: &str = "/run/guest-serial";
const MONITOR: &str = "/run/guest-monitor";
pub const MEMORY_MIB: u32 = 256;
/// Before 5.17 the share's file system reads single pages, and QEMU takes long to start.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

pub struct Vmm {
    child: Child,
    console: UnixStream,
    lines: Receiver<String>,
    _log: KeptLog,
}

/// QEMU's log where libvirt would have it, by the VM's name; copied to the share at the end.
struct KeptLog {
    file: File,
    path: String,
    kept_as: String,
}

impl KeptLog {
    fn create(path: String, kept_as: String) -> Result<Self> {
        let file = File::create(&path)?;
        Ok(Self { file, path, kept_as })
    }
}

impl Drop for KeptLog {
    fn drop(&mut self) {
        fs::copy(&self.path, &self.kept_as).ok();
    }
}

/// Templates for poisontrace of a VMM's log and of its QMP socket.
pub const LOG_TEMPLATE: &str = "/run/{name}.log";
pub const QMP_TEMPLATE: &str = "/run/{name}.qmp";

fn log_of(name: &str) -> String {
    LOG_TEMPLATE.replace("{name}", name)
}

fn qmp_of(name: &str) -> String {
    QMP_TEMPLATE.replace("{name}", name)
}

/// The first event of the console.
pub enum Seen {
    Line(String),
    /// The console is closed: the VMM has ended or is about to.
    Closed,
    Nothing,
}

impl Vmm {
    pub fn start(plan: &GuestPlan) -> Result<Self> {
        let out = |name: &str| format!("{SHARE}/out/{}{name}", plan.file_prefix);
        for socket in [SERIAL, MONITOR] {
            // There is one only after a guest before this one.
            fs::remove_file(socket).ok();
        }
        let (log, kept_as) = (log_of(&plan.name), out("qemu.log"));
        fs::remove_file(qmp_of(&plan.name)).ok();
        let log = KeptLog::create(log, kept_as).context("cannot write QEMU's log")?;
        let mut child = command(plan)
            .stdin(Stdio::null())
            .stdout(log.file.try_clone()?)
            .stderr(log.file.try_clone()?)
            .spawn()
            .context("cannot start QEMU")?;
        let connected = connect(SERIAL, &mut child);
        let console = connected.inspect_err(|_| {
            // It must not linger beside a second try.
            child.kill().ok();
        })?;
        let lines = follow(console.try_clone()?, File::create(out("console.txt"))?);
        Ok(Self {
            child,
            console,
            lines,
            _log: log,
        })
    }

    /// Waits for a line of the guest's console that holds `text`.
    pub fn wait_line(&mut self, text: &str, limit: Duration) -> Seen {
        let deadline = Instant::now() + limit;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line.contains(text) => return Seen::Line(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Seen::Nothing,
                Err(RecvTimeoutError::Disconnected) => return Seen::Closed,
            }
        }
    }

    pub fn type_line(&mut self, text: &str) -> Result<()> {
        writeln!(self.console, "{text}").context("cannot write to the guest's console")
    }

    /// Host page frame behind a guest physical address, by the monitor's gpa2hpa.
    pub fn page_frame(&mut self, gpa: u64) -> Result<u64> {
        let line = self.ask(&format!("gpa2hpa {gpa:#x}"), "Host physical address for")?;
        line.rsplit_once(" is 0x")
            .and_then(|(_, address)| u64::from_str_radix(address.trim(), 16).ok())
            .map(|address| address >> 12)
            .with_context(|| format!("QEMU's monitor answered gpa2hpa with: {line}"))
    }

    /// Injects a machine check by the monitor's `mce`: values of another VMM, which QEMU itself never sends.
    pub fn machine_check(&mut self, event: &MachineCheck, gpa: u64) -> Result<()> {
        let MachineCheck {
            bank,
            status,
            misc,
            mcg_status,
        } = event;
        // `mce` alone has no answer.
        let command = format!("mce -b 0 {bank} {status:#x} {mcg_status:#x} {gpa:#x} {misc:#x}\ninfo status");
        self.ask(&command, "VM status").map(drop)
    }

    /// The first line that holds `answer`.
    fn ask(&mut self, command: &str, answer: &str) -> Result<String> {
        let mut monitor = connect(MONITOR, &mut self.child)?;
        monitor.set_read_timeout(Some(ANSWER_LIMIT))?;
        writeln!(monitor, "{command}")?;
        let mut text = String::new();
        let mut part = [0; 512];
        loop {
            let length = monitor
                .read(&mut part)
                .with_context(|| format!("QEMU's monitor does not answer {command}: {text}"))?;
            if length == 0 {
                bail!("QEMU's monitor closed: {text}");
            }
            text.push_str(&String::from_utf8_lossy(&part[..length]));
            // Whole lines only.
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            if let Some(line) = complete.lines().find(|line| line.contains(answer)) {
                return Ok(line.to_owned());
            }
        }
    }

    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill QEMU")
    }

    /// Waits for the end; a VMM that outlives the limit is killed, and that is an error.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                // The guest's last lines may still be on their way.
                while self.lines.recv_timeout(Duration::from_secs(2)).is_ok() {}
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.kill()?;
        self.child.wait()?;
        bail!("QEMU was still running after {} s", limit.as_secs())
    }
}

fn command(plan: &GuestPlan) -> Command {
    let mut qemu = Command::new("/usr/bin/qemu-system-x86_64");
    for firmware in ["/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe/qemu"] {
        qemu.args(["-L", firmware]);
    }
    qemu.arg("-name")
        .arg(format!("guest={},debug-threads=on", plan.name))
        .args([
            "-uuid",
            &plan.uuid,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-vga",
            "none",
        ])
        .args([
            "-machine",
            "pc,accel=kvm",
            "-cpu",
            &plan.cpu,
            "-smp",
            &plan.vcpus.max(1).to_string(),
            "-m",
            &MEMORY_MIB.to_string(),
        ])
        .args(["-kernel", &format!("{SHARE}/{GUEST_KERNEL_FILE}")])
        .args(["-initrd", &format!("{SHARE}/{GUEST_INITRAMFS_FILE}")])
        .arg("-append")
        .arg(format!(
            "console=ttyS0 panic=-1 quiet tsc=reliable {}",
            plan.words.join(" ")
        ))
        // QEMU waits for the console's reader, so that no line is lost.
        .args([
            "-chardev",
            &format!("socket,id=serial,path={SERIAL},server=on,wait=on"),
        ])
        .args(["-serial", "chardev:serial"])
        .args([
            "-chardev",
            &format!("socket,id=monitor,path={MONITOR},server=on,wait=off"),
        ])
        .args(["-mon", "chardev=monitor,mode=readline"])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", qmp_of(&plan.name))])
        .arg("-action")
        .arg(if plan.reboots {
            "shutdown=poweroff"
        } else {
            "reboot=shutdown,shutdown=poweroff"
        });
    if let Some(file) = &plan.memory_file {
        qemu.arg("-object")
            .arg(format!(
                "memory-backend-file,id=ram,size={MEMORY_MIB}M,mem-path={file},share=on"
            ))
            .args(["-machine", "memory-backend=ram"]);
    }
    if plan.outlives_panic {
        qemu.args(["-action", "panic=none"]);
    }
    if plan.paused {
        qemu.arg("-S");
    }
    if plan.huge_pages {
        qemu.args(["-mem-path", HUGE_PAGES, "-mem-prealloc"]);
    }
    if plan.pvpanic {
        qemu.args(["-device", "pvpanic"]);
    }
    qemu
}

/// QEMU makes its sockets some time after it was started.
fn connect(path: &str, child: &mut Child) -> Result<UnixStream> {
    let deadline = Instant::now() + ANSWER_LIMIT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("cannot connect to {path}"));
            }
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            bail!("QEMU ended before it listened on {path}: {status}; see qemu.log");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Writes the guest's console to a file as it comes, and hands on each line.
fn follow(mut from: UnixStream, mut to: File) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut pending = Vec::new();
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut part) {
            // A terminal's carriage returns have no place in a file.
            let text: Vec<u8> = part[..length]
                .iter()
                .copied()
                .filter(|byte| *byte != b'\r')
                .collect();
            to.write_all(&text).ok();
            pending.extend_from_slice(&text);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                if sender
                    .send(String::from_utf8_lossy(&line).trim_end().to_owned())
                    .is_err()
                {
                    return;
                }
            }
        }
    });
    lines
}

/// For the log and the result.
pub fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
