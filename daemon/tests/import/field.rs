//! Evidence as people really post and keep it (`tests/field`): each case with what its lines say. What is checked is the
//! meaning: outcomes, causes and pages that must be there, and those that must not.

use std::{fs, path::PathBuf, process::Output};

use serde_json::Value;

use crate::{common::poisontrace, field_cases, silent_cases};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/field")
}

fn run(files: &[PathBuf], format: &str) -> Output {
    let mut args: Vec<PathBuf> = ["explain", "--format", format].map(PathBuf::from).to_vec();
    for file in files {
        args.push("--from".into());
        args.push(file.clone());
    }
    poisontrace(args.iter())
}

/// Whether an incident is as `wanted` describes it.
fn matches(incident: &Value, wanted: &Value) -> bool {
    let seen = |key: &str| match key {
        "gpa" => incident["page"]["gpa"].clone(),
        "pfn" => incident["page"]["pfn"].clone(),
        "hva" => incident["page"]["hva"].clone(),
        "vm" => incident["vm"]["name"].clone(),
        "size" => incident["page"]["size_bytes"].clone(),
        _ => Value::Null,
    };
    wanted
        .as_object()
        .unwrap()
        .iter()
        .all(|(key, value)| match key.as_str() {
            "outcome" | "cause" | "confidence" => value.as_array().unwrap().contains(&incident[key]),
            "text" => {
                let summary = incident["summary"].as_str().unwrap().to_lowercase();
                summary.contains(&value.as_str().unwrap().to_lowercase())
            }
            "told_ar" => {
                let range = value.as_array().unwrap();
                let count = incident["injections"]["action_required"].as_u64();
                count.is_some_and(|n| range[0].as_u64().unwrap() <= n && n <= range[1].as_u64().unwrap())
            }
            _ if value == "any" => !seen(key).is_null(),
            _ => seen(key) == *value,
        })
}

/// The text form shows nothing that is unknown, and is short where little is known.
#[track_caller]
fn reads_well(name: &str, files: &[PathBuf], incidents: usize, text: &str) {
    const LINES_OF_A_SHORT_LOG: usize = 2;
    const LINES_OF_ITS_ANSWER: usize = 25;
    for unknown in [" ?,", " ?)", " ?:", "(? ", " ? "] {
        assert!(!text.contains(unknown), "{name}: {unknown} is in:\n{text}");
    }
    let lines: usize = files
        .iter()
        .map(|file| {
            let text = fs::read(file).unwrap_or_default();
            let lines = text.split(|b| *b == b'\n');
            lines.filter(|line| !line.trim_ascii().is_empty()).count()
        })
        .sum();
    let short = lines <= LINES_OF_A_SHORT_LOG && incidents <= 1;
    assert!(
        !short || text.lines().count() <= LINES_OF_ITS_ANSWER,
        "{name}: {lines} lines are answered by:\n{text}"
    );
    let mut args: Vec<PathBuf> = ["explain", "--brief", "--from"].map(PathBuf::from).to_vec();
    args.extend(files.iter().cloned());
    let brief = poisontrace(args.iter()).stdout;
    let brief = String::from_utf8_lossy(&brief);
    let shown = brief.lines().count();
    assert!(
        incidents != 1 || shown <= LINES_OF_ITS_ANSWER,
        "{name}: the first screen has {shown} lines:\n{brief}"
    );
}

#[track_caller]
fn check(case: &Value, files: &[PathBuf]) {
    let name = case["name"].as_str().unwrap();
    let list = |key: &str| case[key].as_array().cloned().unwrap_or_default();
    let output = run(files, "json");
    let status = output.status.code().unwrap();
    let allowed = list("rc");
    let fine = if allowed.is_empty() {
        status == 0
    } else {
        allowed.contains(&status.into())
    };
    assert!(fine, "{name}: exit status {status}: {output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let incidents = answer["incidents"].as_array().cloned().unwrap_or_default();
    if let [least, most] = list("n").as_slice() {
        let n = incidents.len() as u64;
        let range = least.as_u64().unwrap()..=most.as_u64().unwrap();
        assert!(range.contains(&n), "{name}: {n} incidents: {incidents:#?}");
    }
    for wanted in list("want") {
        let found = incidents.iter().any(|incident| matches(incident, &wanted));
        assert!(found, "{name}: none is {wanted}: {incidents:#?}");
    }
    for never in list("never") {
        let found = incidents.iter().find(|incident| matches(incident, &never));
        assert!(found.is_none(), "{name}: one is {never}: {found:#?}");
    }
    let (wanted, unwanted) = (list("output"), list("never_output"));
    let text = run(files, "text");
    reads_well(
        name,
        files,
        incidents.len(),
        &String::from_utf8_lossy(&text.stdout),
    );
    let text = [text.stdout, text.stderr].concat();
    let text = String::from_utf8_lossy(&text).to_lowercase();
    let holds = |words: &Value| text.contains(&words.as_str().unwrap().to_lowercase());
    for words in &wanted {
        assert!(holds(words), "{name}: {words} is not in:\n{text}");
    }
    for words in &unwanted {
        assert!(!holds(words), "{name}: {words} is in:\n{text}");
    }
}

#[test]
fn evidence_of_the_field_is_explained_as_what_its_lines_are() {
    let cases: Value = serde_json::from_slice(&fs::read(folder().join("cases.json")).unwrap()).unwrap();
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 30);
    for case in cases {
        let folder = folder().join(case["name"].as_str().unwrap());
        let files = case["files"].as_array().unwrap().iter();
        let files: Vec<PathBuf> = files.map(|file| folder.join(file.as_str().unwrap())).collect();
        if case["together"] == true {
            check(case, &files);
        } else {
            for file in files {
                check(case, &[file]);
            }
        }
    }
}

#[test]
fn evidence_of_the_same_kinds_with_other_senders_orders_and_values() {
    for case in field_cases::CASES.iter().chain(silent_cases::CASES) {
        let mut wanted: Value = serde_json::from_str(case.holds).unwrap();
        wanted["name"] = case.name.into();
        check_texts(&wanted, case.files.iter().map(|text| (*text).to_owned()));
    }
}

/// `strangers.json` and `mixed.json` (several machines, boots and runs in one post): as `cases.json`, with the lines of each
/// file. The kinds are those of the host's own death (1), joins (2),
/// speakers (3), phrases (4), names (5), processes (6), sentences (7), late deaths (8), formats (9), silence (10), noise (11)
/// and traces (12).
#[test]
fn evidence_of_strangers() {
    check_all("strangers.json");
}

#[test]
fn evidence_of_several_machines_boots_and_runs() {
    check_all("mixed.json");
}

/// What loggers, collectors and people make of a log: prefixes, dates, records, tables, headings; and several pages, names
/// and pids that are no keys.
#[test]
fn evidence_as_loggers_collectors_and_people_post_it() {
    check_all("posts.json");
}

/// What stands beside a VM's poison: helper processes, other units, OOM kills, injectors, migrations, consoles of other names, and
/// logs that end too early.
#[test]
fn evidence_of_a_vms_neighbours() {
    check_all("neighbours.json");
}

/// What tools make of it: systemd in the kernel's buffer, KubeVirt, consoles behind commands, traces of signals, mark-up of
/// trackers, reports of crashes; and kernels whose lines stand behind each other.
#[test]
fn evidence_of_tools() {
    check_all("tools.json");
}

/// Reports of crashes, ARM, cloud consoles, exports, mails and chats; and what stands beside a VM's evidence there.
#[test]
fn evidence_of_reports_and_exports() {
    check_all("exports.json");
}

#[track_caller]
fn check_all(file: &str) {
    let cases = fs::read(folder().join(file)).unwrap();
    let cases: Value = serde_json::from_slice(&cases).unwrap();
    let lines = |file: &Value| -> String {
        let lines: Vec<&str> = file
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap())
            .collect();
        lines.join("\n")
    };
    for case in cases.as_array().unwrap() {
        check_texts(case, case["files"].as_array().unwrap().iter().map(lines));
    }
}

#[track_caller]
fn check_texts(case: &Value, texts: impl Iterator<Item = String>) {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = texts
        .zip(1..)
        .map(|(text, n)| {
            let path = dir.path().join(format!("file{n}"));
            fs::write(&path, text).unwrap();
            path
        })
        .collect();
    check(case, &files);
}
