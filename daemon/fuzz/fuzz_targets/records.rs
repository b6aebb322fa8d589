//! Records of the ring buffer, decoded and correlated in sequence.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace_model::{correlate::Correlator, event::{decode::{DecodeError, Decoder}, session::Session}};

/// More than the longest record; that of KVM_SET_MSRS has a variable length.
const LONGEST: usize = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    let decoder = Decoder::default();
    let mut correlator = Correlator::new(Session::default());
    let mut rest = data;
    for _ in 0..4096 {
        if rest.is_empty() {
            break;
        }
        // A record of a known kind has a fixed length; spare the fuzzer the search for it.
        let taken = match decoder.decode(rest) {
            Err(DecodeError::Length { expected, .. }) if expected <= LONGEST => {
                let mut record = rest[..rest.len().min(expected)].to_vec();
                record.resize(expected, 0);
                if let Ok(event) = decoder.decode(&record) {
                    correlator.feed(&event);
                }
                expected
            }
            Ok(event) => {
                correlator.feed(&event);
                rest.len()
            }
            Err(_) => 8,
        };
        rest = &rest[taken.min(rest.len())..];
    }
    for incident in correlator.incidents() {
        serde_json::to_string(&poisontrace_report::document(incident)).expect("an incident is JSON");
    }
});
