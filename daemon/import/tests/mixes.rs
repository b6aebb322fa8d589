//! Properties over all log stories of the tree: strangers' lines change no verdict into another certain one and join
//! nothing; a lost line or byte range makes no answer more confident, or certain and different.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, io::Cursor, ops::Range, path::PathBuf, sync::LazyLock};

use poisontrace_model::incident::model::{Cause, Confidence, Incident, Outcome};
use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};

#[path = "../../tests/import/field_cases.rs"]
#[allow(dead_code, reason = "the mixes use the files alone")]
mod field_cases;

/// Lines of other VMs, hosts and days, and prose; their pages are in [`STRANGE_PAGES`] and in no story.
const STRANGERS: &[&str] = &[
    "2019-02-03T04:05:06+00:00 stranger1 kernel: Memory failure: 0xabcde1: Sending SIGBUS to qemu-system-x86:91001 due to hardware memory corruption",
    "2019-02-03T04:05:06+00:00 stranger1 kernel: Memory failure: 0xabcde1: recovery action for dirty LRU page: Recovered",
    "2019-02-03T05:05:06+00:00 stranger2 strangevm@a[91002]: [  11.1] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134",
    "2019-02-03T05:05:06+00:00 stranger2 strangevm@a[91002]: [  11.2] mce: [Hardware Error]: TSC 1 ADDR abcde2000 MISC 8c",
    "2019-02-03T05:05:06+00:00 stranger2 strangevm@a[91002]: [  11.3] Kernel panic - not syncing: Fatal local machine check",
    "2019-02-04T05:05:06+00:00 stranger3 qemu-kvm[91003]: Guest MCE Memory Error at QEMU addr 0x7e0000001000 and GUEST addr 0xabcde3000 of type BUS_MCEERR_AR injected",
    "2019-02-05T05:05:06+00:00 stranger4 systemd[1]: fc@stranger.service: Main process exited, code=exited, status=149/n/a",
    "2019-02-05T05:05:06+00:00 stranger4 kernel: Memory failure: 0xabcde4: Sending SIGBUS to postgres:91004 due to hardware memory corruption",
    "We looked at what a Hardware memory error means, and at \"Kernel panic - not syncing: Fatal machine check\".",
    "root 91005 1 0 Oct01 ? 00:00:01 /usr/bin/qemu-system-x86_64 -name guest=stranger,debug-threads=on -S",
    "{\"timestamp\": {\"seconds\": 1549000000, \"microseconds\": 0}, \"event\": \"STOP\"}",
    "",
];

const STRANGE_PAGES: [u64; 5] = [
    0xa_bcde1,
    0xa_bcde4,
    0xabc_de20_0000,
    0xa_bcde_2000,
    0xa_bcde_3000,
];

fn stories() -> &'static [Vec<Vec<u8>>] {
    static STORIES: LazyLock<Vec<Vec<Vec<u8>>>> = LazyLock::new(read_stories);
    &STORIES
}

fn read_stories() -> Vec<Vec<Vec<u8>>> {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests");
    let mut stories = Vec::new();
    let cases: serde_json::Value =
        serde_json::from_slice(&fs::read(tests.join("field/cases.json")).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let folder = tests.join("field").join(case["name"].as_str().unwrap());
        let files = case["files"].as_array().unwrap().iter();
        let files: Vec<Vec<u8>> = files
            .map(|file| fs::read(folder.join(file.as_str().unwrap())).unwrap())
            .filter(|text| text.len() < 8192 && !text.windows(9).any(|words| words == b"kvm_exit:"))
            .collect();
        match case["together"] == true {
            true => stories.push(files),
            false => stories.extend(files.into_iter().map(|file| vec![file])),
        }
    }
    for case in field_cases::CASES {
        stories.push(case.files.iter().map(|text| text.as_bytes().to_vec()).collect());
    }
    for file in [
        "field/strangers.json",
        "field/mixed.json",
        "field/posts.json",
        "field/neighbours.json",
        "field/tools.json",
        "field/exports.json",
    ] {
        let strangers: serde_json::Value =
            serde_json::from_slice(&fs::read(tests.join(file)).unwrap()).unwrap();
        for case in strangers.as_array().unwrap() {
            let lines = |file: &serde_json::Value| -> Vec<u8> {
                let lines = file.as_array().unwrap().iter();
                let lines: Vec<&str> = lines.map(|line| line.as_str().unwrap()).collect();
                lines.join("\n").into_bytes()
            };
            stories.push(case["files"].as_array().unwrap().iter().map(lines).collect());
        }
    }
    for file in [
        "amd-linux-guest-panic/console.txt",
        "amd-linux-guest-panic/qemu.log",
    ] {
        stories.push(vec![fs::read(tests.join("traces").join(file)).unwrap()]);
    }
    stories
}

fn explain(files: &[Vec<u8>]) -> Vec<Incident> {
    let inputs = files
        .iter()
        .zip(1..)
        .map(|(text, n)| (format!("file{n}"), Cursor::new(text.clone())))
        .collect();
    match poisontrace_import::read_inputs(inputs, true) {
        Ok(imported) => imported.incidents,
        Err(_) => Vec::new(),
    }
}

fn certain(incident: &Incident) -> bool {
    incident.confidence == Confidence::Certain
}

/// Page and process of an incident: what shows it from others of a story.
fn key(i: &Incident) -> [Option<u64>; 3] {
    [i.page.pfn, i.page.gpa, i.page.hva].map(|at| at.map(|at| at.0))
}

fn is_strange(i: &Incident) -> bool {
    key(i)
        .iter()
        .flatten()
        .any(|at| STRANGE_PAGES.contains(at) || *at == 0x7e00_0000_1000)
        || i.vm.pid.is_some_and(|pid| (91_001..=91_005).contains(&pid))
}

/// The lines of a story in one file, where each is a record by itself.
fn plain_lines(story: &[Vec<u8>]) -> Option<Vec<String>> {
    let [file] = story else { return None };
    let text = String::from_utf8(file.clone()).ok()?;
    let whole = |line: &&str| {
        let date = |at: usize| line.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
        line.starts_with('[') || (date(0) && date(3)) || (date(4) && line.as_bytes().get(6) == Some(&b' '))
    };
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    (!lines.is_empty() && lines.iter().all(whole)).then(|| lines.into_iter().map(str::to_owned).collect())
}

/// Nothing is certain that neither story is certain of, and no incident has pages of both. `one_machine`: the stories are two
/// boots of it, and what the one shows of the machine (its vendor) makes surer whose death the other was.
fn holds_apart(
    mixed: &[Incident],
    one: &[Incident],
    other: &[Incident],
    one_machine: bool,
) -> Result<(), String> {
    let pages = |incidents: &[Incident]| -> BTreeSet<(usize, u64)> {
        let all = incidents.iter().map(key);
        all.flat_map(|pages| {
            pages
                .into_iter()
                .enumerate()
                .filter_map(|(kind, at)| Some((kind, at?)))
        })
        .collect()
    };
    let (ones, others) = (pages(one), pages(other));
    if ones.intersection(&others).next().is_some() {
        return Ok(());
    }
    let of = |all: &[Incident]| all.iter().map(verdict).collect::<Vec<String>>();
    for incident in mixed {
        let mine = pages(std::slice::from_ref(incident));
        let both = mine.intersection(&ones).next().is_some() && mine.intersection(&others).next().is_some();
        if both {
            return Err(format!("pages of two stories: {}", verdict(incident)));
        }
        let surer = one_machine && incident.outcome == Outcome::HostPanicked;
        let sure = |i: &Incident| (i.outcome, i.cause, certain(i) || surer);
        let known = one.iter().chain(other).any(|i| sure(i) == sure(incident));
        if !known && certain(incident) {
            return Err(format!(
                "{} of {:?} and {:?}",
                verdict(incident),
                of(one),
                of(other)
            ));
        }
    }
    Ok(())
}

/// What an incident comes to, and of which page and VM.
fn verdict(i: &Incident) -> String {
    let (pages, name) = (key(i), &i.vm.name);
    format!(
        "{:?} {:?} {:?} {pages:x?} {name:?}",
        i.outcome, i.cause, i.confidence
    )
}

/// How a collector names the host of a line.
const FORMS: usize = 5;

/// The lines of a host of this name: their own names of it are its, too.
fn named(lines: &[String], name: &str, form: usize) -> Vec<String> {
    let lines: Vec<String> = lines
        .iter()
        .map(|line| line.replace(" h1 ", &format!(" {name} ")))
        .collect();
    let line = |line: &String| match form {
        0 => format!("{name}: {line}"),
        1 => format!("[{name}] {line}"),
        2 => serde_json::json!({"host": {"name": name}, "message": line}).to_string(),
        3 => serde_json::json!({"log": format!("{line}\n"), "kubernetes": {"pod_name": name}}).to_string(),
        _ => format!("{name}.example.org {line}"),
    };
    lines.iter().map(line).collect()
}

fn text(lines: &[String]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| [line.as_bytes(), b"\n"].concat())
        .collect()
}

/// The lines of both in the order that `order` repeats: true is a line of the first.
fn interleaved(one: &[String], other: &[String], order: &[bool]) -> Vec<String> {
    let (mut a, mut b) = (one.iter(), other.iter());
    let mut lines = Vec::new();
    for first in order.iter().cycle().take(2 * (one.len() + other.len())) {
        lines.extend(if *first { a.next() } else { b.next() });
    }
    lines.extend(a.chain(b));
    lines.into_iter().cloned().collect()
}

/// What stands between two boots.
const REBOOTS: [&str; 2] = ["-- Reboot --", "-- Boot 4c1f08a4a7a44c2ea3b0a5d1f9c0b3d2 --"];

fn rebooted(one: &[String], other: &[String], mark: &str) -> Vec<u8> {
    text(&[one, &[mark.to_owned()], other].concat())
}

/// The verdicts on files in whatever order.
fn verdicts(files: &[Vec<u8>]) -> BTreeSet<String> {
    explain(files).iter().map(verdict).collect()
}

fn plain_stories() -> Vec<Vec<String>> {
    stories().iter().filter_map(|story| plain_lines(story)).collect()
}

/// The cases of one run are the same in every run, so that what fails here fails everywhere. `PROPTEST_CASES` draws as many
/// others as it says; the seed of a run that failed is printed, and `PROPTEST_RNG_SEED` repeats it.
fn config() -> Config {
    const CASES: u32 = 1000;
    const SEED: u64 = 15;
    let ours = Config {
        failure_persistence: None,
        ..Config::default()
    };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ours,
        None => Config {
            cases: CASES,
            rng_seed: RngSeed::Fixed(SEED),
            ..ours
        },
    }
}

fn line_ranges(text: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut end = 0;
    text.split_inclusive(|b| *b == b'\n').map(move |line| {
        let begin = end;
        end += line.len();
        begin..end
    })
}

fn meet(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// `==> FILE <==` of `tail` with several files.
fn is_tail_header(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    line.starts_with(b"==> ") && line.ends_with(b" <==")
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn strangers_join_nothing_and_change_no_verdict(
        story in any::<prop::sample::Index>(),
        seed in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
        apart in any::<bool>(),
        first in any::<bool>(),
    ) {
        let story = story.get(stories());
        let before = explain(story);
        let mut files = story.clone();
        let strange: Vec<&str> = seed.iter().map(|(line, _)| *line.get(STRANGERS)).collect();
        if apart {
            let text = strange.join("\n").into_bytes();
            if first { files.insert(0, text) } else { files.push(text) }
        } else {
            // Whole records of the story stay whole.
            let mut lines: Vec<String> = String::from_utf8_lossy(&files[0]).lines().map(str::to_owned).collect();
            let multi = files[0].first() == Some(&b'{') || lines.iter().any(|line| line.ends_with('\\'));
            for (line, at) in &seed {
                let at = if multi || first { lines.len() } else { at.index(lines.len() + 1) };
                let wrapped = |n: usize| lines.get(n).is_some_and(|line| line.starts_with([' ', '0']));
                let at = if wrapped(at) { lines.len() } else { at };
                lines.insert(at, (*line.get(STRANGERS)).to_owned());
            }
            files[0] = (lines.join("\n") + "\n").into_bytes();
        }
        for incident in explain(&files) {
            if is_strange(&incident) {
                let mine = before.iter().find(|i| {
                    key(i).iter().zip(key(&incident)).any(|(a, b)| a.is_some() && *a == b)
                        || i.vm.pid.is_some() && i.vm.pid == incident.vm.pid
                });
                prop_assert!(mine.is_none(), "joined to a stranger: {incident:#?}");
                continue;
            }
            let known = before.iter().any(|i| (i.outcome, i.cause) == (incident.outcome, incident.cause));
            prop_assert!(known || !certain(&incident), "{incident:#?} in place of {before:#?}");
        }
    }

    #[test]
    fn a_lost_line_or_range_makes_no_answer_surer(
        story in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
        length in 1..200_usize,
        line in any::<bool>(),
    ) {
        let mut files = story.get(stories()).clone();
        let before = explain(&files);
        let text = files[0].clone();
        if text.is_empty() {
            return Ok(());
        }
        let lost = if line {
            let lines: Vec<Range<usize>> = line_ranges(&text).collect();
            from.get(&lines).clone()
        } else {
            let at = from.index(text.len());
            at..(at + length).min(text.len())
        };
        // What follows is then another file's, and nothing shows it any more.
        if line_ranges(&text).any(|line| meet(&line, &lost) && is_tail_header(&text[line])) {
            return Ok(());
        }
        files[0] = [&text[..lost.start], &text[lost.end..]].concat();
        for incident in explain(&files).iter().filter(|i| certain(i)) {
            // A name that clocks alone gave, or a page of the host that was signalled long before, made it less sure; without these
            // it is what its own lines show. So it is where the line is lost that showed an injection by software.
            let known = before.iter().any(|i| {
                let unnamed = i.vm.name.is_some() && incident.vm.name.is_none();
                let unpaired = i.page.pfn.is_some() && incident.page.pfn.is_none();
                let of_software = i.cause == Cause::NotPoison && !certain(i);
                let surer = certain(i) || unnamed || unpaired;
                i.outcome == incident.outcome && (of_software || surer && i.cause == incident.cause)
            });
            prop_assert!(known, "{incident:#?} in place of {before:#?}");
        }
    }

    #[test]
    fn lines_of_two_hosts_in_one_file_are_those_of_two_hosts(
        one in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
        form in 0..FORMS,
        order in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        let stories = plain_stories();
        let (one, other): (&Vec<String>, &Vec<String>) = (one.get(&stories), other.get(&stories));
        let (one, other) = (named(one, "node1", form), named(other, "node2", form));
        let mixed = text(&interleaved(&one, &other, &order));
        let [mixed, one, other] = [mixed, text(&one), text(&other)].map(|text| explain(&[text]));
        holds_apart(&mixed, &one, &other, false).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn lines_of_two_boots_in_one_file_are_those_of_two_boots(
        one in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
        mark in 0..REBOOTS.len(),
    ) {
        let stories = plain_stories();
        let (one, other) = (one.get(&stories), other.get(&stories));
        let both = rebooted(one, other, REBOOTS[mark]);
        let [both, one, other] = [both, text(one), text(other)].map(|text| explain(&[text]));
        holds_apart(&both, &one, &other, true).map_err(TestCaseError::fail)?;
    }
}

/// Fails with all that was found.
fn nothing_found(tried: usize, found: &[String]) {
    assert!(
        found.is_empty(),
        "{} of {tried}:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
#[ignore = "all pairs take minutes: with --release -- --ignored"]
fn every_two_hosts_in_one_file() {
    const ORDERS: [&[bool]; 5] = [
        &[true, false],
        &[true],
        &[false],
        &[true, true, false],
        &[true, false, false, false],
    ];
    let stories = plain_stories();
    let (mut tried, mut found) = (0, Vec::new());
    for form in 0..FORMS {
        let of = |name: &str| -> Vec<(Vec<String>, Vec<Incident>)> {
            let named = stories.iter().map(|story| named(story, name, form));
            named
                .map(|lines| (lines.clone(), explain(&[text(&lines)])))
                .collect()
        };
        let (ones, others) = (of("node1"), of("node2"));
        for (n, (one, of_one)) in ones.iter().enumerate() {
            for (m, (other, of_other)) in others.iter().enumerate() {
                for order in ORDERS {
                    tried += 1;
                    let mixed = explain(&[text(&interleaved(one, other, order))]);
                    if let Err(why) = holds_apart(&mixed, of_one, of_other, false) {
                        found.push(format!("{n} {m} form {form} {order:?}: {why}"));
                    }
                }
            }
        }
    }
    nothing_found(tried, &found);
}

#[test]
#[ignore = "all pairs take minutes: with --release -- --ignored"]
fn every_two_boots_in_one_file() {
    let stories = plain_stories();
    let alone: Vec<Vec<Incident>> = stories.iter().map(|story| explain(&[text(story)])).collect();
    let (mut tried, mut found) = (0, Vec::new());
    for (n, one) in stories.iter().enumerate() {
        for (m, other) in stories.iter().enumerate() {
            for mark in REBOOTS {
                tried += 1;
                let both = explain(&[rebooted(one, other, mark)]);
                if let Err(why) = holds_apart(&both, &alone[n], &alone[m], true) {
                    found.push(format!("{n} {m} {mark}: {why}"));
                }
            }
        }
    }
    nothing_found(tried, &found);
}

#[test]
fn every_order_of_files() {
    let (mut tried, mut found) = (0, Vec::new());
    for (n, story) in stories().iter().enumerate().filter(|(_, story)| story.len() > 1) {
        let before = verdicts(story);
        let mut turned = story.clone();
        for first in 1..story.len() {
            turned.rotate_left(1);
            for reversed in [false, true] {
                tried += 1;
                if reversed {
                    turned.reverse();
                }
                let after = verdicts(&turned);
                if after != before {
                    found.push(format!("{n} from {first}: {before:?} and {after:?}"));
                }
                if reversed {
                    turned.reverse();
                }
            }
        }
    }
    nothing_found(tried, &found);
}
