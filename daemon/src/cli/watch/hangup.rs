//! Ends the view when its terminal hangs up or a signal asks for it, whatever the main thread is doing: crossterm goes
//! on reading a terminal that is gone, without end, and a store or a daemon may be slow to answer.

use std::{
    io,
    process::exit,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use ratatui::crossterm::terminal::disable_raw_mode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Between two looks at the signals.
const LOOK: Duration = Duration::from_millis(100);
/// For the main thread to end by itself.
const GRACE: Duration = Duration::from_millis(400);
/// Leaves the alternate screen and shows the cursor.
const RESTORE: &[u8] = b"\x1b[?1049l\x1b[?25h";

/// Sets `stop` when the terminal hangs up, and ends the process if the main thread does not.
///
/// # Errors
/// If there can be no more threads.
pub fn guard(stop: Arc<AtomicBool>) -> io::Result<()> {
    thread::Builder::new().name("hangup".to_owned()).spawn(move || {
        while !stop.load(Ordering::Relaxed) && !hung_up(LOOK) {}
        stop.store(true, Ordering::Relaxed);
        thread::sleep(GRACE);
        let _ = disable_raw_mode();
        // On a thread of its own: a stopped terminal (^S) takes nothing.
        thread::spawn(|| rustix::io::write(io::stdout(), RESTORE));
        thread::sleep(LOOK);
        exit(0);
    })?;
    Ok(())
}

/// Waits for a hang-up, at most `time`.
fn hung_up(time: Duration) -> bool {
    let stdin = io::stdin();
    // No event is asked for: hang-up and errors are reported always.
    let mut terminal = [PollFd::new(&stdin, PollFlags::empty())];
    let time = Timespec::try_from(time).ok();
    match poll(&mut terminal, time.as_ref()) {
        Ok(0) => false,
        Ok(_) => true,
        Err(_) => {
            thread::sleep(LOOK);
            false
        }
    }
}
