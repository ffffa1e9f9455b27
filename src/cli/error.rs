//! The errors of commands and their exit codes.

use std::process::ExitCode;

use thiserror::Error;

use crate::{app::StartError, config, telemetry::TelemetryError};

/// The exit status of the process. Scripts depend on these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// The command did what it was asked to do.
    Success = 0,
    /// The command failed, or found what it was asked to look for.
    Failure = 1,
    /// The arguments are wrong.
    Usage = 2,
    /// The configuration is wrong (`EX_CONFIG` of sysexits.h). Reported before any socket is bound.
    Config = 78,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

/// The reason why a command failed.
#[derive(Debug, Error)]
pub enum CliError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// A part of the service could not be started, because of the configuration or of the machine.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The services cannot be started, for several reasons.
    #[error("{text}")]
    StartErrors {
        /// One line for each reason.
        text: String,
        /// True if the configuration is a reason.
        is_config: bool,
    },
    /// The logs, traces or metrics cannot be set up as configured.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The arguments are wrong.
    #[error("{0}")]
    Usage(String),
    /// The command failed.
    #[error("{0}")]
    Failed(String),
    /// The command failed and has already printed why.
    #[error("")]
    AlreadyReported,
    /// The configuration is wrong, and the command has already printed why.
    #[error("")]
    ConfigAlreadyReported,
}

impl CliError {
    /// Returns the exit status that this error leads to.
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Config(_)
            | Self::ConfigAlreadyReported
            | Self::Telemetry(_)
            | Self::StartErrors { is_config: true, .. } => ExitStatus::Config,
            Self::Start(error) if error.is_config() => ExitStatus::Config,
            Self::Usage(_) => ExitStatus::Usage,
            Self::Start(_) | Self::StartErrors { .. } | Self::Failed(_) | Self::AlreadyReported => {
                ExitStatus::Failure
            }
        }
    }
}
