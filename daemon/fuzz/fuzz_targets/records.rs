//! Records of the ring buffer: one after another, decoded and correlated.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace_model::{correlate::Correlator, event::{decode::{DecodeError, Decoder}, session::Session}};

/// Longest record, and more: that of KVM_SET_MSRS says its own length.
const LONGEST: usize = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    let decoder = Decoder::default();
    let mut correlator = Correlator::new(Session::default());
    let mut rest = data;
    for _ in 0..4096 {
        if rest.is_empty() {
            break;
        }
        // A record of a known kind has one length; the fuzzer need not find it.
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
        serde_json::to_string(&incident).expect("an incident is JSON");
    }
});
