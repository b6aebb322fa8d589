//! `poisontrace watch`: a full screen that follows the daemon. It reads what anybody may: /metrics for rates and health, the
//! store for incidents. The terminal is left as it was found, whatever ends it.

mod hangup;
mod scrape;
mod state;
mod view;

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{Outcome, SourceArgs, WatchArgs};
use crate::failure::Failure;
use state::State;

/// How often the daemon and the store are asked.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a key or a signal may wait.
const PATIENCE: Duration = Duration::from_millis(100);

pub fn watch(args: &WatchArgs, source: &SourceArgs) -> Outcome {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "watch needs a terminal: use `poisontrace incidents --format json` for the store, /metrics for the rates",
        ));
    }
    let dir = source.state_dir(args.state.state_dir.as_ref())?;
    let url = match &args.metrics {
        Some(url) => Some(url.clone()),
        None => source.layers().read()?.web.listen_address.0.map(url_of),
    };
    let mut state = State::new(dir, url);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    // Also gives the terminal back on a panic.
    let mut terminal = ratatui::try_init()?;
    hangup::guard(Arc::clone(&stop))?;
    let result = follow(&mut terminal, &mut state, &stop);
    // Neither may complain on a terminal that is gone, as dropping `terminal` would.
    let _ = terminal.show_cursor();
    std::mem::forget(terminal);
    let _ = ratatui::try_restore();
    match result {
        Err(failure) if !stop.load(Ordering::Relaxed) => Err(failure),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Where a daemon that listens on `address` is asked: on all addresses means on this machine's too.
fn url_of(mut address: std::net::SocketAddr) -> String {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}/metrics")
}

fn follow(
    terminal: &mut ratatui::DefaultTerminal,
    state: &mut State,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let mut refresh_at = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= refresh_at {
            state.refresh();
            refresh_at = Instant::now() + REFRESH;
        }
        terminal.draw(|frame| view::draw(frame, state))?;
        if event::poll(PATIENCE)?
            && let Event::Key(key) = event::read()?
            && !press(state, key)
        {
            break;
        }
    }
    Ok(())
}

/// Returns false where the key ends it.
fn press(state: &mut State, key: KeyEvent) -> bool {
    if key.kind == KeyEventKind::Release {
        return true;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        // In raw mode a terminal sends no SIGINT.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Down | KeyCode::Char('j') => state.select(1),
        KeyCode::Up | KeyCode::Char('k') => state.select(-1),
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::url_of;

    #[test]
    fn a_daemon_on_all_addresses_is_asked_on_this_machine() {
        assert_eq!(
            url_of(([0, 0, 0, 0], 9847).into()),
            "http://127.0.0.1:9847/metrics"
        );
        assert_eq!(url_of(([10, 0, 0, 1], 80).into()), "http://10.0.0.1:80/metrics");
    }
}
