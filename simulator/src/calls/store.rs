//! The calls of the simulator, and each call as it is at the time of a request.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    conversation::Conversation,
    profile::{Channel, Environment, Profile},
};
use crate::{
    random::{Purpose, rng},
    scenario::Scenario,
    script::{CallScript, RecordingAvailability},
};

/// A call to add to a running simulator. The seed decides everything that is absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewCall {
    /// The conversation's id. Any string is valid here.
    pub id: Option<String>,
    /// The project, in either form of its identifier. Absent means the first project.
    pub project_id: Option<String>,
    /// The deployment.
    pub environment: Option<Environment>,
    /// The channel.
    pub channel: Option<Channel>,
    /// The number of turns.
    pub turns: Option<u32>,
    /// The start. Absent means that the call ends now.
    pub started_at: Option<Timestamp>,
    /// Its special behaviour.
    pub script: Option<CallScript>,
}

/// The facts of a call, without its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a call")]
pub struct CallInfo {
    /// The conversation's id.
    pub id: String,
    /// The account, in its prefixed form.
    pub account_id: String,
    /// The project, in its prefixed form.
    pub project_id: String,
    /// The deployment.
    pub environment: Environment,
    /// The channel.
    pub channel: Channel,
    /// The start.
    pub started_at: Timestamp,
    /// The duration in milliseconds, as its script has it now.
    pub duration_ms: u64,
    /// The number of turns so far.
    pub turns: usize,
    /// True if the call was handed to a person.
    pub handoff: bool,
    /// True while the call is in progress.
    pub in_progress: bool,
    /// True if the recording is available now.
    pub has_audio: bool,
    /// True if the recording is available now or later.
    pub will_have_audio: bool,
}

/// The start in microseconds, and the index that distinguishes calls of the same microsecond.
pub(crate) type CallKey = (i64, u64);

/// A stored call.
#[derive(Debug)]
struct CallRecord {
    profile: Profile,
    project: usize,
    started_at: Timestamp,
    script: CallScript,
    scripted_at: Timestamp,
    /// Requests for the conversation.
    requests: u32,
    /// Requests for the recording that were answered 404.
    refused_audio_requests: u32,
}

/// The filter of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallFilter {
    pub(crate) from: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) environment: Option<Environment>,
    pub(crate) in_progress: Option<bool>,
    pub(crate) channels: Vec<String>,
    pub(crate) variant_id: Option<String>,
    pub(crate) variant_name: Option<String>,
}

impl CallFilter {
    fn matches(&self, call: &CallRecord, now: Timestamp) -> bool {
        let (variant_id, variant_name) = call.profile.variant.unzip();
        !call.script.missing
            && self.from.is_none_or(|from| call.started_at >= from)
            && self.until.is_none_or(|until| call.started_at < until)
            && self.environment.is_none_or(|wanted| call.profile.environment == wanted)
            && self.in_progress.is_none_or(|wanted| call.in_progress(now) == wanted)
            && (self.channels.is_empty() || self.matches_channel(call.profile.channel))
            && self.variant_id.as_deref().is_none_or(|wanted| variant_id == Some(wanted))
            && self.variant_name.as_deref().is_none_or(|wanted| variant_name == Some(wanted))
    }

    /// `voice` matches as well as `VOICE-SIP`.
    fn matches_channel(&self, channel: Channel) -> bool {
        self.channels.iter().any(|wanted| {
            wanted.eq_ignore_ascii_case(channel.as_str())
                || (wanted.eq_ignore_ascii_case("voice") && channel == Channel::Voice)
        })
    }
}

impl CallRecord {
    fn has_passed(&self, wait: Duration, now: Timestamp) -> bool {
        now.duration_since(self.scripted_at) >= signed(wait)
    }

    fn in_progress(&self, now: Timestamp) -> bool {
        self.script.in_progress_for.is_some_and(|wait| !self.has_passed(wait, now))
            || self.requests < self.script.in_progress_requests
    }

    /// Returns true once the script's later change has happened.
    fn has_changed(&self, now: Timestamp) -> bool {
        self.script.change.is_some_and(|change| {
            let by_time = change.after.map(|wait| self.has_passed(wait, now));
            let by_requests = change.after_requests.map(|requests| self.requests >= requests);
            match (by_time, by_requests) {
                (None, None) => true,
                (by_time, by_requests) => by_time.unwrap_or(false) || by_requests.unwrap_or(false),
            }
        })
    }

    fn has_audio(&self, now: Timestamp) -> bool {
        self.profile.channel == Channel::Voice
            && match self.script.recording {
                RecordingAvailability::Ready => true,
                RecordingAvailability::After(wait) => self.has_passed(wait, now),
                RecordingAvailability::AfterRequests(requests) => self.refused_audio_requests >= requests,
                RecordingAvailability::Never => false,
            }
    }

    fn conversation(&self, scenario: &Scenario, now: Timestamp) -> Conversation {
        let changed = self.has_changed(now);
        let extra_turns = self.script.change.filter(|_| changed).map_or(0, |change| change.more_turns);
        let mut conversation = Conversation::generate(scenario.seed, &self.profile, extra_turns);
        if let Some(project) = scenario.projects.get(self.project) {
            conversation.account_id.clone_from(&project.account_id);
            conversation.project_id.clone_from(&project.project_id);
        }
        conversation.started_at = self.started_at;
        conversation.has_audio = self.has_audio(now);
        if self.script.change.is_some_and(|change| change.summarised) {
            if changed {
                conversation.summarise();
            } else {
                (conversation.summary, conversation.score) = (None, None);
            }
        }
        if self.in_progress(now) { conversation.halfway() } else { conversation }
    }

    fn view(&self, scenario: &Scenario, now: Timestamp) -> CallView {
        CallView {
            conversation: self.conversation(scenario, now),
            project: self.project,
            script: self.script.clone(),
        }
    }

    fn info(&self, scenario: &Scenario, now: Timestamp) -> CallInfo {
        let conversation = self.conversation(scenario, now);
        CallInfo {
            has_audio: conversation.has_audio,
            will_have_audio: self.profile.channel == Channel::Voice
                && self.script.recording != RecordingAvailability::Never,
            account_id: conversation.account_id,
            project_id: conversation.project_id,
            environment: self.profile.environment,
            channel: self.profile.channel,
            started_at: conversation.started_at,
            duration_ms: conversation.duration_ms,
            turns: conversation.turns.len(),
            handoff: self.profile.handed_off,
            in_progress: conversation.in_progress,
            id: conversation.profile.id,
        }
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// All calls, ordered by their start.
#[derive(Debug, Default)]
pub(crate) struct CallStore {
    by_key: BTreeMap<CallKey, CallRecord>,
    by_id: HashMap<String, CallKey>,
    next_index: u64,
}

/// A call as it is at the time of a request.
#[derive(Debug)]
pub(crate) struct CallView {
    pub(crate) conversation: Conversation,
    pub(crate) project: usize,
    pub(crate) script: CallScript,
}

impl CallStore {
    /// Creates the scenario's first calls. The newest of them ended at `end`.
    pub(crate) fn new(scenario: &Scenario, end: Timestamp) -> Self {
        let mut calls = Self::default();
        for index in 0..scenario.calls {
            let before_last = u32::try_from(scenario.calls - 1 - index).unwrap_or(u32::MAX);
            let age = signed(scenario.spacing.saturating_mul(before_last));
            let ended = end.checked_sub(age).unwrap_or(Timestamp::MIN);
            let project = usize::try_from(index).unwrap_or(0) % scenario.projects.len().max(1);
            calls.add(scenario, &NewCall::default(), project, ended, end);
        }
        calls
    }

    /// Adds a call that ended at `ended`, unless `new` gives its start. A call with the same id is replaced.
    pub(crate) fn add(
        &mut self,
        scenario: &Scenario,
        new: &NewCall,
        project: usize,
        ended: Timestamp,
        now: Timestamp,
    ) -> String {
        let index = self.next_index;
        self.next_index += 1;
        let mut profile = Profile::draw(scenario.seed, index, &scenario.mix);
        profile.id = new.id.clone().unwrap_or(profile.id);
        profile.environment = new.environment.unwrap_or(profile.environment);
        profile.channel = new.channel.unwrap_or(profile.channel);
        profile.turns = new.turns.unwrap_or(profile.turns).clamp(1, 10_000);
        let script = new.script.clone().unwrap_or_else(|| default_script(scenario, index));
        let started_at = new.started_at.unwrap_or_else(|| {
            let ms = Conversation::generate(scenario.seed, &profile, 0).duration_ms;
            let duration = SignedDuration::from_millis(i64::try_from(ms).unwrap_or(0));
            ended.checked_sub(duration).unwrap_or(Timestamp::MIN)
        });
        let (id, key) = (profile.id.clone(), (started_at.as_microsecond(), index));
        if let Some(replaced) = self.by_id.insert(id.clone(), key) {
            self.by_key.remove(&replaced);
        }
        let call = CallRecord {
            profile,
            project,
            started_at,
            script,
            scripted_at: now,
            requests: 0,
            refused_audio_requests: 0,
        };
        self.by_key.insert(key, call);
        id
    }

    /// Replaces the script of a call and resets its counters. Returns false if there is no such call.
    pub(crate) fn set_script(&mut self, id: &str, script: CallScript, now: Timestamp) -> bool {
        let Some(call) = self.by_id.get(id).and_then(|key| self.by_key.get_mut(key)) else { return false };
        (call.script, call.scripted_at) = (script, now);
        (call.requests, call.refused_audio_requests) = (0, 0);
        true
    }

    /// Returns a conversation of `project` and counts the request.
    pub(crate) fn request_conversation(
        &mut self,
        scenario: &Scenario,
        project: usize,
        id: &str,
        now: Timestamp,
    ) -> Option<CallView> {
        let call = self.visible(project, id)?;
        let view = call.view(scenario, now);
        call.requests = call.requests.saturating_add(1);
        Some(view)
    }

    /// Returns a conversation of `project` for its recording, and counts the request if there is no recording yet.
    pub(crate) fn request_recording(
        &mut self,
        scenario: &Scenario,
        project: usize,
        id: &str,
        now: Timestamp,
    ) -> Option<CallView> {
        let call = self.visible(project, id)?;
        let view = call.view(scenario, now);
        if !view.conversation.has_audio {
            call.refused_audio_requests = call.refused_audio_requests.saturating_add(1);
        }
        Some(view)
    }

    /// The call `id` if it belongs to `project` and is not missing.
    fn visible(&mut self, project: usize, id: &str) -> Option<&mut CallRecord> {
        let call = self.by_key.get_mut(self.by_id.get(id)?)?;
        (call.project == project && !call.script.missing).then_some(call)
    }

    /// The keys of the calls that match `filter` and began before the call `before`, newest first.
    pub(crate) fn select<'a>(
        &'a self,
        project: usize,
        filter: &'a CallFilter,
        before: Option<CallKey>,
        now: Timestamp,
    ) -> impl Iterator<Item = CallKey> + 'a {
        let range = match before {
            Some(key) => self.by_key.range(..key),
            None => self.by_key.range(..),
        };
        range
            .rev()
            .filter(move |(_, call)| call.project == project && filter.matches(call, now))
            .map(|(key, _)| *key)
    }

    /// Returns a selected call without counting a request.
    pub(crate) fn view(&self, scenario: &Scenario, key: CallKey, now: Timestamp) -> Option<CallView> {
        Some(self.by_key.get(&key)?.view(scenario, now))
    }

    /// Returns the facts of the call `id` of any project.
    pub(crate) fn info(&self, scenario: &Scenario, id: &str, now: Timestamp) -> Option<CallInfo> {
        Some(self.by_key.get(self.by_id.get(id)?)?.info(scenario, now))
    }

    /// Returns the facts of all calls, oldest first.
    pub(crate) fn infos(&self, scenario: &Scenario, now: Timestamp) -> Vec<CallInfo> {
        self.by_key.values().map(|call| call.info(scenario, now)).collect()
    }
}

/// Returns the script of a call that has none: the scenario's mix decides when its recording is available.
fn default_script(scenario: &Scenario, index: u64) -> CallScript {
    let mix = &scenario.mix;
    let recording = match rng(scenario.seed, index, Purpose::Recordings).f64() {
        x if x < mix.missing_recordings => RecordingAvailability::Never,
        x if x < mix.missing_recordings + mix.late_recordings => {
            RecordingAvailability::After(mix.recording_delay)
        }
        _ => RecordingAvailability::Ready,
    };
    CallScript { recording, ..CallScript::default() }
}
