//! Faults: what the simulator does wrong on purpose.
//!
//! A [`Fault`] names the operations, how often it happens and what happens. A call's own faults come first, then
//! those of its project, then the global ones. Delays add up. Of the other faults, the first that applies decides
//! the answer.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::ErrorEnvelope,
    random::{Purpose, rng},
};

/// The kind of a request. Requests are counted by it, and faults select by it.
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
    /// Any other request below `/v1/webhooks/endpoints`
    QuickstartManage,
}

impl Operation {
    /// Returns true for the operations of the Data API.
    pub(crate) fn is_data_api(self) -> bool {
        matches!(self, Self::DataList | Self::DataConversation | Self::DataAudio)
    }

    /// Returns true for the operations of the Webhooks API.
    pub fn is_webhooks(self) -> bool {
        self >= Self::EndpointCreate
    }
}

/// A deliberate failure of some requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The affected operations. Empty means all.
    #[serde(default)]
    pub operations: Vec<Operation>,
    /// The number of requests it affects. Absent means no limit.
    #[serde(default)]
    pub times: Option<u32>,
    /// The probability for each request, from 0 to 1. The scenario's seed decides.
    #[serde(default = "certain")]
    pub probability: f64,
    /// The effect on a request.
    pub action: FaultAction,
}

impl Fault {
    /// A fault that affects every request for `operations`.
    pub fn new(operations: &[Operation], action: FaultAction) -> Self {
        Self { operations: operations.to_vec(), times: None, probability: certain(), action }
    }

    /// Limits the fault to `times` requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }
}

fn certain() -> f64 {
    1.0
}

/// The effect of a fault on a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultAction {
    /// Answers with this status and an error body.
    Status(u16),
    /// Answers with this status and an error body in this envelope.
    StatusIn {
        /// The HTTP status.
        status: u16,
        /// The envelope of the body.
        envelope: ErrorEnvelope,
    },
    /// Answers 429 with this `Retry-After`.
    RateLimited(RetryAfter),
    /// Delays the answer.
    #[serde(with = "humantime_serde")]
    Delay(Duration),
    /// Sends the body in small pieces.
    Drip {
        /// The size of a piece.
        bytes: usize,
        /// The pause before each piece.
        #[serde(with = "humantime_serde")]
        pause: Duration,
    },
    /// Ends the body after this many bytes, with the full `Content-Length`.
    Truncate(u64),
    /// Ends the body after this many bytes, with a matching `Content-Length`. Only the RIFF header still gives the
    /// full length.
    Cut(u64),
    /// Resets the connection after this many bytes of the body.
    Reset(u64),
    /// Resets the connection without an answer.
    HangUp,
    /// Answers 200 with an empty recording.
    Empty,
    /// Answers 200 with a recording that is only its header, 44 bytes.
    HeaderOnly,
    /// Answers 200 with an HTML page under the content type of a recording.
    Html,
    /// Answers 200 with unrelated JSON.
    Json,
    /// Answers 302 with this address.
    Redirect(String),
}

/// The `Retry-After` header of a 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryAfter {
    /// `Retry-After: 7`
    Seconds(u64),
    /// An HTTP date, this many seconds ahead.
    Date(u64),
    /// No header.
    Absent,
}

/// The requests that a fault can affect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FaultScope {
    /// Requests for one call, by id.
    Call(String),
    /// Requests of one project, by position.
    Project(usize),
    /// All requests.
    All,
}

/// The combined effect of all faults on one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultPlan {
    pub(crate) delay: Duration,
    /// Bytes of a piece, and the pause before it.
    pub(crate) drip: Option<(usize, Duration)>,
    pub(crate) answer: Option<FaultAction>,
}

/// The active faults, each with the number of requests it may still affect.
#[derive(Debug)]
pub(crate) struct ActiveFaults {
    by_scope: BTreeMap<FaultScope, Vec<(Fault, Option<u32>)>>,
    rng: fastrand::Rng,
}

impl ActiveFaults {
    pub(crate) fn new(seed: u64, global: &[Fault]) -> Self {
        let mut faults = Self { by_scope: BTreeMap::new(), rng: rng(seed, 0, Purpose::Faults) };
        for fault in global {
            faults.add(FaultScope::All, fault.clone());
        }
        faults
    }

    pub(crate) fn add(&mut self, scope: FaultScope, fault: Fault) {
        let remaining = fault.times;
        self.by_scope.entry(scope).or_default().push((fault, remaining));
    }

    pub(crate) fn clear(&mut self, scope: &FaultScope) {
        self.by_scope.remove(scope);
    }

    pub(crate) fn clear_all(&mut self) {
        self.by_scope.clear();
    }

    /// Returns the effect on one request, and counts it against the limits of the faults that apply.
    pub(crate) fn apply(
        &mut self,
        operation: Operation,
        call: Option<&str>,
        project: Option<usize>,
    ) -> FaultPlan {
        let mut plan = FaultPlan::default();
        let scopes = [
            call.map(|id| FaultScope::Call(id.to_owned())),
            project.map(FaultScope::Project),
            Some(FaultScope::All),
        ];
        for scope in scopes.into_iter().flatten() {
            for (fault, remaining) in self.by_scope.get_mut(&scope).into_iter().flatten() {
                let decides = !matches!(fault.action, FaultAction::Delay(_) | FaultAction::Drip { .. });
                if *remaining == Some(0)
                    || (!fault.operations.is_empty() && !fault.operations.contains(&operation))
                    || (decides && plan.answer.is_some())
                    || (fault.probability < 1.0 && self.rng.f64() >= fault.probability)
                {
                    continue;
                }
                if let Some(remaining) = remaining {
                    *remaining -= 1;
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
    fn uses_the_most_specific_fault_and_adds_delays() {
        let second = Duration::from_secs(1);
        let mut faults = ActiveFaults::new(1, &[Fault::new(&[], FaultAction::Delay(second))]);
        faults.add(FaultScope::Project(0), Fault::new(&[Operation::V3Audio], FaultAction::Status(503)));
        faults.add(FaultScope::Call("a".to_owned()), Fault::new(&[], FaultAction::Html).times(1));
        faults.add(FaultScope::Call("a".to_owned()), Fault::new(&[], FaultAction::Delay(second)));

        let first = faults.apply(Operation::V3Audio, Some("a"), Some(0));
        assert_eq!((first.answer, first.delay), (Some(FaultAction::Html), second * 2));
        let again = faults.apply(Operation::V3Audio, Some("a"), Some(0));
        assert_eq!(again.answer, Some(FaultAction::Status(503)));
        assert_eq!(faults.apply(Operation::V3List, None, Some(0)).answer, None);
        assert_eq!(faults.apply(Operation::V3Audio, Some("b"), Some(1)).answer, None);
    }

    #[test]
    fn draws_probabilities_from_the_seed() {
        let hits = |seed| {
            let fault = Fault { probability: 0.3, ..Fault::new(&[], FaultAction::Status(500)) };
            let mut faults = ActiveFaults::new(seed, &[fault]);
            (0..200).map(|_| faults.apply(Operation::V3List, None, None).answer.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(hits(3), hits(3));
        assert_ne!(hits(3), hits(4));
        let count = hits(3).iter().filter(|hit| **hit).count();
        assert!((30..90).contains(&count), "{count}");
    }
}
