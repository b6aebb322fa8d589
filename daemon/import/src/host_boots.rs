//! Boots of hosts in all files, so that each has a clock of its own: those of one host and one boot are one, in however many
//! files they stand.

use std::collections::HashMap;

use super::{log::Log, speakers::Attributed};
use crate::joins::BootAt;
use poisontrace_model::event::log_statement::Role;

/// The boots that files show.
#[derive(Default)]
pub struct HostBoots {
    numbers: HashMap<(usize, Option<String>, Option<String>, u32), u32>,
    /// By file: the number of the first that one host has logged as well.
    first_of_host: Vec<usize>,
}

/// One file's boot of one host.
struct Boot {
    file: usize,
    host: Option<String>,
    id: Option<String>,
    run: u32,
    at: Option<BootAt>,
}

impl Boot {
    fn of(logs: &[Log], entry: &Attributed<'_>) -> Self {
        let file = entry.stream.file;
        let log = logs.get(file);
        let sender = log.and_then(|log| log.senders.get(entry.stream.sender));
        Self {
            file,
            host: sender.and_then(|sender| sender.machine()).map(str::to_owned),
            id: sender.and_then(|sender| sender.boot.clone()),
            run: entry.item.host_boot.unwrap_or(0),
            at: None,
        }
    }

    fn is_another(&self, other: &Self) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        let at = self.at.zip(other.at).is_some_and(|(a, b)| a.is_another(b));
        let runs = self.file == other.file && self.host == other.host && self.run != other.run;
        differ(&self.host, &other.host) || differ(&self.id, &other.id) || at || runs
    }
}

impl HostBoots {
    /// Numbers the boots from 0, in the order of the files.
    pub fn of(logs: &[Log], all: &[Attributed<'_>]) -> Self {
        let mut groups: HashMap<_, usize> = HashMap::new();
        let mut boots: Vec<Boot> = Vec::new();
        for entry in all.iter().filter(|entry| entry.role != Role::GuestKernel) {
            let boot = Boot::of(logs, entry);
            let key = (boot.file, boot.host.clone(), boot.id.clone(), boot.run);
            let no = *groups.entry(key).or_insert_with(|| {
                boots.push(boot);
                boots.len() - 1
            });
            if matches!(entry.role, Role::HostKernel | Role::Kernel)
                && let Some(at) = BootAt::of(entry.item.stamp)
            {
                boots[no].at = Some(boots[no].at.map_or(at, |known| known.union(at)));
            }
        }
        let mut numbers: Vec<u32> = Vec::with_capacity(boots.len());
        for (no, boot) in boots.iter().enumerate() {
            // One boot in all of its files: none that was seen to be another has that number.
            let next = numbers.iter().max().map_or(0, |last| last + 1);
            let same = (0..next).find(|number| {
                let of_number = numbers.iter().zip(&boots).filter(|(known, _)| *known == number);
                of_number
                    .take(MAX_COMPARED)
                    .all(|(_, other)| !boot.is_another(other))
            });
            let number = same.filter(|_| no < MAX_BOOTS).unwrap_or(next);
            numbers.push(number);
        }
        Self {
            numbers: groups.into_iter().map(|(key, no)| (key, numbers[no])).collect(),
            first_of_host: first_of_host(logs),
        }
    }

    /// The number for all that one host has logged: their dates are by one clock.
    pub fn of_one_host(&self, file: usize) -> usize {
        self.first_of_host.get(file).copied().unwrap_or(file)
    }

    /// The boot of a statement's host.
    pub fn number(&self, logs: &[Log], entry: &Attributed<'_>) -> u32 {
        let boot = Boot::of(logs, entry);
        let key = (boot.file, boot.host, boot.id, boot.run);
        self.numbers.get(&key).copied().unwrap_or(0)
    }
}

/// Numbered by the files' names, not by the order in which they were named; those that name no host are taken for one
/// host's, as files whose dates have a year are.
fn first_of_host(logs: &[Log]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logs.len()).collect();
    order.sort_by_cached_key(|file| {
        let first = logs.get(*file).and_then(|log| log.items.first());
        let first = first.map(|item| item.text.clone());
        (logs.get(*file).map(|log| log.name.clone()), first)
    });
    let mut of_host: HashMap<Option<&str>, usize> = HashMap::new();
    let mut firsts = vec![0; logs.len()];
    for (number, file) in order.into_iter().enumerate() {
        let senders = logs.get(file).map_or(&[][..], |log| &log.senders);
        let mut hosts: Vec<Option<&str>> = senders.iter().map(|sender| sender.host.as_deref()).collect();
        hosts.retain(Option::is_some);
        if hosts.is_empty() {
            hosts.push(None);
        }
        let known = hosts.iter().filter_map(|host| of_host.get(host).copied());
        let first = known.min().unwrap_or(number);
        for host in hosts {
            of_host.entry(host).or_insert(first);
        }
        firsts[file] = first;
    }
    firsts
}

/// Boots that are compared with each other.
const MAX_BOOTS: usize = 256;
const MAX_COMPARED: usize = 16;
