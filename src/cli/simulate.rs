//! `polyhook simulate`: the simulated PolyAI as a process of its own.

use std::{net::SocketAddr, path::PathBuf};

use futures_util::stream;
use serde::Serialize;
use url::Url;

use super::{CliError, output};
use crate::{
    lifecycle::{Lifecycle, ShutdownOutcome},
    telemetry::{self, LogConfig},
};
use polyhook_simulator::{
    BodyForm, Delivery, EventOptions, Scenario, SenderOptions, SignatureForm, Simulator,
};

/// Run a simulated PolyAI: its APIs, and signed deliveries with its retry policy.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook simulate                 APIs only, twenty calls
  polyhook simulate --deliver-to http://127.0.0.1:8080/polyai-events --rate 5
  polyhook simulate --scenario faults.toml --calls 1000

Prints the environment variables that connect `polyhook run` to it. \
The interface under /_simulator/ controls it while it runs.")]
pub(super) struct Args {
    /// Address of the APIs
    #[arg(long, default_value = "127.0.0.1:8088", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Scenario with projects, calls and faults (TOML)
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Number of calls; overrides the scenario
    #[arg(long)]
    calls: Option<u64>,
    /// Seed of all calls, words and recordings; overrides the scenario
    #[arg(long)]
    seed: Option<u64>,
    /// Deliver the events of all calls to this URL
    #[arg(long, value_name = "URL")]
    deliver_to: Option<Url>,
    /// Deliveries per second [default: as fast as the receiver accepts them]
    #[arg(long, requires = "deliver_to")]
    rate: Option<f64>,
    /// Signed bytes
    #[arg(long, value_enum, default_value_t = SignedForm::Timestamped)]
    scheme: SignedForm,
    /// Field names of the bodies
    #[arg(long, value_enum, default_value_t = FieldNames::Quickstart)]
    form: FieldNames,
    /// Factor of PolyAI's waits between attempts (0.001 makes a minute 60 ms)
    #[arg(long, default_value_t = 1.0, requires = "deliver_to")]
    time_scale: f64,
    /// Share of deliveries to send twice, from 0 to 1
    #[arg(long, default_value_t = 0.0, requires = "deliver_to")]
    duplicates: f64,
    /// Shuffle deliveries within a window of this size
    #[arg(long, default_value_t = 0, requires = "deliver_to")]
    reorder: usize,
    /// Exit when all deliveries have ended; exit code 1 if one was not accepted
    #[arg(long, requires = "deliver_to")]
    exit: bool,
    /// Print one JSON object per line instead of text
    #[arg(long)]
    json: bool,
}

/// The signed bytes.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum SignedForm {
    /// `{timestamp}.{body}`, as in the API reference
    Timestamped,
    /// The body alone, as in the quickstart
    Body,
}

impl From<SignedForm> for SignatureForm {
    fn from(form: SignedForm) -> Self {
        match form {
            SignedForm::Timestamped => Self::Timestamped,
            SignedForm::Body => Self::Body,
        }
    }
}

/// The field names of the bodies.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum FieldNames {
    /// `type` and `data`
    Quickstart,
    /// `event_type`
    Reference,
}

impl From<FieldNames> for BodyForm {
    fn from(names: FieldNames) -> Self {
        match names {
            FieldNames::Quickstart => Self::Quickstart,
            FieldNames::Reference => Self::Reference,
        }
    }
}

/// The settings of a receiver. The credentials are made up.
#[derive(Serialize)]
struct Access<'a> {
    url: &'a str,
    api_key: &'a str,
    account_id: &'a str,
    project_id: &'a str,
    signing_secret: &'a str,
    calls: usize,
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    telemetry::init_logs(&LogConfig { level: "warn".to_owned(), ..LogConfig::default() })?;
    let lifecycle = Lifecycle::new();
    lifecycle.install_signal_handlers();
    let clock = polyhook_simulator::Clock::system();
    let (simulator, server) = Simulator::bind(args.listen, scenario(&args)?, clock, lifecycle.draining())
        .await
        .map_err(|error| CliError::Failed(format!("--listen: cannot listen on {}: {error}", args.listen)))?;
    lifecycle.spawn_service("simulator", server.run());
    show_access(&simulator, args.json);
    let Some(target) = args.deliver_to.clone() else {
        return exit_result(lifecycle.run_until_shutdown().await);
    };

    let options = SenderOptions {
        form: args.scheme.into(),
        rate: args.rate,
        time_scale: args.time_scale,
        duplicates: args.duplicates,
        reorder: args.reorder,
        ..SenderOptions::default()
    };
    let sender = simulator.sender(target, options).map_err(|error| CliError::Failed(error.to_string()))?;
    let events = EventOptions { form: args.form.into(), ..EventOptions::default() };
    let calls = simulator.calls();
    let deliveries: Vec<_> = Delivery::of_calls(&calls, &events).collect();
    let sent = deliveries.len();
    let summary = tokio::select! {
        summary = simulator.state().run_sender(&sender, stream::iter(deliveries)) => summary,
        outcome = lifecycle.run_until_shutdown() => return exit_result(outcome),
    };
    if args.json {
        output::json(&summary);
    } else {
        output::line(format!("{} of {sent} deliveries accepted", summary.accepted));
    }
    if !args.exit {
        return exit_result(lifecycle.run_until_shutdown().await);
    }
    lifecycle.drain();
    lifecycle.wait().await;
    if summary.accepted == summary.deliveries { Ok(()) } else { Err(CliError::AlreadyReported) }
}

fn scenario(args: &Args) -> Result<Scenario, CliError> {
    let mut scenario = match &args.scenario {
        Some(path) => {
            let usage =
                |error: &dyn std::fmt::Display| CliError::Usage(format!("{}: {error}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| usage(&error))?;
            Scenario::from_toml(&text).map_err(|error| usage(&error))?
        }
        None => Scenario::default(),
    };
    scenario.calls = args.calls.unwrap_or(scenario.calls);
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    Ok(scenario)
}

fn show_access(simulator: &Simulator, json: bool) {
    let url = simulator.url().as_str().trim_end_matches('/');
    let access = Access {
        url,
        api_key: simulator.api_key(),
        account_id: simulator.account_id(),
        project_id: simulator.project_id(),
        signing_secret: simulator.signing_secret(),
        calls: simulator.calls().len(),
    };
    if json {
        output::json(&access);
        return;
    }
    let Access { api_key, account_id, project_id, signing_secret, calls, .. } = access;
    output::line(format!(
        "# Simulated PolyAI with {}. Run in another shell before `polyhook run`:\n\
         export POLYAI_BASE_URL={url}\nexport POLYAI_PLATFORM_URL={url}\nexport POLYAI_API_KEY={api_key}\n\
         export POLYAI_ACCOUNT_ID={account_id}\nexport POLYAI_PROJECT_ID={project_id}\n\
         export POLYAI_WEBHOOK_SECRET={signing_secret}",
        output::counted(calls as u64, "call")
    ));
}

/// A second signal that aborts the shutdown is a failure.
fn exit_result(outcome: ShutdownOutcome) -> Result<(), CliError> {
    if outcome == ShutdownOutcome::Drained { Ok(()) } else { Err(CliError::AlreadyReported) }
}
