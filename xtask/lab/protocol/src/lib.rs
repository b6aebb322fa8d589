//! The protocol of xtask and the programs inside the lab: a scenario goes in, a result comes out, both as JSON in the
//! folder that the emulated host shares with the developer's machine.

pub mod bench;
pub mod daemon_cli;
pub mod daemon_lines;
pub mod flush;
pub mod pagemap;
pub mod storm;
pub mod unit_limits;
pub mod vmm_fate;

use serde::{Deserialize, Serialize};

/// 9p tag of the folder that is shared read-write; it holds everything named below.
pub const SHARE_TAG: &str = "lab";
/// 9p tag of the read-only tree of unpacked Debian packages.
pub const TREE_TAG: &str = "tree";

/// In the initramfs: a host that finds it goes on with the system on its disk.
pub const SWITCH_FILE: &str = "/switch-root";
pub const SCENARIO_FILE: &str = "scenario.json";
pub const RESULT_FILE: &str = "out/result.json";
pub const DAEMON_FILE: &str = "bin/poisontrace";
pub const GUEST_KERNEL_FILE: &str = "guest/vmlinuz";
pub const GUEST_INITRAMFS_FILE: &str = "guest/initramfs";

/// In the share's folder `out`: the host's facts, and the plan that poisontrace made of them there.
pub const FACTS_FOLDER: &str = "facts";
pub const PLAN_FILE: &str = "plan.txt";

/// In the share's folder `out`, after the guest's or the VMM's prefix: what `poisontrace forecast` answered before the poison.
pub const FORECAST_FILE: &str = "forecast.json";
/// In a tiny VMM's environment: the file for that answer.
pub const FORECAST_TO: &str = "LAB_FORECAST_TO";

/// In the share's folder `out`, after the guest's prefix: what ftrace recorded.
pub const GUEST_FTRACE_FILE: &str = "ftrace.txt";

/// In the initramfs: the modules to load, one path per line, in order.
pub const MODULE_ORDER_FILE: &str = "/modules/order";

/// Last words of the emulated host on its console.
pub const DONE: &str = "LAB DONE ok";
pub const FAILED: &str = "LAB FAILED: ";
/// Steps that the emulated host announces on its console start with this.
pub const STEP: &str = "lab: ";

/// In the emulated host's log: the first time that poisontrace is started there, also to say what the kernel offers.
pub const DAEMON_BEGINS: &str = "poisontrace";
/// The kernel's taint (/proc/sys/kernel/tainted), at the log's beginning and before the kernel's own log.
pub const TAINT: &str = "lab: kernel taint ";
/// What follows this line is the kernel's own log.
pub const KERNEL_LOG: &str = "--- kernel log";

/// A step of the emulated host at which its own processor is to report a deferred error, of the physical address that follows.
pub const MACHINE_CHECK: &str = "machine check of the host at ";
/// In the shared folder: Debian's rasdaemon and its library, where such a step is to come.
pub const RASDAEMON_FILE: &str = "bin/rasdaemon";
pub const SQLITE_FILE: &str = "bin/libsqlite3.so.0";
/// In the share's folder `out`, after the guest's prefix: what rasdaemon stored.
pub const RASDAEMON_DATABASE: &str = "ras-mc_event.db";
/// MCi_STATUS of it: VAL EN MISCV ADDRV DEFERRED POISON.
pub const DEFERRED_STATUS: u64 = 0x9c00_1800_0000_0000;

/// Lines that the guest prints and the emulated host waits for.
pub const GUEST_PAGE_READY: &str = "guest: page ready gpa=";
/// The page of the guest kernel's own #MC handler; before the line above.
pub const GUEST_HANDLER_PAGE: &str = "guest: handler page gpa=";
pub const GUEST_READ_ALL: &str = "guest: read it all";
pub const GUEST_APPLICATION_KILLED: &str = "guest: application killed by SIGBUS";
pub const GUEST_ALIVE: &str = "guest: still alive after poison";
/// The guest is about to panic, as [`words::THEN_PANIC`] has it.
pub const GUEST_PANICS: &str = "guest: panics by sysrq";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scenario {
    pub hostname: String,
    /// False runs the lab without the daemon, to look at the kernel and QEMU alone.
    pub daemon: bool,
    pub guests: Vec<GuestPlan>,
    /// Tiny VMMs, after the guests: each with a daemon and a recording of its own.
    #[serde(default)]
    pub fates: Vec<vmm_fate::VmmFate>,
    /// Record each guest with ftrace from its poisoning on.
    #[serde(default)]
    pub ftrace: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GuestPlan {
    /// Put before the names of this guest's files in the share; empty for the scenario's main guest.
    pub file_prefix: String,
    pub name: String,
    pub uuid: String,
    /// QEMU's -cpu.
    pub cpu: String,
    /// Give the guest a pvpanic device.
    pub pvpanic: bool,
    /// Preparation of the host before this guest is started.
    #[serde(default)]
    pub before: Option<Before>,
    pub fate: Fate,
    /// One at least.
    #[serde(default)]
    pub vcpus: u32,
    /// Its memory is huge pages of the host's, 2 MiB each.
    #[serde(default)]
    pub huge_pages: bool,
    /// Its memory is a file, which other VMs can map too.
    #[serde(default)]
    pub memory_file: Option<String>,
    /// It is never run.
    #[serde(default)]
    pub paused: bool,
    /// Let it start anew when it asks for that, or QEMU does; else QEMU ends.
    #[serde(default)]
    pub reboots: bool,
    /// Let it go on after its panic device was written to: kernels up to 5.14 print their messages of a #MC only after that
    /// (`printk_safe_flush_on_panic()`).
    #[serde(default)]
    pub outlives_panic: bool,
    /// More words on its kernel's command line.
    #[serde(default)]
    pub words: Vec<String>,
}

/// Words on the guest's command line for its first process.
pub mod words {
    /// How its application touches the page.
    pub const TOUCH: &str = "lab.touch=";
    /// A load of each line, in user space; the default.
    pub const READ: &str = "read";
    /// The kernel reads the application's page: write() to a pipe.
    pub const WRITE_CALL: &str = "write-call";
    /// The kernel reads a page of its own, of a file: read().
    pub const READ_CALL: &str = "read-call";
    /// As write-call, on pages all over a huge page.
    pub const HUGE: &str = "huge";
    /// Nothing touches the page at this address, which is free.
    pub const FREE_PAGE: &str = "lab.free-page=";
    /// The guest's kernel is made to panic some seconds after that (sysrq).
    pub const THEN_PANIC: &str = "lab.then=panic";
}

/// Changes to the host's KVM and to the daemon before a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// KVM's modules are unloaded and loaded again under the running daemon.
    ReloadKvm,
    /// The daemon is stopped and KVM unloaded; a daemon with these options is started, and has to wait for KVM, which
    /// is then loaded with these parameters of the processor's module.
    DaemonBeforeKvm {
        options: Vec<String>,
        parameters: String,
    },
    /// The daemon is stopped, and another started with an empty store and these options: the guest has a recording of
    /// its own.
    AnotherDaemon { options: Vec<String> },
}

/// Metrics of a daemon that attached to KVM again, and the file that keeps them.
pub const REATTACHED: &str = "poisontrace_probe_reattached_total{probe=\"kvm_exit\"} 1\n";
pub const RELOADED_METRICS: &str = "metrics-reloaded.txt";

/// Metrics of a daemon that missed one memory failure, and the file that keeps them.
pub const MISSED: &str = "poisontrace_memory_failures_missed_total 1\n";
/// The last metrics of a daemon with options of its own, behind the guest's prefix.
pub const LAST_METRICS: &str = "metrics.txt";
pub const MISSED_METRICS: &str = "metrics-missed.txt";
/// After the guest's prefix: the incidents while its page was lost and nothing had touched it.
pub const AT_RISK_FILE: &str = "at-risk.json";
/// The verdict on such a page.
pub const AT_RISK: &str = "\"not_touched\"";

/// The emulated host's action on a guest that has its page ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Poison the page, then let the application touch it.
    #[default]
    Poison,
    /// The same, and the page of the guest kernel's #MC handler before it.
    PoisonHandlerToo,
    /// The same, after another VM, which is not run, has mapped the guest's memory file.
    PoisonShared,
    /// The host's processor reports the page, as a scrubber's find, then let the application touch it.
    MachineCheck,
    /// Soft-offline the page, then let the application touch it: no poison.
    SoftOffline,
    /// Kill the VMM; no poison.
    KillVmm,
    /// Stop the daemon, poison the page, start a daemon, then let the application touch the page: poison that
    /// predates the daemon.
    PoisonBeforeDaemon,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LabResult {
    pub kernel: String,
    pub guests: Vec<GuestResult>,
    /// Exit status of the daemon after SIGTERM, and how long it took; none where it did not end in time.
    pub daemon_exit: Option<i32>,
    pub daemon_stop_ms: Option<u64>,
    pub check_exit: Option<i32>,
    /// That of `poisontrace check --save-facts`.
    pub facts_exit: Option<i32>,
    /// How each tiny VMM ended, in words.
    #[serde(default)]
    pub fates: Vec<(String, String)>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GuestResult {
    pub file_prefix: String,
    pub gpa: Option<u64>,
    pub pfn: Option<u64>,
    /// Of the guest kernel's #MC handler, where that was poisoned too.
    #[serde(default)]
    pub handler_gpa: Option<u64>,
    /// How the VMM ended, in words; its exit status, or the signal that killed it.
    pub vmm_end: String,
    pub vmm_exit: Option<i32>,
    #[serde(default)]
    pub vmm_signal: Option<i32>,
    pub attempts: u32,
    /// Exit statuses of `poisontrace explain --last` and `poisontrace incidents` after this guest.
    pub explain_exit: Option<i32>,
    pub incidents_exit: Option<i32>,
    /// Seconds of the emulated host's uptime.
    pub started_s: f64,
    pub page_ready_s: Option<f64>,
    pub poisoned_s: Option<f64>,
    pub ended_s: f64,
}
