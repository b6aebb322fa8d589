//! When which host had which incident: the one thing that is made up, beside the hosts' names.

pub const DAY: u64 = 24 * 3600;

pub struct Incident {
    pub host: usize,
    /// Seconds since the epoch.
    pub at: u64,
    /// Which of the recordings.
    pub recording: usize,
}

pub struct Schedule {
    pub hosts: usize,
    /// Seconds since the epoch.
    pub now: u64,
    pub days: u64,
    /// By host, then by time.
    pub incidents: Vec<Incident>,
}

impl Schedule {
    /// Hosts have none to six incidents each, more than a day apart, and never two kinds of recording in the same order.
    pub fn new(hosts: usize, days: u64, recordings: usize, now: u64) -> Self {
        let mut incidents = Vec::new();
        for host in 0..hosts {
            let count = host as u64 % 7;
            for no in 0..count {
                let each = days * DAY / count;
                let from = now - days * DAY + no * each + DAY;
                let within = each - DAY - 1;
                incidents.push(Incident {
                    host,
                    at: from + mixed(host as u64 * 7 + no) % within,
                    recording: (host / 7 + usize::try_from(no).unwrap_or(0)) % recordings,
                });
            }
        }
        Self {
            hosts,
            now,
            days,
            incidents,
        }
    }

    pub fn name(host: usize) -> String {
        format!("host-{host:04}")
    }

    /// As its series carry it.
    pub fn instance(host: usize) -> String {
        format!("{}:9847", Self::name(host))
    }

    /// The host's last incident: the daemon was started after those before.
    pub fn last(&self, host: usize) -> Option<&Incident> {
        self.incidents.iter().rev().find(|incident| incident.host == host)
    }
}

/// The same on each machine (splitmix64).
const fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incidents_of_a_host_are_more_than_a_day_apart_and_in_the_past() {
        let now = 1_800_000_000;
        let schedule = Schedule::new(100, 30, 4, now);
        for pair in schedule.incidents.windows(2) {
            if pair[0].host == pair[1].host {
                assert!(pair[1].at > pair[0].at + DAY);
            }
        }
        let times = schedule.incidents.iter().map(|incident| incident.at);
        assert!(times.clone().all(|at| at < now && at >= now - 30 * DAY));
        assert!(times.clone().any(|at| at > now - DAY));
        assert!(schedule.last(0).is_none());
    }
}
