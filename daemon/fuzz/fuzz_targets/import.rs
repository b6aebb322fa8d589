//! Arbitrary files through the entry point of every import: their format is detected, their content becomes incidents.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use poisontrace_import as import;

/// Separates two files.
const SEPARATOR: &[u8] = b"\n--8<--\n";

fuzz_target!(|data: &[u8]| {
    let mut files = Vec::new();
    let mut rest = data;
    while files.len() < 4 {
        let end = rest
            .windows(SEPARATOR.len())
            .position(|window| window == SEPARATOR);
        let file = &rest[..end.unwrap_or(rest.len())];
        files.push((format!("file {}", files.len()), Cursor::new(file.to_vec())));
        match end {
            Some(end) => rest = &rest[end + SEPARATOR.len()..],
            None => break,
        }
    }
    if let Ok(imported) = import::read_inputs(files, true) {
        // The answer must be writable for any input.
        for incident in imported.incidents {
            serde_json::to_string(&poisontrace_report::document(incident)).expect("an incident is JSON");
        }
    }
});
