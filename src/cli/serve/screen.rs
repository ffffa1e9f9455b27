//! The display of a service on a terminal, instead of its log: where it listens and what to do next, one line for each event,
//! and at the end what is left. Warnings and errors of the log appear between these lines. A terminal that takes no text
//! (Ctrl-S) delays neither the start nor the shutdown.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::timeout;

use super::super::{
    GlobalArgs, event_line,
    live_events::{EventSource, LiveEvents},
    output::{self, plural},
};
use crate::{
    app::App,
    config::{Config, Roles},
    lifecycle::ShutdownOutcome,
    queue::{QueueKind, TailEvent, TailEventKind},
    shell,
    telemetry::LogConfig,
};

/// Time to count what is left in the queue.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns true if a service shows events: on a terminal, unless the log has a configured format.
pub(in crate::cli) fn is_wanted(log: &LogConfig) -> bool {
    log.format.is_none() && io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// The screen of a running service.
#[derive(Debug)]
pub(super) struct Screen {
    events: LiveEvents,
}

impl Screen {
    /// Shows the start, and the events since `started_at`, when the services began to start.
    pub(super) async fn start(
        global: &GlobalArgs,
        config: &Config,
        roles: Roles,
        app: &App,
        started_at: Timestamp,
    ) -> Self {
        // First: a delivery may come while the lines are written.
        let source = EventSource::open(config, app.queue(), started_at);
        output::lines_without_waiting(start_lines(global, config, roles, app)).await;
        let events = LiveEvents::start(source, move |event| {
            if is_about(event, roles) {
                output::line(event_line::format_event(event, output::terminal_width()));
            }
        });
        Self { events }
    }

    /// Shows the last events, and what is left in the queue. Call it before the queue is closed.
    pub(super) async fn stop(self, app: &App, outcome: ShutdownOutcome) {
        self.events.stop().await;
        let mut lines = vec![format!("\nstopped: {}", outcome.meaning())];
        let depths = timeout(COUNT_TIMEOUT, app.queue().queue.depths()).await;
        lines.extend(depths.ok().and_then(Result::ok).map(|depths| left_lines(&depths)).unwrap_or_default());
        output::lines_without_waiting(lines).await;
    }
}

/// Several processes may share the file of the embedded queue.
fn is_about(event: &TailEvent, roles: Roles) -> bool {
    !roles.only_receives() || event.what == TailEventKind::Delivery
}

fn start_lines(global: &GlobalArgs, config: &Config, roles: Roles, app: &App) -> Vec<String> {
    let mut lines =
        vec![format!("{}; Ctrl-C stops it", output::bold(concat!("polyhook ", env!("CARGO_PKG_VERSION"))))];
    let mut field = |name: &str, value: &str| lines.push(format!("  {name:<9} {}", output::sanitize(value)));
    if let Some(address) = app.public_address() {
        field("receiver", &format!("http://{address}{}", config.server.path));
    }
    if let Some(address) = app.admin_address() {
        field("health", &format!("http://{address}/readyz, /livez and /metrics"));
    }
    if let Some(address) = app.console_address() {
        field("console", &format!("http://{address}"));
    }
    field("queue", &config.queue.address());
    if roles.work || roles.reconcile || roles == Roles::CONSOLE {
        field("archive", &config.archive.url);
    }
    lines.push("Next, in another terminal:".to_owned());
    let flag = |path: PathBuf| format!(" --config {}", shell::quote(&path.display().to_string()));
    let flag = global.config_file().map(flag).unwrap_or_default();
    let mut next = |purpose: &str, command: &str| {
        lines.push(format!("  {purpose:<12} polyhook {}", output::sanitize(command)));
    };
    if roles.receive {
        next("try it", &format!("send{flag}"));
        next("register it", "endpoint create --help");
    }
    next("look at it", &format!("status{flag}"));
    lines.push(output::dimmed("Each event is a line below. For the whole log: --set log.format=pretty"));
    lines.push(String::new());
    lines
}

/// Returns what happens to the messages that are left.
fn left_lines(depths: &[(QueueKind, u64)]) -> Vec<String> {
    let count = |wanted: &[QueueKind]| -> u64 {
        depths.iter().filter(|(kind, _)| wanted.contains(kind)).map(|(_, count)| count).sum()
    };
    let (jobs, later, dead) = (
        count(&[QueueKind::Fetch, QueueKind::Retry]),
        count(&[QueueKind::Refresh]),
        count(&[QueueKind::Dead]),
    );
    let mut lines = vec![match jobs {
        0 => "  no job waits".to_owned(),
        jobs => plural(
            jobs,
            "  1 job waits and continues at the next start",
            "  {} jobs wait and continue at the next start",
        ),
    }];
    if later > 0 {
        lines.push(plural(later, "  1 later fetch is scheduled", "  {} later fetches are scheduled"));
    }
    if dead > 0 {
        lines.push(plural(
            dead,
            "  1 dead letter: polyhook dead list",
            "  {} dead letters: polyhook dead list",
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_left() {
        use QueueKind::{Dead, Fetch, Refresh, Retry};
        assert_eq!(left_lines(&[(Fetch, 0), (Retry, 0), (Refresh, 0), (Dead, 0)]), ["  no job waits"]);
        assert_eq!(
            left_lines(&[(Fetch, 1), (Retry, 2), (Refresh, 1), (Dead, 4)]),
            [
                "  3 jobs wait and continue at the next start",
                "  1 later fetch is scheduled",
                "  4 dead letters: polyhook dead list"
            ]
        );
    }
}
