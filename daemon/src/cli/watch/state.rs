//! What the screen shows: the last reading of the daemon and of the store.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use super::scrape::Metrics;
use crate::outputs::store::{FILE, Stored, Wanted};
use poisontrace_report::document::Incident;

/// Incidents shown.
const MAX_INCIDENTS: usize = 200;
/// Rates kept for the sparkline: five minutes.
const MAX_RATES: usize = 300;

/// Marks of a change of the database: inode, length and time of change of it and of its log.
#[derive(PartialEq, Eq)]
struct Files([Option<(u64, u64, i64, i64)>; 2]);

impl Files {
    fn of(dir: &Path) -> Self {
        Self([FILE.to_owned(), format!("{FILE}-wal")].map(|name| {
            let file = fs::metadata(dir.join(name)).ok()?;
            Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
        }))
    }
}

/// See the module.
pub struct State {
    dir: PathBuf,
    url: Option<String>,
    pub metrics: Result<Metrics, String>,
    /// When it was read, and the exits counted by then.
    exits: Option<(Instant, f64)>,
    /// Poison exits a second, the newest last.
    pub rates: Vec<u64>,
    /// The store's files when it was read.
    read: Option<Files>,
    /// Newest first.
    pub incidents: Result<Vec<Incident>, String>,
    /// Id of the one whose answer is shown: it stays though others come.
    selected: Option<String>,
}

impl State {
    pub fn new(dir: PathBuf, url: Option<String>) -> Self {
        Self {
            dir,
            url,
            metrics: Err("asking the daemon".to_owned()),
            exits: None,
            rates: Vec::new(),
            read: None,
            incidents: Ok(Vec::new()),
            selected: None,
        }
    }

    pub fn refresh(&mut self) {
        self.metrics = match &self.url {
            Some(url) => Metrics::read(url),
            None => Err(
                "the daemon listens nowhere (web.listen_address is empty): name one with --metrics"
                    .to_owned(),
            ),
        };
        self.rate();
        // A store that nobody has written to need not be read again.
        let files = Files::of(&self.dir);
        if self.read.as_ref() == Some(&files) {
            return;
        }
        self.incidents = Stored::open(&self.dir)
            .and_then(|stored| stored.get(&Wanted::Newest(MAX_INCIDENTS)))
            .map(|found| found.into_iter().rev().map(|(_, incident)| incident).collect())
            .map_err(|err| err.to_string());
        self.read = Some(files);
    }

    fn rate(&mut self) {
        let now = self
            .metrics
            .as_ref()
            .ok()
            .and_then(|metrics| metrics.sum("poisontrace_poison_exits_total"))
            .map(|exits| (Instant::now(), exits));
        if let (Some((then, before)), Some((now, exits))) = (self.exits, now) {
            let seconds = now.duration_since(then).as_secs_f64();
            // A daemon that was started again counts from 0.
            let more = if exits >= before { exits - before } else { exits };
            if seconds > 0.0 {
                self.rates.push((more / seconds).round() as u64);
            }
            let extra = self.rates.len().saturating_sub(MAX_RATES);
            self.rates.drain(..extra);
        }
        self.exits = now;
    }

    pub fn select(&mut self, by: isize) {
        let Ok(incidents) = &self.incidents else { return };
        let at = self.selected().unwrap_or(0);
        let to = at
            .saturating_add_signed(by)
            .min(incidents.len().saturating_sub(1));
        self.selected = incidents.get(to).map(|incident| incident.id.clone());
    }

    /// Place of the selected incident; the newest where none was selected.
    pub fn selected(&self) -> Option<usize> {
        let incidents = self.incidents.as_ref().ok()?;
        let place = |id: &String| incidents.iter().position(|incident| incident.id == *id);
        let newest = (!incidents.is_empty()).then_some(0);
        self.selected.as_ref().and_then(place).or(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_read_again_when_it_has_changed_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::new(dir.path().to_owned(), None);
        state.refresh();
        assert!(state.incidents.is_err(), "there is no store yet");
        let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/layout-1.db");
        fs::copy(store, dir.path().join(FILE)).unwrap();
        state.refresh();
        let stored = state.incidents.as_ref().unwrap().len();
        assert!(stored > 0);
        state.incidents = Ok(Vec::new());
        state.refresh();
        assert!(
            state.incidents.as_ref().unwrap().is_empty(),
            "nothing changed: not read"
        );
        let file = fs::File::open(dir.path().join(FILE)).unwrap();
        file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(1))
            .unwrap();
        state.refresh();
        assert_eq!(state.incidents.as_ref().unwrap().len(), stored);
    }
}
