//! The daemon's configuration (TOML), and the web configuration (YAML).

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace::config;
use poisontrace_http as http;

fuzz_target!(|text: &str| {
    match config::parse(text) {
        Ok(config) => drop(config.problems()),
        Err((at, _)) => assert!(at <= text.len(), "an error beyond the text"),
    }
    let _ = http::check_web_config(text);
});
