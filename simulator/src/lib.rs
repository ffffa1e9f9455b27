//! The stand-in PolyAI: its APIs, and a sender that signs and retries as PolyAI does.
//!
//! It is a feature (`polyhook simulate`, `polyhook demo`) and what the tests talk to, so it reads PolyAI's
//! contract by itself: it shares with the rest of the program only how a signature is made, and nothing
//! with the client that is tested against it.
//!
//! * [`Simulator`] serves the Conversations API v3, the Data API and both families of the Webhooks API on
//!   one address, and `/_simulator/` to drive it ([`control`] has the table). It stops with the lifecycle.
//! * [`Scenario`] says what there is, [`CallScript`] what is special about a call, [`Fault`] what goes wrong.
//!   Everything follows from the scenario's seed: the same scenario has the same calls, word for word and
//!   sample for sample. Times follow from its epoch, which is the start where none is given.
//! * [`Sender`] delivers events. [`SimulatorState::subscribe`] tells what happens, as it happens.
//!
//! Requests pass `server` → `errors::envelope` (correlation id, error bodies) → `gate` (door, key, rate,
//! faults) → `api_v3`, `api_data` or `api_webhooks` → `shapes` or `audio`. Conversations and recordings are
//! made while they are sent; memory grows with the number of calls only.

use std::{io, net::SocketAddr};

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{MethodRouter, get, post},
};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use url::Url;

mod api_data;
mod api_v3;
mod api_webhooks;
mod audio;
mod calls;
mod clock;
pub mod control;
mod conversation;
mod delivery;
mod dialogue;
mod durations;
mod endpoints;
mod errors;
mod faults;
mod gate;
mod order;
mod phrases;
mod query;
mod respond;
mod scenario;
mod sender;
mod server;
mod shapes;
mod signing;
mod state;
mod summary;
#[cfg(test)]
mod tests;

pub use calls::{CallInfo, NewCall};
pub use clock::Clock;
pub use conversation::{Channel, Environment};
pub use delivery::{BodyForm, Delivery, EventOptions};
pub use faults::{Fault, FaultAction, Operation, RetryAfter};
pub use scenario::{
    CallMix, CallScript, CombinedChannels, ErrorEnvelope, LaterChange, ListLimits, Project,
    RecordingAvailability, Scenario, ServedApis, WebhookRules,
};
pub use sender::{AttemptOutcome, DeliveryReport, Sender, SenderOptions, SigningSecret};
pub use server::Server;
pub use signing::{SignatureForm, Tampering};
pub use state::{Activity, SimulatorState};
pub use summary::{DeliverySummary, LatencyPercentiles};

/// A running stand-in. Dropping the handle does not stop it, the lifecycle does.
#[derive(Clone, Debug)]
pub struct Simulator {
    address: SocketAddr,
    url: Url,
    state: SimulatorState,
    first: Project,
}

impl Simulator {
    /// Binds `listen` (port 0 finds a free one) and serves `scenario` until the lifecycle drains.
    pub async fn bind(
        listen: SocketAddr,
        scenario: Scenario,
        clock: Clock,
        shutdown: CancellationToken,
    ) -> io::Result<(Self, Server)> {
        let first = scenario
            .projects
            .first()
            .cloned()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the scenario has no project"))?;
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let reachable = match address.ip() {
            ip if ip.is_unspecified() && ip.is_ipv4() => SocketAddr::from(([127, 0, 0, 1], address.port())),
            ip if ip.is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], address.port())),
            _ => address,
        };
        let url = Url::parse(&format!("http://{reachable}/")).map_err(io::Error::other)?;
        let state = SimulatorState::new(scenario, clock, shutdown);
        let server = Server::new(listener, router(&state), state.clone());
        Ok((Self { address, url, state, first }, server))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stands for both of PolyAI's hosts: the base URL of every API.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// To look into it and to script it.
    pub fn state(&self) -> &SimulatorState {
        &self.state
    }

    /// All calls, oldest first, as they stand now.
    pub fn calls(&self) -> Vec<CallInfo> {
        self.state.calls()
    }

    /// The first project's key.
    pub fn api_key(&self) -> &str {
        &self.first.api_key
    }

    /// The first project's account, prefixed form.
    pub fn account_id(&self) -> &str {
        &self.first.account_id
    }

    /// The first project, prefixed form.
    pub fn project_id(&self) -> &str {
        &self.first.project_id
    }

    /// Signs what the stand-in's own sender delivers.
    pub fn signing_secret(&self) -> &str {
        self.state.secret()
    }

    /// A sender to `target` with the stand-in's secret. [`SimulatorState::run_sender`] makes its deliveries part of what
    /// [`SimulatorState::subscribe`] tells.
    pub fn sender(&self, target: Url, options: SenderOptions) -> Result<Sender, reqwest::Error> {
        Sender::new(target, self.signing_secret(), options, self.state.clock().clone())
    }
}

fn router(state: &SimulatorState) -> Router {
    let gated = |operation: Operation, method: MethodRouter<SimulatorState>| {
        method.route_layer(from_fn_with_state(gate::Gate { state: state.clone(), operation }, gate::gate))
    };
    let conversations = "/v3/{account}/{project}/conversations";
    let agents = "/v1/agents/{project}/conversations";
    let endpoints = "/v1/webhook-endpoints";
    let one = format!("{endpoints}/{{id}}");
    let quickstart = "/v1/webhooks/endpoints";
    Router::new()
        .route(conversations, gated(Operation::V3List, get(api_v3::list)))
        .route(&format!("{conversations}/{{id}}"), gated(Operation::V3Conversation, get(api_v3::get)))
        .route(&format!("{conversations}/{{id}}/audio"), gated(Operation::V3Audio, get(api_v3::audio)))
        .route(agents, gated(Operation::DataList, get(api_data::list)))
        .route(&format!("{agents}/{{id}}"), gated(Operation::DataConversation, get(api_data::get)))
        .route(&format!("{agents}/{{id}}/audio"), gated(Operation::DataAudio, get(api_data::audio)))
        .route(endpoints, gated(Operation::EndpointList, get(api_webhooks::list)))
        .route(endpoints, gated(Operation::EndpointCreate, post(api_webhooks::create)))
        .route(&one, gated(Operation::EndpointGet, get(api_webhooks::get)))
        .route(&one, gated(Operation::EndpointUpdate, axum::routing::patch(api_webhooks::update)))
        .route(&one, gated(Operation::EndpointDelete, axum::routing::delete(api_webhooks::delete)))
        .route(&format!("{one}/rotate-secret"), gated(Operation::EndpointRotate, post(api_webhooks::rotate)))
        .route(quickstart, gated(Operation::QuickstartCreate, post(api_webhooks::quickstart_create)))
        .route(quickstart, gated(Operation::QuickstartManage, get(api_webhooks::quickstart_list)))
        .route(
            &format!("{quickstart}/{{id}}"),
            gated(
                Operation::QuickstartManage,
                get(api_webhooks::quickstart_get)
                    .patch(api_webhooks::quickstart_update)
                    .delete(api_webhooks::delete),
            ),
        )
        .route(
            &format!("{quickstart}/{{id}}/rotate-secret"),
            gated(Operation::QuickstartManage, post(api_webhooks::rotate)),
        )
        .merge(control::router())
        .layer(CatchPanicLayer::new())
        .layer(from_fn_with_state(state.clone(), errors::envelope))
        .with_state(state.clone())
}

/// What a stream of chance is for. Each has its own, so that asking for one thing more does not change
/// everything after it.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Profile,
    Words,
    More,
    Extras,
    Functions,
    Recordings,
    UserVoice,
    AgentVoice,
    Faults,
    Events,
    Duplicates,
    Order,
}

/// The chance for one thing, decided by the seed.
fn rng(seed: u64, index: u64, purpose: Purpose) -> fastrand::Rng {
    fastrand::Rng::with_seed(hash(seed, &format!("{purpose:?} {index}")))
}

fn hash(seed: u64, text: &str) -> u64 {
    let digest = digest(seed, text);
    u64::from_be_bytes(std::array::from_fn(|at| digest[at]))
}

fn digest(seed: u64, text: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    hash.update(text);
    hash.finalize().into()
}

/// Letters and digits that follow from the seed; at most 64.
fn token(seed: u64, text: &str, length: usize) -> String {
    hex::encode(digest(seed, text)).chars().take(length).collect()
}

/// A version 4 UUID of that chance.
fn uuid(dice: &mut fastrand::Rng) -> String {
    uuid::Builder::from_random_bytes(dice.u128(..).to_be_bytes()).into_uuid().to_string()
}
