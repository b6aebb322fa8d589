//! Bytes from a network client.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poisontrace_http::{Ready, converse};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    runtime::Builder,
};

/// Larger than any input, so that no write blocks.
const BUFFER: usize = 1 << 20;
const METRICS: &str = "poisontrace_vms 3\n";

fuzz_target!(|sent: &[u8]| {
    let Ok(runtime) = Builder::new_current_thread().enable_time().build() else {
        return;
    };
    let answer = runtime.block_on(async {
        let (mut client, server) = duplex(BUFFER);
        let talk = async {
            client.write_all(sent).await.ok();
            client.shutdown().await.ok();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.ok();
            answer
        };
        tokio::join!(converse(server, Ready::Yes, METRICS), talk).1
    });
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.") || answer.starts_with(b"HTTP/0.9"),
        "no answer of HTTP's"
    );
});
