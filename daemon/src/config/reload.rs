//! What SIGHUP cannot change.

use super::{
    Config,
    layers::{keys, slot, table_of},
};

/// Keys that hold from the start of the daemon to its end: probes, sockets and files are opened once.
const AT_START: [&str; 13] = [
    "state_dir",
    "store.max_age_days",
    "store.max_megabytes",
    "log.format",
    "web.listen_address",
    "web.config_file",
    "web.incidents",
    "metrics.per_vm",
    "metrics.max_vms",
    "probes.hot_path",
    "guest.read_code",
    "vmm.log",
    "vmm.qmp",
];

/// Keys whose new value only a restart brings.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let (mut old, mut new) = (table_of(old), table_of(new));
    keys()
        .into_iter()
        .filter(|key| AT_START.contains(&key.as_str()))
        .filter(|key| slot(&mut old, key) != slot(&mut new, key))
        .collect()
}
