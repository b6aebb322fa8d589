//! The screen.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Paragraph, Row, Sparkline, Table, TableState, Wrap},
};

use super::{scrape::Metrics, state::State};
use poisontrace_model::incident::model::Outcome;
use poisontrace_report::{
    document::Incident,
    forecast::counted,
    screen::{self, Count, Title},
};

/// A screen of fewer lines has no room for the forecast.
const WITH_FORECAST: u16 = 28;

pub fn draw(frame: &mut Frame<'_>, state: &State) {
    let forecast_lines = match frame.area().height {
        WITH_FORECAST.. => 4,
        _ => 0,
    };
    let [head, before, exits, list, answer, probes, keys] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(forecast_lines),
        Constraint::Length(4),
        Constraint::Min(5),
        Constraint::Length(7),
        Constraint::Length(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    numbers(frame, head, state);
    forecast(frame, before, state);
    rates(frame, exits, state);
    incidents(frame, list, state);
    selected(frame, answer, state);
    health(frame, probes, state);
    frame.render_widget(Paragraph::new(format!(" {}", screen::KEYS)).style(dim()), keys);
}

/// NO_COLOR is respected: weight is left to mark things.
fn colour(colour: Color) -> Style {
    if console::colors_enabled() {
        Style::new().fg(colour)
    } else {
        Style::new()
    }
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold(style: Style) -> Style {
    style.add_modifier(Modifier::BOLD)
}

fn block(title: Title<'_>) -> Block<'static> {
    Block::bordered().title(format!(" {title} ")).border_style(dim())
}

/// A number with its label; `bad`: it is bad news above 0.
fn count(count: Count, value: Option<f64>, bad: bool) -> [Span<'static>; 3] {
    let style = match value {
        Some(value) if bad && value > 0.0 => bold(colour(Color::Red)),
        _ => Style::new(),
    };
    [
        Span::raw(format!(" {} ", count.label())),
        Span::styled(number(value), style),
        Span::raw("  "),
    ]
}

/// `?` is not known.
fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| format!("{value:.0}"))
}

fn numbers(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let line = match &state.metrics {
        Err(why) => Line::from(Span::styled(format!(" {why}"), colour(Color::Yellow))),
        Ok(metrics) => {
            let get = |name: &str| metrics.sum(&format!("poisontrace_{name}"));
            let mut spans: Vec<Span<'_>> = [
                count(Count::Vms, get("vms"), false),
                count(Count::AtRisk, get("guests_at_risk"), true),
                count(Count::Open, get("incidents_open"), false),
                count(Count::PoisonedPages, get("poisoned_pages"), false),
                count(Count::EventsLost, get("events_lost_total"), true),
                count(Count::Missed, get("memory_failures_missed_total"), true),
            ]
            .concat();
            if get("store_up") == Some(0.0) {
                spans.push(Span::styled(
                    format!(" {}", screen::STORE_DOWN),
                    bold(colour(Color::Red)),
                ));
            }
            Line::from(spans)
        }
    };
    frame.render_widget(Paragraph::new(line).block(block(Title::Host)), area);
}

/// What an error would do to the VMs, before it happens.
fn forecast(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let counts = state.metrics.as_ref().ok().and_then(Metrics::forecast);
    let lines = match &counts {
        None => vec![Line::styled(format!(" {}", screen::NO_FORECAST), dim())],
        Some(counts) => {
            let style = match counts.lost {
                0 => Style::new(),
                _ => bold(colour(Color::Yellow)),
            };
            let pairs = counts
                .by_headline
                .iter()
                .map(|((outcome, cause), vms)| format!("{outcome}, {cause}: {vms}"));
            vec![
                Line::styled(format!(" {}", counted(&counts.totals())), style),
                Line::raw(format!(" {}", pairs.collect::<Vec<_>>().join("   "))),
            ]
        }
    };
    let lines = Paragraph::new(lines).block(block(Title::Forecast));
    frame.render_widget(lines, area);
}

fn rates(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let last = state.rates.last().copied();
    let room = usize::from(area.width.saturating_sub(2));
    let newest = &state.rates[state.rates.len().saturating_sub(room)..];
    let line = Sparkline::default()
        .data(newest)
        .style(colour(Color::Red))
        .block(block(Title::Rate(last)));
    frame.render_widget(line, area);
}

fn incidents(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let incidents = match &state.incidents {
        Ok(incidents) => incidents,
        Err(why) => {
            let why = Paragraph::new(why.as_str()).wrap(Wrap { trim: true });
            return frame.render_widget(
                why.style(colour(Color::Yellow)).block(block(Title::Incidents)),
                area,
            );
        }
    };
    if incidents.is_empty() {
        let none = Paragraph::new(format!(" {}", screen::NO_INCIDENTS)).block(block(Title::Incidents));
        return frame.render_widget(none, area);
    }
    let rows = incidents.iter().map(|incident| {
        Row::new([
            began(incident),
            incident.vm.name.clone().unwrap_or_else(|| "?".to_owned()),
            incident.outcome.to_string(),
            incident.cause.to_string(),
            number(incident.exits.count.map(|count| count as f64)),
        ])
        .style(of_outcome(incident.outcome))
    });
    let widths = [
        Constraint::Length(19),
        Constraint::Min(10),
        Constraint::Length(14),
        Constraint::Length(18),
        Constraint::Length(9),
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(screen::COLUMNS).style(dim()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(block(Title::NewestFirst));
    let mut at = TableState::default().with_selected(state.selected());
    frame.render_stateful_widget(table, area, &mut at);
}

fn began(incident: &Incident) -> String {
    let began = incident.started_at.as_deref().unwrap_or("?");
    began.chars().take(19).collect::<String>().replace('T', " ")
}

fn of_outcome(outcome: Outcome) -> Style {
    match outcome {
        Outcome::GuestPanicked
        | Outcome::HostPanicked
        | Outcome::GuestReset
        | Outcome::VmmKilled
        | Outcome::VmmExited => colour(Color::Red),
        Outcome::Survived | Outcome::Unaffected => colour(Color::Green),
        Outcome::Running | Outcome::Unknown => colour(Color::Yellow),
    }
}

fn selected(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let incident = state
        .incidents
        .as_ref()
        .ok()
        .zip(state.selected())
        .and_then(|(all, at)| all.get(at));
    let mut lines = Vec::new();
    if let Some(incident) = incident {
        lines.push(Line::styled(incident.summary.as_str(), bold(Style::new())));
        lines.extend(
            incident
                .next_steps
                .iter()
                .map(|step| Line::raw(format!("- {step}"))),
        );
    }
    let title = incident.map_or(Title::Answer, |incident| Title::Of(&incident.id));
    let answer = Paragraph::new(lines)
        .wrap(Wrap { trim: true })
        .block(block(title));
    frame.render_widget(answer, area);
}

fn health(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let lines = match &state.metrics {
        Ok(metrics) => probes(metrics),
        Err(_) => vec![Line::raw(format!(" {}", screen::NO_PROBES))],
    };
    let probes = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(block(Title::Probes));
    frame.render_widget(probes, area);
}

fn probes(metrics: &Metrics) -> Vec<Line<'static>> {
    let all: Vec<(&str, f64)> = metrics.by("poisontrace_probe_attached", "probe").collect();
    let absent: Vec<&str> = all
        .iter()
        .filter(|(_, on)| *on == 0.0)
        .map(|(name, _)| *name)
        .collect();
    let attached = screen::attached(all.len() - absent.len(), all.len());
    let mut line = vec![Span::raw(format!(" {attached}"))];
    if !absent.is_empty() {
        line.push(Span::styled(screen::unavailable(&absent), colour(Color::Yellow)));
    }
    vec![Line::from(line)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::{Terminal, backend::TestBackend};

    fn screen(width: u16, height: u16, state: &State) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_host_without_daemon_and_store_says_what_to_do_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::new(dir.path().to_owned(), None);
        state.refresh();
        let screen = screen(160, 30, &state);
        assert!(screen.contains("listens nowhere"), "{screen}");
        assert!(screen.contains("no incidents are stored"), "{screen}");
    }

    #[test]
    fn what_an_error_would_do_stands_above_what_it_did() {
        let mut state = State::new("/nowhere".into(), None);
        state.metrics = Ok(Metrics::parse(
            "poisontrace_vms_by_forecast{cause=\"mce_overflow\",outcome=\"guest_panicked\"} 3\n\
             poisontrace_vms_by_forecast{cause=\"unknown\",outcome=\"unknown\"} 1\n\
             poisontrace_vms_lost_by_forecast{saved_by=\"none\"} 1\n\
             poisontrace_vms_lost_by_forecast{saved_by=\"setting\"} 2\n",
        ));
        let screen = screen(160, 30, &state);
        assert!(
            screen.contains("3 of 4 guests would not survive a memory error"),
            "{screen}"
        );
        assert!(
            screen.contains("2 of them for a reason that a setting mends; for 1"),
            "{screen}"
        );
        assert!(screen.contains("guest_panicked, mce_overflow: 3"), "{screen}");
    }

    #[test]
    fn any_size_of_terminal_can_be_drawn_on() {
        let state = State::new("/nowhere".into(), None);
        for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
            screen(width, height, &state);
        }
    }
}
