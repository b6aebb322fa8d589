#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::*;
use crate::fair::Class;
use poisontrace_model::{
    event::{Event, EventKind, session::Session},
    host::Host,
    incident::{evidence::Evidence, model::Cause},
};
use poisontrace_report::document::Incident;

const SOON: Duration = Duration::from_secs(20);

fn incident(pid: u32, name: &str) -> Incident {
    let mut e = Evidence::new(1, pid, Default::default());
    std::sync::Arc::make_mut(&mut e.vmm).name = Some(name.to_owned());
    poisontrace_report::document(poisontrace_model::correlate::report::incident(
        &e,
        &Session::default(),
    ))
}

fn retention() -> Retention {
    (&crate::config::Config::default().store).into()
}

fn host() -> Host {
    Host {
        poisontrace_version: "test".into(),
        ..Host::default()
    }
}

fn start(dir: &Path) -> Store {
    Store::start(dir, &host(), retention())
}

/// Stores incidents by a daemon of its own.
fn stored(dir: &Path, incidents: &[Incident]) {
    let store = start(dir);
    for incident in incidents {
        store.put(incident, None, 0);
    }
    assert!(store.settle(SOON), "{:?}", store.health());
    assert!(store.close(SOON));
}

fn all(dir: &Path) -> Vec<(Host, Incident)> {
    Stored::open(dir).unwrap().get(&Wanted::All).unwrap()
}

fn set_aside_in(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("set-aside"))
        .collect();
    found.sort();
    found
}

#[test]
fn an_incident_that_changes_stays_one_row_in_its_place_and_has_a_history() {
    let dir = tempfile::tempdir().unwrap();
    stored(dir.path(), &[incident(1, "web"), incident(2, "db")]);
    let mut changed = incident(1, "web");
    changed.summary = "changed".into();
    changed.cause = Cause::Clflush;
    stored(dir.path(), std::slice::from_ref(&changed));
    stored(dir.path(), std::slice::from_ref(&changed));

    let reader = Stored::open(dir.path()).unwrap();
    let found = reader.get(&Wanted::All).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(
        (
            found[0].0.poisontrace_version.as_str(),
            found[0].1.summary.as_str()
        ),
        ("test", "changed")
    );
    assert_eq!(
        reader.get(&Wanted::Last).unwrap()[0].1.vm.name.as_deref(),
        Some("db")
    );
    assert_eq!(reader.get(&Wanted::Vm("web".into())).unwrap().len(), 1);
    assert_eq!(reader.get(&Wanted::Id(found[1].1.id.clone())).unwrap().len(), 1);
    assert!(reader.get(&Wanted::Id("nothing".into())).unwrap().is_empty());
    let causes: Vec<String> = reader
        .verdicts(&changed.id)
        .unwrap()
        .into_iter()
        .map(|verdict| verdict.cause)
        .collect();
    assert_eq!(causes.len(), 2, "{causes:?}");
    assert_eq!(causes[1], "clflush");
}

#[test]
fn reading_leaves_nothing_beside_the_store() {
    let dir = tempfile::tempdir().unwrap();
    stored(dir.path(), &[incident(1, "web")]);
    let files = || fs::read_dir(dir.path()).unwrap().count();
    let before = files();
    assert_eq!(all(dir.path()).len(), 1);
    assert_eq!(files(), before);
    let store = start(dir.path());
    store.put(&incident(2, "db"), None, 0);
    assert!(store.settle(SOON));
    assert_eq!(all(dir.path()).len(), 2, "what is in the log beside it is read");
    assert!(store.close(SOON));
}

#[test]
fn events_are_kept_with_their_number_and_a_storm_of_them_is_sampled() {
    let dir = tempfile::tempdir().unwrap();
    let i = incident(1, "web");
    let store = start(dir.path());
    store.put(&i, None, 5000);
    assert!(store.settle(SOON));
    let event = Event {
        t: 7,
        tid: 1,
        pid: 1,
        vcpu: None,
        what: EventKind::Delivered,
    };
    for n in 0..5000 {
        store.event(&i.id, n, &event);
    }
    store.event("an incident that is none", 0, &event);
    store.put(&i, None, 5000);
    assert!(store.settle(SOON) && store.close(SOON));
    let dossier = Stored::open(dir.path()).unwrap().dossier(&i.id).unwrap().unwrap();
    assert_eq!(dossier.events_seen, 5000);
    assert_eq!(
        dossier.events.len(),
        (0..5000).filter(|n| sample::kept(*n)).count()
    );
    assert_eq!(dossier.events[255].n, 255);
    assert!(dossier.events.last().unwrap().n > 4900);
    assert_eq!(dossier.events[0].event["event"], "mc_delivered");
}

#[test]
fn a_store_of_layout_1_is_read_as_it_is_and_migrated_forwards() {
    let dir = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/layout-1.db");
    fs::copy(file, dir.path().join(FILE)).unwrap();
    let before = all(dir.path());
    assert_eq!(before.len(), 2);
    stored(dir.path(), &[incident(1, "new")]);
    let after = all(dir.path());
    assert_eq!(
        after[..2],
        before[..],
        "nothing lost, nothing changed, in its order"
    );
    assert_eq!(after.len(), 3);
    assert!(set_aside_in(dir.path()).is_empty());
    let reader = Stored::open(dir.path()).unwrap();
    let history = reader.verdicts(&before[0].1.id).unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!(
        (history[0].at.as_deref(), history[0].outcome.as_str()),
        (None, before[0].1.outcome.word())
    );
}

#[test]
fn a_file_that_is_no_store_is_set_aside_and_never_written_to() {
    let notes: &[u8] = b"no database, but somebody's notes, which are longer than a header of SQLite is";
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Stored::open(dir.path()), Err(StoreError::Absent(_))));
    fs::write(dir.path().join(FILE), notes).unwrap();
    assert!(matches!(
        Stored::open(dir.path()),
        Err(StoreError::Damaged { .. } | StoreError::Foreign(..))
    ));
    stored(dir.path(), &[incident(1, "web")]);
    assert_eq!(all(dir.path()).len(), 1);
    let aside = set_aside_in(dir.path());
    assert_eq!(fs::read(&aside[0]).unwrap(), notes);
}

#[test]
fn another_programs_database_and_a_newer_layout_are_set_aside() {
    for sql in [
        "CREATE TABLE recipes (name TEXT)",
        "CREATE TABLE recipes (name TEXT); PRAGMA user_version = 1",
        "CREATE TABLE incident (id TEXT); PRAGMA user_version = 2",
        "CREATE TABLE incident (id TEXT); PRAGMA user_version = 99",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch(sql)
            .unwrap();
        let before = fs::read(&path).unwrap();
        assert!(Stored::open(dir.path()).is_err() || sql.contains("user_version = 1") || sql.contains("= 2"));
        let store = start(dir.path());
        assert_eq!(store.health().set_aside, 1, "{sql}");
        assert!(store.close(SOON));
        assert_eq!(fs::read(&set_aside_in(dir.path())[0]).unwrap(), before, "{sql}");
    }
}

#[test]
fn a_damaged_store_is_set_aside_whole_and_a_new_one_begun() {
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<Incident> = (1..200).map(|pid| incident(pid, "web")).collect();
    stored(dir.path(), &many);
    let path = dir.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[4096..half].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let store = start(dir.path());
    assert_eq!(store.health().set_aside, 1);
    store.put(&incident(1, "after"), None, 0);
    assert!(store.settle(SOON) && store.close(SOON));
    assert_eq!(all(dir.path()).len(), 1);
    assert_eq!(fs::read(&set_aside_in(dir.path())[0]).unwrap(), bytes);
}

#[test]
fn a_second_file_is_set_aside_beside_the_first() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["somebody's first notes", "somebody's second notes"] {
        fs::write(dir.path().join(FILE), text).unwrap();
        stored(dir.path(), &[incident(1, "web")]);
    }
    assert_eq!(set_aside_in(dir.path()).len(), 2);
}

#[test]
fn a_store_that_is_moved_away_under_the_daemon_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    store.put(&incident(1, "web"), None, 0);
    assert!(store.settle(SOON));
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(dir.path().join(format!("{FILE}{suffix}")));
    }
    store.put(&incident(2, "db"), None, 0);
    assert!(store.settle(SOON) && store.close(SOON));
    assert_eq!(all(dir.path()).len(), 1);
}

#[test]
fn nobody_else_may_read_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(&dir.path().join("state"));
    store.put(&incident(1, "web"), None, 0);
    assert!(store.settle(SOON));
    let mode = |path: &str| {
        fs::metadata(dir.path().join("state").join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("") & 0o007, 0);
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&format!("{FILE}{suffix}")), 0o640, "{suffix}");
    }
    assert!(store.close(SOON));
}

#[test]
fn a_state_directory_that_others_may_write_to_and_a_link_in_it_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    let err = schema::open(&open).unwrap_err().to_string();
    assert!(err.contains("others may write"), "{err}");
    assert!(!open.join(FILE).exists());

    let elsewhere = dir.path().join("elsewhere");
    let planted = dir.path().join("planted");
    fs::create_dir(&planted).unwrap();
    std::os::unix::fs::symlink(&elsewhere, planted.join(FILE)).unwrap();
    let err = schema::open(&planted).unwrap_err().to_string();
    assert!(err.contains("symbolic link"), "{err}");
    assert!(!elsewhere.exists());

    // As systemd's DynamicUser= has it.
    let private = dir.path().join("private");
    fs::create_dir(&private).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&private, &link).unwrap();
    schema::open(&link).unwrap();
    assert!(private.join(FILE).exists());
}

#[test]
fn a_disk_that_does_not_answer_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    let blocker = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    blocker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let began = Instant::now();
    for pid in 1..300 {
        store.put(&incident(pid, "web"), None, 0);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!store.settle(Duration::from_millis(200)));
    blocker.execute_batch("ROLLBACK").unwrap();
    assert!(store.settle(SOON));
    assert!(store.close(SOON));
    assert_eq!(all(dir.path()).len(), 299);
}

#[test]
fn what_waits_for_a_disk_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("state"), "a file where the folder should be").unwrap();
    let store = start(&dir.path().join("state"));
    assert!(store.health().failing.is_some());
    let mut taken = 0;
    while store.room().takes(taken + 1, Class::Named) {
        taken += 1;
        store.put(&incident(taken, "web"), None, 0);
    }
    assert!((100..=1000).contains(&taken), "{taken}");
    assert!(store.health().longest_wait > Duration::ZERO);
    let event = Event {
        t: 7,
        tid: 1,
        pid: 1,
        vcpu: None,
        what: EventKind::Delivered,
    };
    for n in 0..200_000u64 {
        store.event(&n.to_string(), 0, &event);
    }
    assert!(store.health().dropped_events > 0);
    fs::remove_file(dir.path().join("state")).unwrap();
    assert!(store.close(SOON), "the last try finds the folder's place free");
    assert_eq!(all(&dir.path().join("state")).len(), taken as usize);
}

#[test]
fn the_oldest_go_when_the_store_is_too_large_or_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<Incident> = (1..=400)
        .map(|pid| {
            let mut i = incident(pid, "web");
            i.summary = "x".repeat(4000);
            i
        })
        .collect();
    stored(dir.path(), &many);
    let limit = Retention {
        max_bytes: 1 << 20,
        ..retention()
    };
    let gone = retention::prune_dir(dir.path(), limit).unwrap();
    let left = all(dir.path());
    assert!(gone > 100 && left.len() as u64 + gone == 400, "{gone}");
    assert_eq!(left.last().unwrap().1.vm.pid, Some(400));
    assert!(fs::metadata(dir.path().join(FILE)).unwrap().len() < 2 << 20);

    let database = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    database
        .execute(
            "UPDATE incident SET changed_at = 1000 WHERE id <> ?1",
            [&left[3].1.id],
        )
        .unwrap();
    retention::prune_dir(dir.path(), retention()).unwrap();
    let left_now = all(dir.path());
    assert_eq!(left_now.len(), 1);
    assert_eq!(left_now[0].1.id, left[3].1.id);
    let orphans: i64 = database
        .query_row(
            "SELECT count(*) FROM verdict WHERE incident NOT IN (SELECT id FROM incident)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(orphans, 0, "their history goes with them");
}

#[test]
fn a_flood_is_written_at_a_bounded_rate_and_another_vm_is_stored_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::paced(dir.path(), &host(), retention());
    let flood = |n: u64| {
        let mut e = Evidence::new(n, 7, Default::default());
        e.hva = Some((n % 400) << 12);
        let mut i = poisontrace_report::document(poisontrace_model::correlate::report::incident(
            &e,
            &Session::default(),
        ));
        i.summary = "x".repeat(4000);
        i
    };
    let (began, mut n, mut bytes, mut put_at) = (Instant::now(), 0, 0, None);
    let mut stored_after = None;
    while began.elapsed() < Duration::from_secs(6) {
        let i = flood(n);
        if store.room().takes(7, Class::Named) {
            bytes += 4000;
            store.put(&i, None, 0);
            n += 1;
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
        if put_at.is_none() && began.elapsed() > Duration::from_secs(2) {
            assert!(store.room().takes(8, Class::Named), "the flood has left room");
            store.put(&incident(8, "web"), None, 0);
            put_at = Some(Instant::now());
        }
        if let (Some(at), None) = (put_at, stored_after) {
            let reader = Stored::open(dir.path()).unwrap();
            if !reader.get(&Wanted::Vm("web".into())).unwrap().is_empty() {
                stored_after = Some(at.elapsed());
            }
        }
    }
    let stored_after = stored_after.unwrap();
    println!("{bytes} bytes in 6 s; the other VM's incident after {stored_after:?}");
    assert!(stored_after < Duration::from_secs(2), "{stored_after:?}");
    assert!(bytes < 9 * (2 << 20), "{bytes} bytes in six seconds");
    let ends = Instant::now();
    store.hurry();
    assert!(store.settle(SOON) && store.close(SOON));
    assert!(ends.elapsed() < Duration::from_secs(2), "{:?}", ends.elapsed());
}

#[test]
fn what_is_too_much_is_the_flooders_and_nobodys_open_incident() {
    let dir = tempfile::tempdir().unwrap();
    let page = |pid: u32, n: u64, t: u64| {
        let mut e = Evidence::new(t, pid, Default::default());
        e.hva = Some(n << 12);
        let mut i = poisontrace_report::document(poisontrace_model::correlate::report::incident(
            &e,
            &Session::default(),
        ));
        i.summary = "x".repeat(2000);
        i
    };
    let store = start(dir.path());
    let put = |incident: &Incident, open: bool| {
        while !store.room().takes(incident.vm.pid.unwrap(), Class::Named) {
            store.settle(SOON);
        }
        store.put(incident, open.then(|| "{}".to_owned()), 0);
    };
    // First, hence older than all of the flood.
    put(&page(8, 1, 1), true);
    put(&page(9, 1, 2), false);
    (0..1500).for_each(|n| put(&page(7, n, 10 + n), true));
    assert!(store.settle(SOON) && store.close(SOON));
    let limit = Retention {
        max_bytes: 4 << 20,
        ..retention()
    };
    let database = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    let boot: String = database
        .query_row("SELECT DISTINCT boot_id FROM incident", [], |row| row.get(0))
        .unwrap();
    assert!(retention::prune(&database, limit, Some(&boot), false).unwrap() > 100);
    let of = |pid: u32| {
        all(dir.path())
            .iter()
            .filter(|(_, i)| i.vm.pid == Some(pid))
            .count()
    };
    assert_eq!(
        (of(8), of(9)),
        (1, 1),
        "neither the open one nor the closed one of others"
    );
    let left = of(7);
    assert!(left >= 256, "{left}");
    let first = all(dir.path()).into_iter().find(|(_, i)| i.vm.pid == Some(7));
    assert!(
        first.unwrap().1.id.ends_with("-0"),
        "what the flood began with stays"
    );

    let tiny = Retention {
        max_bytes: 4096,
        ..retention()
    };
    retention::prune(&database, tiny, Some(&boot), false).unwrap();
    assert_eq!((of(8), of(9), of(7)), (1, 0, 256), "only what is open stays");
    retention::prune(&database, tiny, Some("the next boot"), false).unwrap();
    assert_eq!(all(dir.path()).len(), 0, "nothing is open after a reboot");
}

#[test]
fn a_clock_that_has_jumped_deletes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let all = [incident(1, "web"), incident(2, "db"), incident(3, "mail")];
    stored(dir.path(), &all);
    let database = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    let shift = |id: &str, days: i64| {
        database
            .execute(
                "UPDATE incident SET changed_at = unixepoch() - ?2 * 86400 WHERE vm = ?1",
                (id, days),
            )
            .unwrap()
    };
    // As after a start 500 days ahead.
    assert_eq!(shift("web", 500) + shift("db", 501) + shift("mail", 502), 3);
    assert_eq!(retention::prune(&database, retention(), None, false).unwrap(), 0);
    assert_eq!(retention::stale_days(&database, retention()).unwrap(), Some(500));
    shift("db", 950);
    shift("mail", 700);
    assert_eq!(
        retention::prune(&database, retention(), None, false).unwrap(),
        1,
        "it is 450 days older than the newest"
    );
    shift("web", 0);
    shift("mail", 399);
    assert_eq!(retention::stale_days(&database, retention()).unwrap(), None);
}

#[test]
fn a_quiet_year_is_pruned_once_the_clock_is_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let all = [
        incident(1, "web"),
        incident(2, "db"),
        incident(3, "mail"),
        incident(4, "dns"),
    ];
    stored(dir.path(), &all);
    let database = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    for (vm, days) in [("web", 901), ("db", 900), ("mail", 450)] {
        let sql = "UPDATE incident SET changed_at = unixepoch() - ?2 * 86400 WHERE vm = ?1";
        assert_eq!(database.execute(sql, (vm, days)).unwrap(), 1);
    }
    let prune = |confirmed| retention::prune(&database, retention(), None, confirmed).unwrap();
    assert_eq!(prune(false), 0, "it may be a jump");
    assert!(retention::stale_days(&database, retention()).unwrap().is_some());
    assert_eq!(prune(true), 3);
    assert_eq!(retention::stale_days(&database, retention()).unwrap(), None);
}

#[test]
fn the_first_incident_after_a_jump_of_the_clock_deletes_none_of_those_before() {
    let dir = tempfile::tempdir().unwrap();
    stored(
        dir.path(),
        &[incident(1, "web"), incident(2, "db"), incident(3, "forged")],
    );
    let database = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    let sql = "UPDATE incident SET changed_at = unixepoch() - 500 * 86400 WHERE vm <> 'forged'";
    assert_eq!(database.execute(sql, []).unwrap(), 2);
    assert_eq!(retention::prune(&database, retention(), None, false).unwrap(), 0);
    assert!(
        retention::stale_days(&database, retention()).unwrap().is_some(),
        "it is logged"
    );
    // The clock is right again, and behind what was stored meanwhile.
    let sql = "UPDATE incident SET changed_at = unixepoch() + 500 * 86400 WHERE vm = 'forged'";
    assert_eq!(database.execute(sql, []).unwrap(), 1);
    assert_eq!(retention::prune(&database, retention(), None, false).unwrap(), 0);
}

#[test]
fn a_damaged_row_is_skipped_and_counted_and_the_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    stored(
        dir.path(),
        &[
            incident(1, "web"),
            incident(2, "db"),
            incident(3, "mail"),
            incident(4, "dns"),
        ],
    );
    let database = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    for (vm, damage) in [("web", "'{torn'"), ("db", "x'ff00fe'"), ("dns", "7")] {
        let sql = format!("UPDATE incident SET incident = {damage} WHERE vm = ?1");
        assert_eq!(database.execute(&sql, [vm]).unwrap(), 1);
    }
    let reader = Stored::open(dir.path()).unwrap();
    let left = reader.get(&Wanted::All).unwrap();
    assert_eq!((left.len(), reader.skipped()), (1, 3));
    assert_eq!(left[0].1.vm.name.as_deref(), Some("mail"));
    let last = reader.get(&Wanted::Last).unwrap();
    assert_eq!(last[0].1.vm.pid, Some(3), "the latest that can be read");
    let damaged = reader.ids(&Wanted::Vm("web".to_owned())).unwrap().remove(0);
    assert!(matches!(
        reader.get(&Wanted::Id(damaged.clone())),
        Err(StoreError::Row { .. })
    ));
    assert!(matches!(reader.dossier(&damaged), Err(StoreError::Row { .. })));
}
