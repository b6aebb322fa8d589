//! Speakers joined by keys. What may belong to two that contradict each other is of neither: so the order of files and
//! lines decides nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    node::Node,
    part::{Part, part},
};
use crate::{
    log::Log,
    speakers::{Attributed, Stream},
    text::clock::Stamp,
};
use poisontrace_model::{
    event::log_statement::{JoinKey, LogStatement},
    hex::Hex,
};

/// Pairs without a key that are looked at.
const MAX_CLOCK_PAIRS: usize = 1 << 20;
/// Speakers with one key that are compared with each other.
const MAX_OF_KEY: usize = 256;
/// Of two that contradict each other the nearer is meant where the other is so many times as far away, and this far.
const NEARER_TIMES: i64 = 10;
const NEARER_NS: i64 = 3600 * 1_000_000_000;

/// A speaker, or its statements about one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Name {
    stream: Stream,
    part: Part,
    /// The process, domain or unit that it names.
    of: Option<String>,
}

#[derive(Default)]
pub struct Graph {
    names: HashMap<Name, usize>,
    pub nodes: Vec<Node>,
    /// Union-find: parent, and the key of the join.
    parent: Vec<usize>,
    keys: Vec<Option<JoinKey>>,
    /// Processes that log under several names: none of them is one VM's.
    relays: BTreeSet<u32>,
}

impl Graph {
    /// `relays`: processes that log under several names.
    pub fn new(relays: BTreeSet<u32>) -> Self {
        Self {
            relays,
            ..Self::default()
        }
    }

    pub fn take(&mut self, logs: &[Log], entry: &Attributed<'_>) -> Option<usize> {
        let log = logs.get(entry.stream.file)?;
        let sender = log.senders.get(entry.stream.sender).cloned().unwrap_or_default();
        let (part, of) = part(entry, &sender)?;
        let name = Name {
            stream: entry.stream,
            part,
            of,
        };
        let no = match self.names.get(&name) {
            Some(no) => *no,
            None => {
                let no = self.nodes.len();
                self.nodes.push(Node::default());
                self.parent.push(no);
                self.keys.push(None);
                self.names.insert(name, no);
                no
            }
        };
        self.nodes[no].learn(part, entry, &sender, log, &self.relays);
        Some(no)
    }

    pub fn root(&self, mut no: usize) -> usize {
        while self.parent[no] != no {
            no = self.parent[no];
        }
        no
    }

    /// Joins two, where nothing contradicts.
    fn join(&mut self, a: usize, b: usize, key: &JoinKey) {
        let (a, b) = (self.root(a), self.root(b));
        if a == b {
            return;
        }
        let (first, second) = (a.min(b), a.max(b));
        if self.nodes[first].contradicts(&self.nodes[second], key) {
            return;
        }
        let key = &match key {
            JoinKey::Pid(pid) if !self.nodes[first].shares_host(&self.nodes[second]) => {
                JoinKey::BarePid(*pid)
            }
            key => key.clone(),
        };
        let other = std::mem::take(&mut self.nodes[second]);
        self.nodes[first].absorb(other);
        self.parent[second] = first;
        // A join by a clock makes all of the other side rest on it.
        self.keys[second] = Some(key.clone());
    }

    /// Joins all that have a key and may be of one VM.
    fn join_all(&mut self, key: &JoinKey, nodes: impl Iterator<Item = usize>) {
        let roots: BTreeSet<usize> = nodes.map(|no| self.root(no)).collect();
        if roots.len() < 2 || roots.len() > MAX_OF_KEY {
            return;
        }
        let roots: Vec<usize> = roots.into_iter().collect();
        let pairs = pairs(&roots, |a, b| {
            let (a, b) = (&self.nodes[a], &self.nodes[b]);
            (!a.contradicts(b, key)).then(|| a.apart(b))
        });
        // What is of one host for sure first: then the order of the files decides nothing.
        let mut left = pairs;
        loop {
            let before = left.len();
            left.retain(|(a, b)| {
                let sure = self.of_one_host(*a, *b, key);
                if sure {
                    self.join(*a, *b, key);
                }
                !sure
            });
            if left.len() == before {
                break;
            }
        }
        for (a, b) in left {
            self.join(a, b, key);
        }
    }

    /// Whether a key needs nothing more to be certain.
    fn of_one_host(&self, a: usize, b: usize, key: &JoinKey) -> bool {
        let (a, b) = (&self.nodes[self.root(a)], &self.nodes[self.root(b)]);
        !matches!(key, JoinKey::Pid(_)) || a.shares_host(b)
    }

    /// One log may stand in two files: the same statement of the same moment, or of the same address in the VMM, is of one
    /// speaker.
    pub fn by_copies(&mut self, all: &[Attributed<'_>], nodes: &[Option<usize>]) {
        let mut known: HashMap<(Part, Stamp, &LogStatement), (usize, usize)> = HashMap::new();
        for (entry, no) in all.iter().zip(nodes) {
            let Some(no) = *no else { continue };
            let Some(part) = self.nodes[no].parts.first().copied() else {
                continue;
            };
            let stamp = entry.item.stamp;
            let key = match &entry.statement {
                LogStatement::VmmInjected { hva: Some(hva), .. } => JoinKey::Hva(*hva),
                LogStatement::GuestMce(mce) if stamp != Stamp::default() => match mce.addr {
                    Some(addr) => JoinKey::Gpa(addr),
                    None => continue,
                },
                LogStatement::GuestSignal { pfn, .. } if stamp != Stamp::default() => JoinKey::Pfn(*pfn),
                _ => continue,
            };
            let stamp = match entry.statement {
                LogStatement::VmmInjected { .. } => Stamp::default(),
                _ => stamp,
            };
            let file = entry.stream.file;
            let (first, other) = *known.entry((part, stamp, &entry.statement)).or_insert((file, no));
            if first != file {
                self.join(other, no, &key);
            }
        }
    }

    pub fn by_names(&mut self) {
        let mut known: BTreeMap<String, (JoinKey, Vec<usize>)> = BTreeMap::new();
        for (no, node) in self.nodes.iter().enumerate() {
            for (text, key) in node.keys() {
                known.entry(text).or_insert_with(|| (key, Vec::new())).1.push(no);
            }
        }
        for (key, nodes) in known.into_values() {
            self.join_all(&key, nodes.into_iter());
        }
    }

    pub fn by_addresses(&mut self) {
        type Key = fn(u64) -> JoinKey;
        type Of = fn(&Node) -> &BTreeSet<u64>;
        let kinds: [(Key, Of); 3] = [
            (|at| JoinKey::Hva(Hex(at)), |node| &node.hvas),
            (|at| JoinKey::Pfn(Hex(at)), |node| &node.pfns),
            (|at| JoinKey::Gpa(Hex(at)), |node| &node.gpas),
        ];
        for (key, of) in kinds {
            let mut holders: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
            for no in 0..self.nodes.len() {
                let root = self.root(no);
                for at in of(&self.nodes[root]) {
                    holders.entry(*at).or_default().insert(root);
                }
            }
            for (at, nodes) in holders {
                // Of two VMs with the same address neither can be distinguished from the other.
                let roots: BTreeSet<usize> = nodes.iter().map(|no| self.root(*no)).collect();
                let of_part = |part: Part| {
                    let nodes = roots.iter().filter(|no| self.nodes[**no].parts.contains(&part));
                    nodes.count()
                };
                let unique = [Part::Process, Part::Vmm, Part::Guest]
                    .into_iter()
                    .all(|part| of_part(part) <= 1);
                if unique {
                    self.join_all(&key(at), roots.into_iter());
                }
            }
        }
    }

    /// Only what is alone on both sides.
    pub fn by_clocks(&mut self) {
        for (first, second) in [
            (Part::Process, Part::Vmm),
            (Part::Vmm, Part::Guest),
            (Part::Process, Part::Guest),
            (Part::Process, Part::Unit),
        ] {
            let of = |graph: &Self, part: Part, without: Part| -> Vec<usize> {
                let roots = (0..graph.nodes.len()).filter(|no| graph.parent[*no] == *no);
                let is = |node: &Node| {
                    node.of_poison && node.parts.contains(&part) && !node.parts.contains(&without)
                };
                roots.filter(|no| is(&graph.nodes[*no])).collect()
            };
            let (left, right) = (of(self, first, second), of(self, second, first));
            if left.len().saturating_mul(right.len()) > MAX_CLOCK_PAIRS {
                continue;
            }
            let mut pairs = Vec::new();
            for a in &left {
                let near = right
                    .iter()
                    .filter(|b| self.nodes[*a].agrees(&self.nodes[**b], second));
                pairs.extend(near.map(|b| (*a, *b)));
            }
            let alone = |(a, b): &&(usize, usize)| {
                pairs.iter().filter(|(x, _)| x == a).count() == 1
                    && pairs.iter().filter(|(_, y)| y == b).count() == 1
            };
            let pairs: Vec<(usize, usize)> = pairs.iter().filter(alone).copied().collect();
            for (a, b) in pairs {
                self.join(a, b, &JoinKey::Clock);
            }
        }
    }

    /// The key by which a node came to its VM: the weakest on its way.
    pub fn key(&self, mut no: usize) -> Option<JoinKey> {
        let mut key: Option<JoinKey> = None;
        while self.parent[no] != no {
            let step = self.keys[no].clone();
            let weaker = match (&key, &step) {
                (None, _) | (_, Some(JoinKey::Clock)) => true,
                (Some(known), Some(step)) => known.is_certain() && !step.is_certain(),
                (Some(_), None) => false,
            };
            if weaker {
                key = step;
            }
            no = self.parent[no];
        }
        key
    }
}

/// The pairs that may be joined: those that nothing contradicts, without what may be of either of two that contradict each
/// other. `may`: how far apart two are that nothing contradicts, where that is known.
fn pairs(all: &[usize], may: impl Fn(usize, usize) -> Option<Option<i64>>) -> Vec<(usize, usize)> {
    let n = all.len();
    let mut edges = vec![None; n * n];
    for i in 0..n {
        for j in i + 1..n {
            edges[i * n + j] = may(all[i], all[j]);
            edges[j * n + i] = edges[i * n + j];
        }
    }
    let apart = |i: usize, j: usize| edges[i * n + j];
    let contradict = |i: usize, j: usize| i != j && apart(i, j).is_none();
    // The nearer of two that contradict each other is meant, where that is plain.
    let plain = |i: usize, j: usize| {
        let far = apart(i, j)?;
        let nearer = (0..n).any(|k| {
            k != i
                && contradict(j, k)
                && matches!((apart(i, k), far), (Some(Some(near)), Some(far))
                    if far > NEARER_NS && near.saturating_mul(NEARER_TIMES) < far)
        });
        (!nearer).then_some(())
    };
    let linked = |i: usize, j: usize| i != j && plain(i, j).is_some() && plain(j, i).is_some();
    let contested =
        |i: usize| (0..n).any(|j| linked(i, j) && (j + 1..n).any(|k| linked(i, k) && contradict(j, k)));
    let free: Vec<bool> = (0..n).map(|i| !contested(i)).collect();
    let mut pairs = Vec::new();
    for i in 0..n {
        for j in i + 1..n {
            if free[i] && free[j] && linked(i, j) {
                pairs.push((all[i], all[j]));
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600 * 1_000_000_000;

    fn joined(n: usize, may: impl Fn(usize, usize) -> Option<Option<i64>>) -> Vec<(usize, usize)> {
        let all: Vec<usize> = (0..n).collect();
        pairs(&all, |a, b| may(a.min(b), a.max(b)))
    }

    #[test]
    fn what_may_be_of_either_of_two_is_of_neither() {
        let two_hosts = |a, b| (!matches!((a, b), (0, 1))).then_some(None);
        assert_eq!(joined(3, two_hosts), []);
        assert_eq!(joined(3, |_, _| Some(None)), [(0, 1), (0, 2), (1, 2)]);
        // Another that is plainly of one of them.
        let known = |a, b| matches!((a, b), (0, 2)).then_some(None);
        assert_eq!(joined(3, known), [(0, 2)]);
    }

    #[test]
    fn of_two_runs_the_nearer_is_meant() {
        let may = |a, b| match (a, b) {
            (0, 1) => None,
            (0, 2) => Some(Some(HOUR / 100)),
            _ => Some(Some(50 * HOUR)),
        };
        assert_eq!(joined(3, may), [(0, 2)]);
        let both_near = |a, b| match (a, b) {
            (0, 1) => None,
            _ => Some(Some(HOUR / 100)),
        };
        assert_eq!(joined(3, both_near), []);
    }
}
