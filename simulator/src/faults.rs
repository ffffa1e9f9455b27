//! What goes wrong, on purpose.
//!
//! A [`Fault`] says on which operations, how often and what. Faults of the call come first, then those of
//! its project, then everybody's; delays add up, and of the rest the first that strikes decides the answer.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::scenario::ErrorEnvelope;

/// What a request asks for; the name of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `GET /v3/{account}/{project}/conversations`
    V3List,
    /// `GET /v3/{account}/{project}/conversations/{id}`
    V3Conversation,
    /// `GET /v3/{account}/{project}/conversations/{id}/audio`
    V3Audio,
    /// `GET /v1/agents/{agent}/conversations`
    DataList,
    /// `GET /v1/agents/{agent}/conversations/{id}`
    DataConversation,
    /// `GET /v1/agents/{agent}/conversations/{id}/audio`
    DataAudio,
    /// `POST /v1/webhook-endpoints`
    EndpointCreate,
    /// `GET /v1/webhook-endpoints`
    EndpointList,
    /// `GET /v1/webhook-endpoints/{id}`
    EndpointGet,
    /// `PATCH /v1/webhook-endpoints/{id}`
    EndpointUpdate,
    /// `DELETE /v1/webhook-endpoints/{id}`
    EndpointDelete,
    /// `POST /v1/webhook-endpoints/{id}/rotate-secret`
    EndpointRotate,
    /// `POST /v1/webhooks/endpoints`
    QuickstartCreate,
    /// Anything else below `/v1/webhooks/endpoints`
    QuickstartManage,
}

impl Operation {
    /// Whether it answers with a recording.
    pub fn is_audio(self) -> bool {
        matches!(self, Self::V3Audio | Self::DataAudio)
    }

    /// Whether it belongs to the Webhooks API.
    pub fn is_webhooks(self) -> bool {
        self >= Self::EndpointCreate
    }
}

/// Something that goes wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The operations it strikes; empty: every one.
    #[serde(default)]
    pub operations: Vec<Operation>,
    /// How often it strikes before it is over; absent: for ever.
    #[serde(default)]
    pub times: Option<u32>,
    /// How likely it strikes, 0 to 1; drawn from the scenario's seed.
    #[serde(default = "always")]
    pub probability: f64,
    /// What happens.
    pub action: FaultAction,
}

impl Fault {
    /// Strikes every one of `operations`, for ever.
    pub fn new(operations: &[Operation], action: FaultAction) -> Self {
        Self { operations: operations.to_vec(), times: None, probability: 1.0, action }
    }

    /// The same, but over after `times` strikes.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }
}

fn always() -> f64 {
    1.0
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultAction {
    /// This status, with an error's body.
    Status(u16),
    /// This status, with an error's body in this form.
    StatusIn {
        /// The status.
        status: u16,
        /// The form of its body.
        envelope: ErrorEnvelope,
    },
    /// 429 with a `Retry-After` in seconds or as an HTTP date, or without one.
    RateLimited(RetryAfter),
    /// The answer is this late.
    #[serde(with = "humantime_serde")]
    Delay(Duration),
    /// The body comes in pieces of `bytes`, with a `pause` after each.
    Drip {
        /// The size of a piece.
        bytes: usize,
        /// The wait after it.
        #[serde(with = "humantime_serde")]
        pause: Duration,
    },
    /// The `Content-Length` is right, but the body ends after this many bytes.
    Truncate(u64),
    /// The body and its `Content-Length` end after this many bytes; only the RIFF header knows of more.
    Cut(u64),
    /// The connection is reset after this many bytes of the body.
    Reset(u64),
    /// The connection is reset without an answer.
    HangUp,
    /// 200 and a recording of no bytes.
    Empty,
    /// 200 and a recording that is its header alone, 44 bytes.
    HeaderOnly,
    /// 200 and a page of HTML that calls itself a recording.
    Html,
    /// 200 and JSON in place of what was asked for.
    Json,
    /// 302 to this address.
    Redirect(String),
}

/// What a 429 says about the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryAfter {
    /// `Retry-After: 7`
    Seconds(u64),
    /// An HTTP date so many seconds ahead.
    Date(u64),
    /// No header.
    Absent,
}

/// Whose a fault is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// One call's, by id.
    Call(String),
    /// A project's, by position.
    Project(usize),
    /// Everybody's.
    All,
}

/// What is to happen to one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) delay: Duration,
    pub(crate) drip: Option<(usize, Duration)>,
    pub(crate) answer: Option<FaultAction>,
}

/// The faults in force and how often each has yet to strike.
#[derive(Debug)]
pub(crate) struct Faults {
    active: BTreeMap<Scope, Vec<(Fault, Option<u32>)>>,
    dice: fastrand::Rng,
}

impl Faults {
    pub(crate) fn new(seed: u64, everybody: &[Fault]) -> Self {
        let mut faults = Self { active: BTreeMap::new(), dice: super::rng(seed, 0, super::Purpose::Faults) };
        for fault in everybody {
            faults.add(Scope::All, fault.clone());
        }
        faults
    }

    pub(crate) fn add(&mut self, scope: Scope, fault: Fault) {
        let left = fault.times;
        self.active.entry(scope).or_default().push((fault, left));
    }

    pub(crate) fn clear(&mut self, scope: &Scope) {
        self.active.remove(scope);
    }

    pub(crate) fn clear_all(&mut self) {
        self.active.clear();
    }

    /// What happens to this request; counts the strikes.
    pub(crate) fn strike(
        &mut self,
        operation: Operation,
        call: Option<&str>,
        project: Option<usize>,
    ) -> Plan {
        let mut plan = Plan::default();
        let scopes =
            [call.map(|id| Scope::Call(id.to_owned())), project.map(Scope::Project), Some(Scope::All)];
        for scope in scopes.into_iter().flatten() {
            for (fault, left) in self.active.get_mut(&scope).into_iter().flatten() {
                let decides = !matches!(fault.action, FaultAction::Delay(_) | FaultAction::Drip { .. });
                if *left == Some(0)
                    || (!fault.operations.is_empty() && !fault.operations.contains(&operation))
                    || (decides && plan.answer.is_some())
                    || (fault.probability < 1.0 && self.dice.f64() >= fault.probability)
                {
                    continue;
                }
                if let Some(left) = left {
                    *left -= 1;
                }
                match &fault.action {
                    FaultAction::Delay(delay) => plan.delay += *delay,
                    FaultAction::Drip { bytes, pause } => plan.drip = Some(((*bytes).max(1), *pause)),
                    action => plan.answer = Some(action.clone()),
                }
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_fault_decides_and_delays_add_up() {
        let second = Duration::from_secs(1);
        let mut faults = Faults::new(1, &[Fault::new(&[], FaultAction::Delay(second))]);
        faults.add(Scope::Project(0), Fault::new(&[Operation::V3Audio], FaultAction::Status(503)));
        faults.add(Scope::Call("a".to_owned()), Fault::new(&[], FaultAction::Html).times(1));
        faults.add(Scope::Call("a".to_owned()), Fault::new(&[], FaultAction::Delay(second)));

        let first = faults.strike(Operation::V3Audio, Some("a"), Some(0));
        assert_eq!((first.answer, first.delay), (Some(FaultAction::Html), second * 2));
        let second_try = faults.strike(Operation::V3Audio, Some("a"), Some(0));
        assert_eq!(second_try.answer, Some(FaultAction::Status(503)));
        assert_eq!(faults.strike(Operation::V3List, None, Some(0)).answer, None);
        assert_eq!(faults.strike(Operation::V3Audio, Some("b"), Some(1)).answer, None);
    }

    #[test]
    fn chance_is_seeded() {
        let strikes = |seed| {
            let fault = Fault { probability: 0.3, ..Fault::new(&[], FaultAction::Status(500)) };
            let mut faults = Faults::new(seed, &[fault]);
            (0..200)
                .map(|_| faults.strike(Operation::V3List, None, None).answer.is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(strikes(3), strikes(3));
        assert_ne!(strikes(3), strikes(4));
        let hits = strikes(3).iter().filter(|hit| **hit).count();
        assert!((30..90).contains(&hits), "{hits}");
    }
}
