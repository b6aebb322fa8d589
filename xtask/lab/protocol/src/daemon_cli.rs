//! The daemon's options that the lab, the tests and the benches use. They are written here only.

/// Attach types that the daemon is to do without, separated by commas: `--OPTION=kprobe,fentry`.
pub const DISABLE_ATTACH_TYPE: &str = "--disable-attach-type";
/// Seconds after which a pause in a replayed recording is cut.
pub const MAX_PAUSE: &str = "--max-pause";
/// A replay that goes on serving its metrics.
pub const KEEP_SERVING: &str = "--keep-serving";
/// Metrics by VM.
pub const PER_VM_METRICS: &str = "--per-vm-metrics";
pub const READ_GUEST_CODE: &str = "--read-guest-code";
pub const PAGE_TOTALS: &str = "--page-totals";
pub const STATE_DIR: &str = "--state-dir";
pub const LISTEN_ADDRESS: &str = "--web.listen-address";
/// When it attaches to the hooks that every exit passes: `on_poison` or `always`.
pub const HOT_PATH: &str = "--hot-path";
/// So many times at start what poison attaches is attached and detached.
pub const REHEARSE: &str = "--rehearse";
pub const NO_PINS: &str = "--no-pins";

/// The option that leaves the daemon without these attach types.
pub fn without(attach_types: &str) -> String {
    format!("{DISABLE_ATTACH_TYPE}={attach_types}")
}
