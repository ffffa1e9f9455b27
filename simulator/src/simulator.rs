//! The handle of a running simulator.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    api,
    calls::CallInfo,
    clock::Clock,
    scenario::{Project, Scenario},
    sender::{Sender, SenderOptions},
    server::Server,
    state::SimulatorState,
};

/// A simulated PolyAI. Clones are handles of the same simulator.
#[derive(Clone, Debug)]
pub struct Simulator {
    address: SocketAddr,
    url: Url,
    state: SimulatorState,
    first_project: Project,
}

impl Simulator {
    /// Binds `listen` (port 0 selects a free port). The returned [`Server`] answers requests while its
    /// [`run`](Server::run) is polled, until `shutdown` fires.
    ///
    /// Fails if the address cannot be bound or the scenario has no project.
    pub async fn bind(
        listen: SocketAddr,
        scenario: Scenario,
        clock: Clock,
        shutdown: CancellationToken,
    ) -> io::Result<(Self, Server)> {
        let first_project = scenario
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
        let state = SimulatorState::new(scenario, clock, shutdown.clone());
        let server = Server::new(listener, api::router(&state), shutdown, state.tasks().clone());
        Ok((Self { address, url, state, first_project }, server))
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL of every API. It stands for both of PolyAI's hosts.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The state, to inspect and to control the simulator.
    pub fn state(&self) -> &SimulatorState {
        &self.state
    }

    /// Returns all calls as they are now, oldest first.
    pub fn calls(&self) -> Vec<CallInfo> {
        self.state.calls()
    }

    /// The API key of the first project.
    pub fn api_key(&self) -> &str {
        &self.first_project.api_key
    }

    /// The account of the first project, in its prefixed form.
    pub fn account_id(&self) -> &str {
        &self.first_project.account_id
    }

    /// The first project, in its prefixed form.
    pub fn project_id(&self) -> &str {
        &self.first_project.project_id
    }

    /// The secret that the simulator's own sender signs with.
    pub fn signing_secret(&self) -> &str {
        self.state.signing_secret()
    }

    /// Returns a sender to `target` that signs with the simulator's secret. If
    /// [`SimulatorState::run_sender`] drives it, subscribers of [`SimulatorState::subscribe`] see its deliveries.
    pub fn sender(&self, target: Url, options: SenderOptions) -> Result<Sender, reqwest::Error> {
        Sender::new(target, self.signing_secret(), options, self.state.clock().clone())
    }
}
