//! Places for connections. When all are taken, a new client gets the place of an idle one: the oldest of the peer that
//! holds most, or of one that is being answered, where the new client holds far fewer. A scraper behind a client that opens
//! connections without end is served at once: who has to wait does so beside the others, a few of each peer.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, task::AbortHandle, time::sleep};

/// Connections at a time; more wait in the kernel's queue.
const MAX: usize = 32;
/// An idle connection keeps its place so long against others of the same peer: its request may be on its way.
const GRACE: Duration = Duration::from_millis(50);
/// Clients of one peer that wait for a place; further ones get that of an idle one at once.
const WAITING: usize = 16;
/// Clients that wait, of all peers; further ones of a peer that waits are refused.
const ALL_WAITING: usize = 64;
/// Between two looks where every connection is being answered.
const BUSY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Default)]
pub struct Slots {
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Default)]
struct Held {
    /// Clients that wait, by peer.
    waiting: BTreeMap<IpAddr, usize>,
    next: u64,
    slots: BTreeMap<u64, Slot>,
}

struct Slot {
    peer: IpAddr,
    since: Instant,
    busy: bool,
    task: Option<AbortHandle>,
}

/// A place, given back when dropped.
pub struct Place {
    all: Arc<Slots>,
    id: u64,
}

/// A client that waits for a place, counted as long as this lives.
pub struct Turn {
    all: Arc<Slots>,
    peer: IpAddr,
}

/// How a client fares that has just come.
pub enum Entry {
    Served(Place),
    Waits(Turn),
    /// Too many wait.
    Refused,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut held = self.all.held();
        if let Some(waiting) = held.waiting.get_mut(&self.peer) {
            *waiting -= 1;
            if *waiting == 0 {
                held.waiting.remove(&self.peer);
            }
        }
    }
}

impl Turn {
    /// A place, as soon as there is one.
    pub async fn place(self) -> Place {
        loop {
            let wait = match self.all.held().make_room(self.peer, Instant::now(), GRACE) {
                Ok(id) => {
                    let all = Arc::clone(&self.all);
                    return Place { all, id };
                }
                Err(wait) => wait,
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.all.freed.notified() => {}
            }
        }
    }
}

impl Slots {
    /// Lets a client of this address in, or wait.
    pub fn enter(self: &Arc<Self>, peer: IpAddr) -> Entry {
        let peer = network(peer);
        let mut held = self.held();
        let own = held.waiting.get(&peer).copied().unwrap_or(0);
        let grace = match own < WAITING {
            true => GRACE,
            false => Duration::ZERO,
        };
        if let Ok(id) = held.make_room(peer, Instant::now(), grace) {
            let all = Arc::clone(self);
            return Entry::Served(Place { all, id });
        }
        if own > 0 && held.waiting.values().sum::<usize>() >= ALL_WAITING {
            return Entry::Refused;
        }
        *held.waiting.entry(peer).or_default() += 1;
        let all = Arc::clone(self);
        Entry::Waits(Turn { all, peer })
    }

    /// Notes the task that serves a place; it is ended when another client gets the place.
    pub fn served_by(&self, id: u64, task: AbortHandle) {
        if let Some(slot) = self.held().slots.get_mut(&id) {
            slot.task = Some(task);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Takes a place, if need be that of another; else how long to wait.
    fn make_room(&mut self, peer: IpAddr, now: Instant, grace: Duration) -> Result<u64, Duration> {
        if self.slots.len() >= MAX {
            let victim = self.victim(peer, now, grace)?;
            if let Some(task) = self.slots.remove(&victim).and_then(|slot| slot.task) {
                task.abort();
            }
        }
        self.next += 1;
        self.slots.insert(
            self.next,
            Slot {
                peer,
                since: now,
                busy: false,
                task: None,
            },
        );
        Ok(self.next)
    }

    fn victim(&self, peer: IpAddr, now: Instant, grace: Duration) -> Result<u64, Duration> {
        let mut held = BTreeMap::<IpAddr, usize>::new();
        for slot in self.slots.values() {
            *held.entry(slot.peer).or_default() += 1;
        }
        let most = held.values().copied().max().unwrap_or(0);
        let own = held.get(&peer).copied().unwrap_or(0);
        // Numbers rise with time: the first is the oldest.
        let mut idle = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.busy && held.get(&slot.peer) == Some(&most));
        let Some((id, oldest)) = idle.next() else {
            // All of the one with most are being answered: who asks so much waits for another.
            let mut busy = self
                .slots
                .iter()
                .filter(|(_, slot)| held.get(&slot.peer) == Some(&most));
            return match busy.next() {
                Some((id, _)) if own + 1 < most => Ok(*id),
                _ => Err(BUSY),
            };
        };
        let age = now.saturating_duration_since(oldest.since);
        if own + 1 < most || age >= grace {
            return Ok(*id);
        }
        Err(grace - age)
    }
}

impl Place {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Notes whether a request is being answered.
    pub fn busy(&self, busy: bool) {
        if let Some(slot) = self.all.held().slots.get_mut(&self.id) {
            slot.busy = busy;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.held().slots.remove(&self.id);
        self.all.freed.notify_one();
    }
}

/// What counts as one peer: an address, or for IPv6 the /64 that a host has to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOODER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const SCRAPER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn full() -> (Held, Instant) {
        let now = Instant::now();
        let mut held = Held::default();
        for _ in 0..MAX {
            held.make_room(FLOODER, now, GRACE).unwrap();
        }
        (held, now)
    }

    #[test]
    fn another_peer_gets_the_place_of_the_flooders_oldest_at_once() {
        let (mut held, now) = full();
        let id = held.make_room(SCRAPER, now, GRACE).unwrap();
        assert!(!held.slots.contains_key(&1) && held.slots[&id].peer == SCRAPER);
        assert_eq!(held.slots.len(), MAX);
    }

    #[test]
    fn a_peer_takes_its_own_idle_places_and_not_those_that_are_answered() {
        let (mut held, now) = full();
        assert_eq!(held.make_room(FLOODER, now, GRACE), Err(GRACE));
        held.slots.get_mut(&1).unwrap().busy = true;
        held.make_room(FLOODER, now + GRACE, GRACE).unwrap();
        assert!(held.slots.contains_key(&1) && !held.slots.contains_key(&2));
        held.slots.values_mut().for_each(|slot| slot.busy = true);
        assert_eq!(held.make_room(FLOODER, now + 2 * GRACE, GRACE), Err(BUSY));
        let id = held.make_room(SCRAPER, now + 2 * GRACE, GRACE).unwrap();
        assert_eq!(held.slots[&id].peer, SCRAPER, "though all others are answered");
    }

    #[test]
    fn clients_that_wait_are_few_and_another_peers_is_let_in() {
        let slots = Arc::<Slots>::default();
        let entries: Vec<Entry> = (0..200).map(|_| slots.enter(FLOODER)).collect();
        let count = |is: fn(&Entry) -> bool| entries.iter().filter(|entry| is(entry)).count();
        // Past those that wait, each gets the place of an idle one.
        assert_eq!(count(|entry| matches!(entry, Entry::Waits(_))), WAITING);
        assert_eq!(count(|entry| matches!(entry, Entry::Served(_))), 200 - WAITING);
        let other = slots.enter(SCRAPER);
        assert!(matches!(other, Entry::Served(_)));
        slots.held().slots.values_mut().for_each(|slot| slot.busy = true);
        let busy: Vec<Entry> = (0..200).map(|_| slots.enter(FLOODER)).collect();
        let waits = busy
            .iter()
            .filter(|entry| matches!(entry, Entry::Waits(_)))
            .count();
        assert_eq!(waits, ALL_WAITING - WAITING, "all are being answered");
        assert!(matches!(slots.enter(SCRAPER), Entry::Served(_)));
        drop((entries, busy, other));
        assert!(slots.held().waiting.is_empty());
    }

    #[test]
    fn a_host_with_many_addresses_of_ipv6_is_one_peer() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), FLOODER);
    }
}
