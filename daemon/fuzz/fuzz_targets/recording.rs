//! A recording, complete or truncated, replayed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace_model::correlate::Correlator;
use poisontrace_recording::Reader;

fuzz_target!(|data: &[u8]| {
    let Ok(mut reader) = Reader::new(data, true) else {
        return;
    };
    let mut correlator = Correlator::new(reader.session().clone());
    while let Ok(Some(event)) = reader.next_event() {
        correlator.feed(&event);
    }
    for incident in correlator.incidents() {
        serde_json::to_string(&poisontrace_report::document(incident)).expect("an incident is JSON");
    }
});
