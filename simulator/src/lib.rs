//! A simulated PolyAI: its REST APIs, and a webhook sender that signs and retries as PolyAI does.
//!
//! `polyhook demo`, `polyhook simulate` and `polyhook send` use it, and so do polyhook's tests and benchmarks. It
//! depends on nothing of polyhook: it is an independent reading of PolyAI's contract, so that a misreading in
//! polyhook shows in the tests.
//!
//! * [`Simulator`] serves the Conversations API v3, the Data API and both families of the Webhooks API on one address,
//!   and the [`control`] interface under `/_simulator/`.
//! * A [`Scenario`] defines the projects, the calls and the faults. A [`CallScript`] defines what is special about one
//!   call, a [`Fault`] what goes wrong. Everything follows from the scenario's seed: the same scenario has the same
//!   calls with the same words and the same recordings. Times count back from the scenario's epoch, or from the start.
//! * A [`Sender`] delivers events. [`SimulatorState::subscribe`] reports what happens.
//!
//! A request passes [`Server`], then the middleware in `api` (error envelope, open route, key, rate limit, faults), then
//! a handler. Conversations and recordings are generated while they are sent, so memory grows only with the number of
//! calls.

mod api;
mod audio;
mod calls;
mod clock;
pub mod control;
mod delivery;
mod durations;
mod endpoints;
mod error;
mod fault;
mod random;
mod scenario;
mod script;
mod sender;
mod server;
mod signing;
mod simulator;
mod state;
#[cfg(test)]
mod tests;

pub use calls::{CallInfo, Channel, Environment, NewCall};
pub use clock::Clock;
pub use delivery::{BodyForm, Delivery, EventOptions};
pub use error::ErrorEnvelope;
pub use fault::{Fault, FaultAction, Operation, RetryAfter};
pub use scenario::{CallMix, CombinedChannels, ListLimits, Project, Scenario, ServedApis, WebhookRules};
pub use script::{CallScript, LaterChange, RecordingAvailability};
pub use sender::{
    AttemptOutcome, DeliveryReport, DeliverySummary, LatencyPercentiles, Sender, SenderOptions, SigningSecret,
};
pub use server::Server;
pub use signing::{SignatureForm, Tampering};
pub use simulator::Simulator;
pub use state::{Activity, SimulatorState};
