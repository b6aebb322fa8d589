//! Which speakers belong to one VM. Two are joined by a key that both have: a pid, unit, domain or uuid of one host, or
//! an address of the page; without one only where their wall clocks agree and nothing else happened at that time,
//! and what rests on that is never certain. Those of two hosts, two boots, two runs or two lives are never joined.

mod clocks;
mod graph;
mod node;
mod part;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{align::Clocks, log::Log, speakers::Attributed, text::program};
pub use clocks::BootAt;
use graph::Graph;
use node::Node;
use part::Part;
pub use part::of_a_vm;
use poisontrace_model::{
    event::{
        NameGuess, Vmm,
        log_statement::{JoinKey, Role},
    },
    hex::Hex,
};

/// A statement that is put to the correlator.
pub struct Turn<'a> {
    pub entry: &'a Attributed<'a>,
    pub clocks: Clocks,
    pub of: &'a [(u32, Option<JoinKey>)],
}

/// VMs that one statement on a page concerns.
const MAX_OF_PAGE: usize = 64;

/// A VM as the logs show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vm {
    pub pids: BTreeSet<u32>,
    pub vmm: Vmm,
}

/// All VMs, and the one of each statement.
#[derive(Default)]
pub struct Joined {
    pub vms: Vec<Vm>,
    /// By statement: VM from 1, and the key of its speaker.
    pub of: Vec<Vec<(u32, Option<JoinKey>)>>,
}

/// Groups the statements by VM.
pub fn join(logs: &[Log], all: &[Attributed<'_>]) -> Joined {
    let mut graph = Graph::new(relays(logs));
    let nodes: Vec<Option<usize>> = all.iter().map(|entry| graph.take(logs, entry)).collect();
    graph.by_copies(all, &nodes);
    graph.by_names();
    graph.by_addresses();
    // An address may have shown of which of two a speaker is.
    graph.by_names();
    graph.by_clocks();
    number(&graph, logs, all, &nodes)
}

/// Processes that log under several names, as console servers and container engines do.
fn relays(logs: &[Log]) -> BTreeSet<u32> {
    let mut tags: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for sender in logs.iter().flat_map(|log| &log.senders) {
        if let (Some(pid), Some(tag)) = (sender.pid, &sender.tag)
            && !program::is_vmm(tag)
        {
            tags.entry(pid).or_default().insert(tag);
        }
    }
    let several = tags.into_iter().filter(|(_, tags)| tags.len() > 1);
    several.map(|(pid, _)| pid).collect()
}

fn number(graph: &Graph, logs: &[Log], all: &[Attributed<'_>], nodes: &[Option<usize>]) -> Joined {
    let mut numbers: HashMap<usize, u32> = HashMap::new();
    let mut joined = Joined::default();
    let mut by_pfn: HashMap<u64, BTreeSet<usize>> = HashMap::new();
    for no in nodes.iter().flatten() {
        let root = graph.root(*no);
        let next = joined.vms.len() as u32 + 1;
        let std::collections::hash_map::Entry::Vacant(entry) = numbers.entry(root) else {
            continue;
        };
        entry.insert(next);
        joined.vms.push(graph.nodes[root].vm());
        if graph.nodes[root].parts.contains(&Part::Process) {
            for pfn in &graph.nodes[root].pfns {
                by_pfn.entry(*pfn).or_default().insert(root);
            }
        }
    }
    // What one side of a join that is a guess states is of the other, too.
    let mut guessed: BTreeMap<u32, JoinKey> = BTreeMap::new();
    for no in nodes.iter().flatten() {
        let Some(key) = graph.key(*no).filter(|key| !key.is_certain()) else {
            continue;
        };
        if let Some(number) = numbers.get(&graph.root(*no)) {
            let known = guessed.entry(*number).or_insert_with(|| key.clone());
            if key == JoinKey::Clock {
                *known = key;
            }
        }
    }
    for (number, key) in &guessed {
        if let Some(vm) = joined.vms.get_mut(*number as usize - 1) {
            vm.vmm.name_guess = Some(match key {
                JoinKey::Clock => NameGuess::Clock,
                _ => NameGuess::BarePid,
            });
        }
    }
    for (entry, no) in all.iter().zip(nodes) {
        let mut of = Vec::new();
        if let Some(no) = no
            && let Some(number) = numbers.get(&graph.root(*no))
        {
            let key = guessed.get(number).cloned().or_else(|| graph.key(*no));
            of.push((*number, key));
        } else if let Some(pfn) = super::speakers::frame(&entry.statement)
            && entry.role != Role::GuestKernel
            && !super::speakers::is_of_a_process(&entry.statement)
        {
            // What the host did about a page concerns all of that host and boot that had it.
            let roots = by_pfn.get(&pfn).into_iter().flatten();
            let here = Node::of_host(logs, entry);
            let roots = roots.filter(|root| !here.contradicts(&graph.nodes[**root], &JoinKey::Pfn(Hex(pfn))));
            let key = Some(JoinKey::Pfn(Hex(pfn)));
            let roots = roots.take(MAX_OF_PAGE);
            of.extend(roots.filter_map(|root| Some((*numbers.get(root)?, key.clone()))));
        }
        joined.of.push(of);
    }
    joined
}
