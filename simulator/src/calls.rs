//! The calls there are, and how each stands at the moment somebody asks.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Purpose,
    conversation::{Call, Channel, Environment, Profile},
    rng,
    scenario::{CallScript, RecordingAvailability, Scenario},
};

/// A call to be added while the stand-in runs. What is absent is drawn from the seed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewCall {
    /// Any string at all, to see what a client does with it.
    pub id: Option<String>,
    /// Either form of a project's identifier; the first project where absent.
    pub project_id: Option<String>,
    /// The deployment.
    pub environment: Option<Environment>,
    /// The channel.
    pub channel: Option<Channel>,
    /// How many turns it has.
    pub turns: Option<u32>,
    /// When it began; so that it ends now where absent.
    pub started_at: Option<Timestamp>,
    /// What is special about it.
    pub script: Option<CallScript>,
}

/// A call, without its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a call")]
pub struct CallInfo {
    /// The conversation's id.
    pub id: String,
    /// The account it belongs to, prefixed form.
    pub account_id: String,
    /// The project it belongs to, prefixed form.
    pub project_id: String,
    /// The deployment.
    pub environment: Environment,
    /// The channel.
    pub channel: Channel,
    /// When it began.
    pub started_at: Timestamp,
    /// Milliseconds from first to last, by what its script says at this moment.
    pub duration_ms: u64,
    /// Turns at this moment.
    pub turns: usize,
    /// Whether it was handed to a person.
    pub handoff: bool,
    /// Whether it is still going on.
    pub in_progress: bool,
    /// Whether its recording can be had now.
    pub has_audio: bool,
    /// Whether there will ever be a recording.
    pub will_have_audio: bool,
}

/// Position in time, and the index to tell calls of the same microsecond apart.
pub(crate) type Key = (i64, u64);

#[derive(Debug)]
struct Entry {
    profile: Profile,
    project: usize,
    started_at: Timestamp,
    script: CallScript,
    scripted_at: Timestamp,
    /// Requests for the conversation, and refused ones for its recording.
    requests: u32,
    refused: u32,
}

/// What a list may be narrowed down by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) from: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) environment: Option<Environment>,
    pub(crate) in_progress: Option<bool>,
    pub(crate) channels: Vec<String>,
    pub(crate) variant_id: Option<String>,
    pub(crate) variant_name: Option<String>,
}

impl Filter {
    fn takes(&self, entry: &Entry, now: Timestamp) -> bool {
        let channel = entry.profile.channel.as_str();
        let (variant_id, variant_name) = entry.profile.variant.unzip();
        !entry.script.missing
            && self.from.is_none_or(|from| entry.started_at >= from)
            && self.until.is_none_or(|until| entry.started_at < until)
            && self.environment.is_none_or(|wanted| entry.profile.environment == wanted)
            && self.in_progress.is_none_or(|wanted| entry.in_progress(now) == wanted)
            && (self.channels.is_empty()
                || self.channels.iter().any(|wanted| {
                    wanted.eq_ignore_ascii_case(channel)
                        || (wanted.eq_ignore_ascii_case("voice") && entry.profile.channel == Channel::Voice)
                }))
            && self.variant_id.as_deref().is_none_or(|wanted| variant_id == Some(wanted))
            && self.variant_name.as_deref().is_none_or(|wanted| variant_name == Some(wanted))
    }
}

impl Entry {
    fn since_script(&self, now: Timestamp) -> SignedDuration {
        now.duration_since(self.scripted_at)
    }

    fn in_progress(&self, now: Timestamp) -> bool {
        let time = self.script.in_progress_for.is_some_and(|wait| self.since_script(now) < signed(wait));
        time || self.requests < self.script.in_progress_requests
    }

    fn changed(&self, now: Timestamp) -> bool {
        self.script.change.is_some_and(|change| {
            let timed = change.after.map(|wait| self.since_script(now) >= signed(wait));
            let counted = change.after_requests.map(|requests| self.requests >= requests);
            match (timed, counted) {
                (None, None) => true,
                (timed, counted) => timed.unwrap_or(false) || counted.unwrap_or(false),
            }
        })
    }

    fn recorded(&self, now: Timestamp) -> bool {
        self.profile.channel == Channel::Voice
            && match self.script.recording {
                RecordingAvailability::Ready => true,
                RecordingAvailability::After(wait) => self.since_script(now) >= signed(wait),
                RecordingAvailability::AfterRequests(requests) => self.refused >= requests,
                RecordingAvailability::Never => false,
            }
    }

    fn view(&self, scenario: &Scenario, now: Timestamp) -> Call {
        let changed = self.changed(now);
        let more = self.script.change.filter(|_| changed).map_or(0, |change| change.more_turns);
        let mut call = Call::draw(scenario.seed, &self.profile, more);
        if let Some(project) = scenario.projects.get(self.project) {
            call.account_id.clone_from(&project.account_id);
            call.project_id.clone_from(&project.project_id);
        }
        call.started_at = self.started_at;
        call.recorded = self.recorded(now);
        if self.script.change.is_some_and(|change| change.summarised) {
            let topic = super::phrases::TOPICS.iter().find(|topic| topic.intent == call.intent);
            call.summary = topic.map(|topic| topic.summary).filter(|_| changed);
            call.score = changed.then_some(call.score.unwrap_or(7.5));
        }
        if self.in_progress(now) { call.halfway() } else { call }
    }
}

fn signed(duration: std::time::Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// All calls, in the order of their beginnings.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    entries: BTreeMap<Key, Entry>,
    by_id: HashMap<String, Key>,
    next: u64,
}

/// One call as a request finds it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) call: Call,
    pub(crate) project: usize,
    pub(crate) script: CallScript,
}

impl Calls {
    /// The calls of the scenario's beginning, the newest of which ended at `end`.
    pub(crate) fn new(scenario: &Scenario, end: Timestamp) -> Self {
        let mut calls = Self::default();
        for index in 0..scenario.calls {
            let back = u32::try_from(scenario.calls - 1 - index).unwrap_or(u32::MAX);
            let ended =
                end.checked_sub(signed(scenario.spacing.saturating_mul(back))).unwrap_or(Timestamp::MIN);
            let project = usize::try_from(index).unwrap_or(0) % scenario.projects.len().max(1);
            calls.add(scenario, &NewCall::default(), project, ended, end);
        }
        calls
    }

    /// Adds a call that ended at `ended` (or begins as asked for). An id that is there already is replaced.
    pub(crate) fn add(
        &mut self,
        scenario: &Scenario,
        new: &NewCall,
        project: usize,
        ended: Timestamp,
        now: Timestamp,
    ) -> String {
        let index = self.next;
        self.next += 1;
        let mut profile = Profile::draw(scenario.seed, index, &scenario.mix);
        profile.id = new.id.clone().unwrap_or(profile.id);
        profile.environment = new.environment.unwrap_or(profile.environment);
        profile.channel = new.channel.unwrap_or(profile.channel);
        profile.turns = new.turns.unwrap_or(profile.turns).clamp(1, 10_000);
        let script = new.script.clone().unwrap_or_else(|| self.usual(scenario, index));
        let started_at = new.started_at.unwrap_or_else(|| {
            let length = Call::draw(scenario.seed, &profile, 0).duration_ms;
            let length = SignedDuration::from_millis(i64::try_from(length).unwrap_or(0));
            ended.checked_sub(length).unwrap_or(Timestamp::MIN)
        });
        let (id, key) = (profile.id.clone(), (started_at.as_microsecond(), index));
        if let Some(old) = self.by_id.insert(id.clone(), key) {
            self.entries.remove(&old);
        }
        let entry = Entry { profile, project, started_at, script, scripted_at: now, requests: 0, refused: 0 };
        self.entries.insert(key, entry);
        id
    }

    /// What the scenario's mix says about recordings.
    #[expect(clippy::unused_self, reason = "it is about these calls")]
    fn usual(&self, scenario: &Scenario, index: u64) -> CallScript {
        let mut dice = rng(scenario.seed, index, Purpose::Recordings);
        let (late, missing) = (scenario.mix.late_recordings, scenario.mix.missing_recordings);
        let recording = match dice.f64() {
            x if x < missing => RecordingAvailability::Never,
            x if x < missing + late => RecordingAvailability::After(scenario.mix.recording_delay),
            _ => RecordingAvailability::Ready,
        };
        CallScript { recording, ..CallScript::default() }
    }

    pub(crate) fn script(&mut self, id: &str, script: CallScript, now: Timestamp) -> bool {
        let Some(entry) = self.by_id.get(id).and_then(|key| self.entries.get_mut(key)) else { return false };
        (entry.script, entry.scripted_at, entry.requests, entry.refused) = (script, now, 0, 0);
        true
    }

    /// One conversation; the request counts.
    pub(crate) fn open(
        &mut self,
        scenario: &Scenario,
        project: usize,
        id: &str,
        now: Timestamp,
    ) -> Option<Found> {
        let entry = self.entry(project, id)?;
        let found = Found { call: entry.view(scenario, now), project, script: entry.script.clone() };
        entry.requests = entry.requests.saturating_add(1);
        Some(found)
    }

    /// One conversation for its recording; counts where there is none yet.
    pub(crate) fn listen(
        &mut self,
        scenario: &Scenario,
        project: usize,
        id: &str,
        now: Timestamp,
    ) -> Option<Found> {
        let entry = self.entry(project, id)?;
        let found = Found { call: entry.view(scenario, now), project, script: entry.script.clone() };
        if !found.call.has_audio() {
            entry.refused = entry.refused.saturating_add(1);
        }
        Some(found)
    }

    fn entry(&mut self, project: usize, id: &str) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(self.by_id.get(id)?)?;
        (entry.project == project && !entry.script.missing).then_some(entry)
    }

    /// The keys of what `filter` takes, newest first, before `before`.
    pub(crate) fn select<'a>(
        &'a self,
        project: usize,
        filter: &'a Filter,
        before: Option<Key>,
        now: Timestamp,
    ) -> impl Iterator<Item = Key> + 'a {
        let range = match before {
            Some(key) => self.entries.range(..key),
            None => self.entries.range(..),
        };
        range
            .rev()
            .filter(move |(_, entry)| entry.project == project && filter.takes(entry, now))
            .map(|(key, _)| *key)
    }

    /// A selected conversation, as a list shows it.
    pub(crate) fn show(&self, scenario: &Scenario, key: Key, now: Timestamp) -> Option<Found> {
        let entry = self.entries.get(&key)?;
        Some(Found { call: entry.view(scenario, now), project: entry.project, script: entry.script.clone() })
    }

    /// The call `id`, whosever it is, for the stand-in's own use.
    pub(crate) fn info(&self, scenario: &Scenario, id: &str, now: Timestamp) -> Option<CallInfo> {
        self.describe(scenario, *self.by_id.get(id)?, now)
    }

    /// All of them, oldest first.
    pub(crate) fn infos(&self, scenario: &Scenario, now: Timestamp) -> Vec<CallInfo> {
        self.entries.keys().filter_map(|key| self.describe(scenario, *key, now)).collect()
    }

    fn describe(&self, scenario: &Scenario, key: Key, now: Timestamp) -> Option<CallInfo> {
        let entry = self.entries.get(&key)?;
        let call = entry.view(scenario, now);
        Some(CallInfo {
            has_audio: call.has_audio(),
            will_have_audio: call.profile.channel == Channel::Voice
                && entry.script.recording != RecordingAvailability::Never,
            account_id: call.account_id,
            project_id: call.project_id,
            environment: call.profile.environment,
            channel: call.profile.channel,
            started_at: call.started_at,
            duration_ms: call.duration_ms,
            turns: call.turns.len(),
            handoff: entry.profile.handed_off,
            in_progress: call.in_progress,
            id: call.profile.id,
        })
    }
}
