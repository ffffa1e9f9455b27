//! The overview: is anything lost, late or stuck?
//!
//! The page and the part that its script loads every two seconds come from the same code. It waits for a source for at most
//! [`PATIENCE`], and then shows what is known and which source is late.

mod samples;
mod sparkline;
mod stages;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, extract::State, response::Html, routing::get};
use jiff::Timestamp;
use maud::{Markup, html};

use self::{
    samples::{INTERVAL, Samples},
    sparkline::sparkline,
    stages::STAGES,
};
use super::{
    Console,
    access::Viewer,
    format,
    layout::{Page, Section},
};
use crate::{
    clock::Clock,
    lifecycle::Lifecycle,
    status::{
        LateSource, LatestStatus, Sentence, Source, StatusReader, StatusReport, Tone, Topic, findings,
        headline, sentences,
    },
    wording::duration,
};

/// The time that a page waits for a source.
const PATIENCE: Duration = Duration::from_millis(800);
/// The sources whose numbers are sampled, and the age at which a page reads them again.
const FAST_SOURCES: [Source; 3] = [Source::Queue, Source::Spool, Source::Process];
const FAST_MAX_AGE: Duration = Duration::from_secs(1);
/// The sources in the archive, which change about once a minute and may cost money.
const ARCHIVE_SOURCES: [Source; 3] = [Source::LastPass, Source::LastAudit, Source::Index];
const ARCHIVE_MAX_AGE: Duration = Duration::from_secs(10);
/// The time after which the page says that a number is old.
const OLD: Duration = Duration::from_secs(3);

/// What the overview knows: the state of the installation, and the numbers of the last hour.
#[derive(Debug)]
pub struct Overview {
    status: LatestStatus,
    samples: Mutex<Samples>,
    clock: Clock,
}

impl Overview {
    /// Reads nothing yet.
    pub fn new(reader: StatusReader, clock: Clock, lifecycle: Lifecycle) -> Self {
        Self { status: LatestStatus::new(reader, lifecycle), samples: Mutex::default(), clock }
    }

    /// Takes a sample every `INTERVAL`, until it is cancelled.
    pub async fn take_samples(&self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.status.refresh(&FAST_SOURCES, INTERVAL / 2, INTERVAL / 2).await;
            self.add_sample(&self.status.report());
        }
    }

    /// Returns the number of jobs that failed and wait for their next attempt, if the queue answers in time.
    pub(super) async fn retry_jobs(&self) -> Option<u64> {
        self.status.refresh(&[Source::Queue], FAST_MAX_AGE, PATIENCE).await;
        self.status.report().queue.known().map(|queue| queue.retry_jobs)
    }

    fn add_sample(&self, report: &StatusReport) {
        let numbers = STAGES.map(|stage| stage.number(report).value);
        self.samples().add(self.clock.elapsed(), numbers);
    }

    fn samples(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is too old, and renders what is known then.
    async fn render(&self) -> Markup {
        tokio::join!(
            self.status.refresh(&FAST_SOURCES, FAST_MAX_AGE, PATIENCE),
            self.status.refresh(&ARCHIVE_SOURCES, ARCHIVE_MAX_AGE, PATIENCE),
        );
        let report = self.status.report();
        html! {
            (Self::headline(&report))
            (self.attention(&report))
            (self.stages(&report))
            (self.facts(&report))
            (self.footer(report.checked_at))
        }
    }

    fn headline(report: &StatusReport) -> Markup {
        let Sentence { text, tone, topic } = headline(report, format::age);
        let style = tone_class(tone, "good");
        // The script reads the sentence aloud when its subject or tone changes, not with each number.
        html! {
            p class={ "headline notice " (style) } data-part="headline" data-kind={ (topic.label()) " " (style) } {
                (format::own_text(&text)) (link_of(topic))
            }
        }
    }

    /// Returns everything else that a person should look at, and the sources that are late.
    fn attention(&self, report: &StatusReport) -> Markup {
        let others: Vec<_> = findings(report, format::age).into_iter().skip(1).collect();
        let mut late: Vec<String> = Vec::new();
        for source in self.old_sources() {
            let name = source.source.name();
            let text = match source.age {
                None => format!("{name} has not answered yet."),
                Some(age) => {
                    format!("{name} has not answered for {}: its numbers are that old.", format::age(age))
                }
            };
            if !late.contains(&text) {
                late.push(text);
            }
        }
        html! {
            div data-part="attention" {
                @if !others.is_empty() || !late.is_empty() {
                    ul class="attention" {
                        @for Sentence { text, tone, topic } in &others {
                            li class=(tone_class(*tone, "quiet")) {
                                (format::own_text(text))
                                (link_of(*topic))
                            }
                        }
                        @for text in &late { li class="warn" { (text) } }
                    }
                }
            }
        }
    }

    /// Returns the sources that are so late that a person should know it.
    fn old_sources(&self) -> impl Iterator<Item = LateSource> {
        self.status.late_sources().into_iter().filter(|source| source.age.is_none_or(|age| age >= OLD))
    }

    /// Returns the age of a fact that is old.
    fn age_of(&self, topic: Topic) -> Option<Duration> {
        let source = match topic {
            Topic::Polyhook => return None,
            Topic::Spool => Source::Spool,
            Topic::LastPass => Source::LastPass,
            Topic::LastAudit => Source::LastAudit,
            Topic::Index => Source::Index,
            Topic::Process => Source::Process,
            Topic::Queue
            | Topic::Waiting
            | Topic::InFlight
            | Topic::Delayed
            | Topic::Dead
            | Topic::Unrouted => Source::Queue,
        };
        self.old_sources().find(|late| late.source == source)?.age
    }

    fn stages(&self, report: &StatusReport) -> Markup {
        let (samples, now) = (self.samples(), self.clock.elapsed());
        html! {
            ol class="stages" {
                @for (index, stage) in STAGES.iter().enumerate() {
                    @let number = stage.number(report);
                    li.warn[number.is_warning] data-part=(stage.name) {
                        a href=(stage.href) { (stage.name) }
                        span.value.missing[number.value.is_none()] {
                            @if let Some(value) = number.value { (value) } @else if number.exists { "unknown" } @else { "–" }
                        }
                        span class="note" { (number.note.markup()) }
                        @if number.exists { (sparkline(&samples.line(index, now), stage.kind)) }
                    }
                }
            }
        }
    }

    /// Returns every fact with its time, and the conditions of the process.
    fn facts(&self, report: &StatusReport) -> Markup {
        let time_of = |topic| match topic {
            Topic::LastPass => report.last_pass.known().map(|pass| pass.started_at),
            Topic::LastAudit => report.last_audit.known().map(|audit| audit.audited_at),
            Topic::Index => report.index.known().map(|pass| pass.started_at),
            _ => None,
        };
        let conditions = report.process.known().map(|process| &process.conditions);
        html! {
            section data-part="facts" aria-labelledby="facts" {
                h2 id="facts" { "State" }
                dl class="facts" {
                    @for Sentence { topic, text, tone } in sentences(report, format::age) {
                        dt id=[(topic == Topic::Spool).then_some("spool")] { (topic.label()) }
                        dd class=(tone_class(tone, "plain")) {
                            (format::own_text(&text))
                            @if let Some(at) = time_of(topic) { " (" (format::time(at)) ")" }
                            (old(self.age_of(topic)))
                        }
                    }
                    @if let Some(conditions) = conditions {
                        dt { "conditions" }
                        @if conditions.is_empty() { dd {
                            "none: /readyz reports nothing that a person should fix"
                            (old(self.age_of(Topic::Process)))
                        } }
                        @for condition in conditions {
                            dd { (format::badge("warn", &condition.name)) " " (format::own_text(&condition.text)) }
                        }
                    }
                }
            }
        }
    }

    fn footer(&self, now: Timestamp) -> Markup {
        let (samples, elapsed) = (self.samples(), self.clock.elapsed());
        html! {
            p class="quiet" data-part="footer" {
                "Checked at " (format::time(now)) ". The lines show the last " (duration(samples.length(elapsed)))
                @if let Some(since) = samples.known_since(elapsed, now) {
                    "; this console knows them since " (format::time(since))
                }
                ". " a href="/" { "Refresh" }
            }
        }
    }
}

pub(super) fn routes() -> Router<Arc<Console>> {
    Router::new().route("/", get(page)).route("/overview/now", get(part))
}

async fn page(State(console): State<Arc<Console>>, _viewer: Viewer) -> Page {
    let body = html! {
        h1 { "Overview" }
        p class="notice bad" id="overview-offline" hidden { "polyhook does not answer. The numbers are old; this page tries again." }
        p class="visually-hidden" id="overview-news" role="status" {}
        div id="overview" data-source="/overview/now" { (console.overview.render().await) }
    };
    Page::new(Section::Overview, "Overview", body).with_asset("overview.css").with_asset("overview.js")
}

/// The part of the page that changes.
async fn part(State(console): State<Arc<Console>>, _viewer: Viewer) -> Html<String> {
    Html(console.overview.render().await.into_string())
}

/// Returns the style of a tone. `plain` is the style of a fact that is in order.
fn tone_class(tone: Tone, plain: &'static str) -> &'static str {
    match tone {
        Tone::Plain => plain,
        Tone::Minor => "quiet",
        Tone::Warning => "warn",
        Tone::Failure => "bad",
    }
}

/// Returns a link to the page that explains a fact.
fn link_of(topic: Topic) -> Markup {
    let link = match topic {
        Topic::Dead => Some(("/dead", "Dead letters")),
        Topic::Delayed => Some(("/live?outcome=retry", "Live")),
        Topic::Waiting | Topic::InFlight => Some(("/live?kind=job", "Live")),
        _ => None,
    };
    html! { @if let Some((href, name)) = link { " " a href=(href) { (name) } } }
}

/// Returns a badge with the age of a fact that is old.
fn old(age: Option<Duration>) -> Markup {
    html! { @if let Some(age) = age { " " (format::badge("warn", &format!("{} old", format::age(age)))) } }
}

#[cfg(test)]
mod tests;
