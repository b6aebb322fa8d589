//! Recordings and logs with bytes changed, lost and doubled: no panic, and an answer that follows the schema. The digests of
//! the answers can be compared between a debug build, in which an overflow panics, and a release build
//! (`cargo xtask test --only tenants`).

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::{
    fmt::Write as _,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Cursor,
    path::Path,
};

use poisontrace_import::read_inputs;
use poisontrace_report::document::Answer;

/// Inputs of a run in the default tier.
const INPUTS: u64 = 300;

/// xorshift64*: the same inputs in every build.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Numbers at the edges of their types, which sums and differences go over.
const NUMBERS: [&str; 8] = [
    "0",
    "1",
    "-1",
    "18446744073709551615",
    "9223372036854775807",
    "-9223372036854775808",
    "4294967295",
    "1e308",
];

fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.below(8) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes.truncate(at.max(1)),
            2 => {
                let end = (at + random.below(200)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + random.below(200)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => number(&mut bytes, at, random),
        }
        if bytes.is_empty() {
            bytes.push(b'x');
        }
    }
    bytes
}

/// Puts another number in the place of the next one.
fn number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(begin) = bytes[at..].iter().position(u8::is_ascii_digit).map(|n| at + n) else {
        return;
    };
    let digits = bytes[begin..].iter().take_while(|b| b.is_ascii_digit()).count();
    let number = NUMBERS[random.below(NUMBERS.len())];
    bytes.splice(begin..begin + digits, number.bytes());
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut seeds = Vec::new();
    let mut folders = vec![tests.join("recordings"), tests.join("traces")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::metadata(&path).unwrap().len() < 300_000
                && path.extension().is_some_and(|end| end != "md" && end != "gz")
            {
                seeds.push((path.to_string_lossy().into_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    seeds.sort();
    assert!(seeds.len() > 5, "{} seeds", seeds.len());
    seeds
}

/// The answer's digest; of a refusal, that of the problems.
fn answer(name: String, bytes: Vec<u8>) -> u64 {
    let text = match read_inputs(vec![(name, Cursor::new(bytes))], true) {
        Ok(imported) => {
            let documents = imported
                .incidents
                .into_iter()
                .map(poisontrace_report::document)
                .collect();
            let answer = Answer::new(imported.session.host.clone(), documents);
            let text = serde_json::to_string(&answer).unwrap();
            let _: serde_json::Value = serde_json::from_str(&text).unwrap();
            text
        }
        Err(problems) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
    };
    let mut digest = DefaultHasher::new();
    text.hash(&mut digest);
    digest.finish()
}

#[test]
fn mutated_recordings_and_logs_make_no_panic() {
    let inputs = std::env::var("POISONTRACE_MUTATED_INPUTS").ok();
    let inputs = inputs.and_then(|text| text.parse().ok()).unwrap_or(INPUTS);
    let seeds = seeds();
    let seed = std::env::var("POISONTRACE_MUTATED_SEED").ok();
    let mut random = Random(seed.and_then(|text| text.parse().ok()).unwrap_or(0x7074_7263));
    let mut answers = String::new();
    for n in 0..inputs {
        let (name, seed) = &seeds[random.below(seeds.len())];
        let bytes = mutated(seed, &mut random);
        let digest = std::panic::catch_unwind(|| answer("input".to_owned(), bytes.clone()));
        let digest = digest.unwrap_or_else(|_| {
            let file = std::env::temp_dir().join("poisontrace-mutated");
            fs::write(&file, &bytes).unwrap();
            panic!("input {n}, of {name}, panics: {}", file.display())
        });
        writeln!(answers, "{digest:016x}").unwrap();
    }
    if let Some(file) = std::env::var_os("POISONTRACE_MUTATED_ANSWERS") {
        fs::write(file, answers).unwrap();
    }
}
