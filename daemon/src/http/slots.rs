//! Places for connections. When all are taken, a new client gets the place of an idle one: the oldest of the peer that
//! holds most. A scraper behind a client that opens connections and leaves them idle is served at once.

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
const GRACE: Duration = Duration::from_millis(200);
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

impl Slots {
    /// A place for a client of this address, as soon as there is one.
    pub async fn take(self: &Arc<Self>, peer: IpAddr) -> Place {
        let peer = network(peer);
        loop {
            let wait = match self.held().make_room(peer, Instant::now()) {
                Ok(id) => {
                    let all = Arc::clone(self);
                    return Place { all, id };
                }
                Err(wait) => wait,
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.freed.notified() => {}
            }
        }
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
    fn make_room(&mut self, peer: IpAddr, now: Instant) -> Result<u64, Duration> {
        if self.slots.len() >= MAX {
            let victim = self.victim(peer, now)?;
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

    fn victim(&self, peer: IpAddr, now: Instant) -> Result<u64, Duration> {
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
            return Err(BUSY);
        };
        let age = now.saturating_duration_since(oldest.since);
        if own + 1 < most || age >= GRACE {
            return Ok(*id);
        }
        Err(GRACE - age)
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
            held.make_room(FLOODER, now).unwrap();
        }
        (held, now)
    }

    #[test]
    fn another_peer_gets_the_place_of_the_flooders_oldest_at_once() {
        let (mut held, now) = full();
        let id = held.make_room(SCRAPER, now).unwrap();
        assert!(!held.slots.contains_key(&1) && held.slots[&id].peer == SCRAPER);
        assert_eq!(held.slots.len(), MAX);
    }

    #[test]
    fn a_peer_takes_its_own_idle_places_and_not_those_that_are_answered() {
        let (mut held, now) = full();
        assert_eq!(held.make_room(FLOODER, now), Err(GRACE));
        held.slots.get_mut(&1).unwrap().busy = true;
        held.make_room(FLOODER, now + GRACE).unwrap();
        assert!(held.slots.contains_key(&1) && !held.slots.contains_key(&2));
        held.slots.values_mut().for_each(|slot| slot.busy = true);
        assert_eq!(held.make_room(FLOODER, now + 2 * GRACE), Err(BUSY));
    }

    #[test]
    fn a_host_with_many_addresses_of_ipv6_is_one_peer() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), FLOODER);
    }
}
