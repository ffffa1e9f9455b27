//! What is known of PolyAI's list: the times up to which it was read, the windows that are still to be read, and the calls
//! that have not settled.
//!
//! Each pass adds the window of the calls that started since the last pass. Later the same calls are read again at growing
//! ages ([`ages`]), because PolyAI may list a call late. A window leaves the progress when it was read and everything in it
//! that is missing was queued. So a pass can fail or end anywhere, and nothing is forgotten.
//!
//! The progress is one small object in the archive. If it is lost, or does not fit the configuration any more,
//! [`ProjectProgress::restart`] adds the whole lookback.

use std::{cmp::Reverse, collections::BTreeMap, fmt, ops::Range, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::{ReconcileConfig, results::PassResults};
use crate::polyai::{Api, ListedConversation};

/// Changes when an older version could not use the object.
const VERSION: u32 = 1;
/// The ages at which calls are read again, if they are below the lookback. The first one is for calls that PolyAI lists only
/// when they are over.
const AGES: [Duration; 3] = [Duration::from_mins(10), Duration::from_hours(1), Duration::from_hours(6)];
/// The parts of an age that are read in one go. More parts mean more requests, and the same number of conversations.
const PARTS_PER_AGE: u32 = 6;
/// A pass reads again what started this part of its interval before the last pass: PolyAI's clock may differ, and a call may
/// be listed a moment after its start.
const OVERLAP_PARTS: u32 = 2;
const MAX_OVERLAP: Duration = Duration::from_mins(5);
/// PolyAI may list a call only when it is over. While that is not known, each pass reads again what started within this time.
const FIRST_REACH: Duration = Duration::from_mins(15);
/// The most that each pass reads again because calls are listed late.
const MAX_REACH: Duration = Duration::from_mins(30);
/// After this number of calls in a row that were listed while they were in progress, calls are listed in time.
const CALLS_IN_TIME: u32 = 5;
/// The longest window, and the shortest into which a failing or slow one is split.
const MAX_WINDOW: Duration = Duration::from_hours(24);
pub(super) const MIN_WINDOW: Duration = Duration::from_mins(1);
/// The shortest windows into which the list is cut because windows take too long.
const MIN_CUT_WINDOW: Duration = Duration::from_mins(15);
/// A window of which no call is older has the new calls.
const RECENT: Duration = Duration::from_mins(45);
/// The number of calls that are followed. Those beyond are found when they are listed again.
const MAX_CALLS: usize = 10_000;
/// A window that fails is tried again after at most this time.
const MAX_RETRY_DELAY: Duration = Duration::from_hours(1);
/// A call in progress is looked at again after this part of its age.
const LOOKS_PER_AGE: u32 = 16;
/// After a longer pause the calls of its beginning are left to `polyhook backfill`.
const MAX_PAUSE: Duration = Duration::from_hours(31 * 24);
/// A clock of another process may be this far ahead.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_mins(2);

/// The progress of all projects.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    #[serde(default)]
    version: u32,
    #[serde(default)]
    pub(super) projects: Vec<ProjectProgress>,
    #[serde(default)]
    pub(super) results: PassResults,
}

/// The progress of one project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProjectProgress {
    account_id: String,
    project_id: String,
    /// The environments and the lookback that it covers.
    environments: Vec<String>,
    lookback_s: u64,
    /// All calls that started before this time were read, or are in `windows`.
    pub(super) listed_until: Timestamp,
    /// `listed_until` before the present pass. The earliest time if that pass read the whole lookback.
    last_pass: Timestamp,
    /// The same as `listed_until` for each age, in seconds: calls that were read at this age.
    verified_until: BTreeMap<u64, Timestamp>,
    /// The windows that are to be read.
    pub(super) windows: Vec<Window>,
    /// The calls that were listed before they had settled.
    pub(super) calls: Vec<UnsettledCall>,
    /// False if PolyAI's list cannot be filtered by time (Data API), so that one list from now back to the oldest window is
    /// cheaper than many.
    pub(super) filters_by_time: bool,
    /// The longest window for this project, in seconds. It becomes shorter while windows take too long.
    window_s: u64,
    /// Each pass reads again what started within this time before the last one, in seconds, because PolyAI lists calls late.
    /// 0: it lists them while they are in progress.
    reach_s: u64,
    /// The number of calls since the last late one that were listed while they were in progress.
    calls_in_time: u32,
    /// The latest unreadable entry of the list, within the lookback.
    pub(super) unreadable: Option<UnreadableEntry>,
}

/// A part of the list: the calls of one environment that started in a period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    pub(super) from: Timestamp,
    /// Not included.
    pub(super) to: Timestamp,
    pub(super) environment: String,
    /// Set if it was tried in vain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<WindowFailure>,
}

/// The failed attempts to read a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WindowFailure {
    pub(super) reason: String,
    pub(super) retry_at: Timestamp,
    /// Attempts that failed while others succeeded.
    attempts: u32,
}

/// A call that was listed in progress, or just after its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UnsettledCall {
    pub(super) id: String,
    pub(super) environment: Option<String>,
    pub(super) started_at: Option<Timestamp>,
    /// `None` while it is in progress.
    pub(super) ended_at: Option<Timestamp>,
    pub(super) listed_at: Timestamp,
    /// It is left alone until then.
    #[serde(default)]
    pub(super) look_at: Timestamp,
}

/// An entry of the list without an id, or a damaged one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UnreadableEntry {
    pub(super) place: String,
    pub(super) seen_at: Timestamp,
}

impl Progress {
    /// Reads the object. One that is damaged, or that a later version wrote, counts as lost.
    pub(super) fn parse(object: &[u8]) -> Self {
        let parsed: Option<Self> = serde_json::from_slice(object).ok();
        parsed.filter(|progress| progress.version == VERSION).unwrap_or_default()
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Replaces all projects.
    pub(super) fn new(projects: Vec<ProjectProgress>, results: PassResults) -> Self {
        Self { version: VERSION, projects, results }
    }

    /// Takes the progress of a project, if it is known.
    pub(super) fn take(&mut self, account_id: &str, project_id: &str) -> Option<ProjectProgress> {
        let found =
            self.projects.iter().position(|p| p.account_id == account_id && p.project_id == project_id)?;
        Some(self.projects.swap_remove(found))
    }
}

impl ProjectProgress {
    /// Creates the progress of a project of which nothing is known.
    pub(super) fn new(account_id: &str, project_id: &str, filters_by_time: bool) -> Self {
        Self {
            account_id: account_id.to_owned(),
            project_id: project_id.to_owned(),
            environments: Vec::new(),
            lookback_s: 0,
            listed_until: Timestamp::MIN,
            last_pass: Timestamp::MIN,
            verified_until: BTreeMap::new(),
            windows: Vec::new(),
            calls: Vec::new(),
            filters_by_time,
            window_s: MAX_WINDOW.as_secs(),
            reach_s: FIRST_REACH.as_secs(),
            calls_in_time: 0,
            unreadable: None,
        }
    }

    /// Adds the windows that are due at `now`.
    pub(super) fn schedule(&mut self, now: Timestamp, config: &ReconcileConfig, environments: &[String]) {
        let covers = |name| self.environments.contains(name);
        let is_ahead = self.listed_until > later(now, config.every + MAX_CLOCK_DIFFERENCE);
        if is_ahead || self.lookback_s < config.lookback.as_secs() || !environments.iter().all(covers) {
            return self.restart(now, config, environments);
        }
        self.forget_others(config, environments);
        let overlap = (config.every / OVERLAP_PARTS).min(MAX_OVERLAP).max(Duration::from_secs(self.reach_s));
        let from = earlier(self.listed_until.min(now), overlap);
        self.add(from.max(earlier(now, MAX_PAUSE.max(config.lookback))), now);
        self.last_pass = std::mem::replace(&mut self.listed_until, now);
        for age in ages(config.lookback) {
            let due = earlier(now, age);
            let verified = self.verified_until.entry(age.as_secs()).or_insert(due);
            let part = if self.filters_by_time { age / PARTS_PER_AGE } else { age * 2 };
            let from = *verified;
            if later(from, part) <= due {
                *verified = due;
                self.add(from, due);
            }
        }
        self.merge();
    }

    /// Adds the whole lookback, for all environments, and the failed windows before it.
    pub(super) fn restart(&mut self, now: Timestamp, config: &ReconcileConfig, environments: &[String]) {
        self.forget_others(config, environments);
        let start = earlier(now, config.lookback);
        self.windows.retain(|window| window.from < start);
        for failure in self.windows.iter_mut().filter_map(|window| window.failure.as_mut()) {
            failure.retry_at = now;
        }
        self.unreadable = None;
        self.add(start, now);
        (self.listed_until, self.last_pass) = (now, Timestamp::MIN);
        self.verified_until = ages(config.lookback).map(|age| (age.as_secs(), earlier(now, age))).collect();
        self.merge();
    }

    fn forget_others(&mut self, config: &ReconcileConfig, environments: &[String]) {
        self.environments = environments.to_vec();
        self.lookback_s = config.lookback.as_secs();
        self.windows.retain(|window| environments.contains(&window.environment));
    }

    fn add(&mut self, from: Timestamp, to: Timestamp) {
        if from < to {
            let window =
                |environment: &String| Window { from, to, environment: environment.clone(), failure: None };
            self.windows.extend(self.environments.iter().map(window));
        }
    }

    /// Joins the windows that were not tried yet, and splits those that are too long. Sorts all, newest first.
    fn merge(&mut self) {
        let (failed, mut untried): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.windows).into_iter().partition(|window| window.failure.is_some());
        join_neighbours(&mut untried);
        let longest = Duration::from_secs(self.window_s);
        self.windows = untried.into_iter().flat_map(|window| window.pieces(longest)).chain(failed).collect();
        self.windows.sort_by_key(|window| Reverse(window.to));
    }

    /// Takes the windows of which nothing failed, newest first.
    pub(super) fn take_untried(&mut self) -> Vec<Window> {
        self.windows.extract_if(.., |window| window.failure.is_none()).collect()
    }

    /// Takes the failed windows that are to be tried again, oldest first.
    pub(super) fn take_retries(&mut self, now: Timestamp) -> Vec<Window> {
        let is_due =
            |window: &mut Window| window.failure.as_ref().is_some_and(|failure| failure.retry_at <= now);
        let mut due: Vec<_> = self.windows.extract_if(.., is_due).collect();
        due.reverse();
        due
    }

    /// Adds windows that failed. If others succeeded (`is_served`), the reason lies in the window: it is split, and tried
    /// again after growing delays. Otherwise neighbours are joined, so that an outage leaves few windows.
    pub(super) fn add_failed(
        &mut self,
        mut failed: Vec<Window>,
        is_served: bool,
        now: Timestamp,
        every: Duration,
    ) {
        if is_served {
            let halves = failed.into_iter().flat_map(|window| {
                let was_tried = window.failure.as_ref().is_some_and(|failure| failure.attempts > 0);
                let length = if was_tried { window.length() / 2 } else { window.length() };
                window.pieces(length.max(MIN_WINDOW))
            });
            failed = halves.collect();
            for failure in failed.iter_mut().filter_map(|window| window.failure.as_mut()) {
                let delay = every.saturating_mul(1 << failure.attempts.min(16)).min(MAX_RETRY_DELAY);
                failure.attempts += 1;
                // The first repetition is in the next pass.
                failure.retry_at = if failure.attempts == 1 { now } else { later(now, delay) };
            }
        } else {
            failed.append(&mut self.windows.extract_if(.., |window| window.failure.is_some()).collect());
            join_neighbours(&mut failed);
        }
        self.windows.append(&mut failed);
    }

    /// Notes which API serves the list.
    pub(super) fn note_api(&mut self, api: Option<Api>) {
        if let Some(api) = api {
            self.filters_by_time = api == Api::V3;
        }
    }

    /// Makes windows shorter if they took too long, and else longer again.
    pub(super) fn adapt_windows(&mut self, took_too_long: bool) {
        self.window_s = if took_too_long {
            (self.window_s / 2).max(MIN_CUT_WINDOW.as_secs())
        } else {
            (self.window_s * 2).min(MAX_WINDOW.as_secs())
        };
    }

    /// Returns how many times longer than usual a list may take that cannot be split.
    pub(super) fn patience(&self) -> u32 {
        u32::try_from(MAX_WINDOW.as_secs() / self.window_s.max(1)).unwrap_or(u32::MAX)
    }

    /// Returns the windows that could not be read so far. Neighbours are joined.
    pub(super) fn failed_windows(&self) -> Vec<Window> {
        let mut failed: Vec<_> =
            self.windows.iter().filter(|window| window.failure.is_some()).cloned().collect();
        join_neighbours(&mut failed);
        failed
    }

    /// Notes that a call was found for the first time. The last pass should have found it if it had started before: PolyAI
    /// lists calls late.
    pub(super) fn note_if_late(&mut self, started_at: Timestamp, now: Timestamp) {
        if started_at >= self.last_pass {
            return;
        }
        let late = Duration::try_from(now.duration_since(started_at)).unwrap_or_default();
        // Not only just as late.
        let reach = (late + late / 4).min(MAX_REACH).as_secs();
        self.reach_s = self.reach_s.max(reach);
        self.calls_in_time = 0;
    }

    fn note_in_time(&mut self) {
        self.calls_in_time = self.calls_in_time.saturating_add(1);
        if self.calls_in_time >= CALLS_IN_TIME {
            self.reach_s = 0;
        }
    }

    /// Notes calls that were listed before they had settled.
    pub(super) fn follow(&mut self, listed: Vec<ListedConversation>, now: Timestamp) {
        for call in listed {
            let ListedConversation { id, environment, in_progress, started_at, ended_at } = call;
            let ended_at = ended_at.or(started_at).filter(|_| !in_progress);
            if let Some(known) = self.calls.iter_mut().find(|known| known.id == id) {
                (known.ended_at, known.look_at) = (ended_at, now);
                continue;
            }
            if self.calls.len() >= MAX_CALLS {
                continue;
            }
            if in_progress {
                self.note_in_time();
            } else if let Some(started_at) = started_at {
                self.note_if_late(started_at, now);
            }
            let (listed_at, look_at) = (now, now);
            self.calls.push(UnsettledCall { id, environment, started_at, ended_at, listed_at, look_at });
        }
    }
}

impl UnsettledCall {
    /// Returns it after another look. A call that has lasted long is looked at less often, so that one whose end PolyAI never
    /// notes costs little.
    pub(super) fn seen(&self, now_listed: &ListedConversation, now: Timestamp, every: Duration) -> Self {
        let ended_at = now_listed.ended_at.filter(|_| !now_listed.in_progress);
        let age = Duration::try_from(now.duration_since(self.started_at.unwrap_or(self.listed_at)));
        let pause = age.unwrap_or_default() / LOOKS_PER_AGE;
        let look_at = if ended_at.is_none() && pause > every { later(now, pause) } else { now };
        Self { ended_at, look_at, ..self.clone() }
    }

    /// Returns it as PolyAI's list would.
    pub(super) fn to_listed(&self) -> ListedConversation {
        ListedConversation {
            id: self.id.clone(),
            environment: self.environment.clone(),
            in_progress: self.ended_at.is_none(),
            started_at: self.started_at,
            ended_at: self.ended_at,
        }
    }
}

impl Window {
    pub(super) fn length(&self) -> Duration {
        Duration::try_from(self.to.duration_since(self.from)).unwrap_or_default()
    }

    /// Returns whether it has new calls only.
    pub(super) fn is_recent(&self, now: Timestamp) -> bool {
        self.from >= earlier(now, RECENT)
    }

    /// Splits it into the part that has the new calls, if there is one, and the rest.
    pub(super) fn split_recent(self, now: Timestamp) -> (Option<Self>, Option<Self>) {
        let start = earlier(now, RECENT).clamp(self.from, self.to);
        let part = |from, to| (from < to).then(|| Self { from, to, ..self.clone() });
        (part(start, self.to), part(self.from, start))
    }

    /// Returns it, or the `part` of it that failed just now.
    pub(super) fn failed(&self, part: Range<Timestamp>, reason: String, now: Timestamp) -> Self {
        let attempts = self.failure.as_ref().map_or(0, |failure| failure.attempts);
        let failure = Some(WindowFailure { reason, retry_at: now, attempts });
        Self { from: part.start, to: part.end, environment: self.environment.clone(), failure }
    }

    /// Splits it into pieces that are not longer than `longest`, newest first.
    fn pieces(self, longest: Duration) -> Vec<Self> {
        let mut pieces = Vec::new();
        let mut to = self.to;
        while to > self.from {
            let from = earlier(to, longest.max(MIN_WINDOW)).max(self.from);
            pieces.push(Self { from, to, ..self.clone() });
            to = from;
        }
        pieces
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from.to_zoned(TimeZone::UTC), self.to.to_zoned(TimeZone::UTC));
        let (first, environment) = (from.date(), &self.environment);
        let (start, end) = (from.strftime("%T"), to.strftime("%T"));
        match earlier(self.to, Duration::from_nanos(1)).to_zoned(TimeZone::UTC).date() {
            last if last == first => write!(f, "{first} ({environment}), {start} to {end} UTC"),
            last => write!(f, "{first} to {last} ({environment}), {start} to {end} UTC"),
        }
    }
}

/// Joins windows of the same environment that touch or overlap. The failure of the later one stays.
pub(super) fn join_neighbours(windows: &mut Vec<Window>) {
    windows.sort_by(|a, b| (&a.environment, a.from).cmp(&(&b.environment, b.from)));
    windows.dedup_by(|next, joined| {
        let touch = next.environment == joined.environment && next.from <= joined.to;
        if touch {
            joined.to = joined.to.max(next.to);
            if next.failure.is_some() {
                joined.failure = next.failure.take();
            }
        }
        touch
    });
}

/// Returns the ages at which calls are read again: the last one is the lookback.
fn ages(lookback: Duration) -> impl Iterator<Item = Duration> {
    AGES.into_iter().filter(move |age| *age < lookback).chain([lookback])
}

fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
