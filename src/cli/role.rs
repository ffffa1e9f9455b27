//! The roles that checks are made for.

use crate::{
    app::{self, MachineReport},
    config::{Config, Roles},
    queue::rabbitmq::probe::BrokerUser,
};

/// A role in the words of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Role {
    /// Receiver, worker and reconciliation in one process
    Run,
    /// Receiver
    Receive,
    /// Worker, which also reconciles
    Work,
    /// Reconciliation alone
    Reconcile,
    /// Console alone
    Console,
    /// Commands of an operator, such as status, dead, fetch and backfill
    Operate,
}

impl Role {
    /// Returns the tasks of the role. The commands of an operator need what reconciliation needs.
    pub(super) fn roles(self) -> Roles {
        match self {
            Self::Run => Roles::ALL,
            Self::Receive => Roles::RECEIVE,
            Self::Work => Roles::WORK,
            Self::Console => Roles::CONSOLE,
            Self::Reconcile | Self::Operate => Roles::RECONCILE,
        }
    }

    /// Checks the ports, files and folders that the services of the role need on this machine.
    pub(super) async fn check_machine(self, config: &Config) -> MachineReport {
        match self {
            // An operator's commands open no port.
            Self::Operate => MachineReport::default(),
            _ => app::check_machine(config, self.roles()).await,
        }
    }

    /// Returns what the role does on RabbitMQ.
    pub(super) fn broker_user(self, config: &Config) -> BrokerUser {
        match self {
            Self::Run if config.console.enabled => BrokerUser::WorkerWithConsole,
            Self::Run | Self::Work => BrokerUser::Worker,
            Self::Receive | Self::Reconcile => BrokerUser::Publisher,
            Self::Console if !config.console.allow_replay => BrokerUser::Viewer,
            // Replays need what the operator's commands need.
            Self::Console | Self::Operate => BrokerUser::Operator,
        }
    }

    /// The word on the command line.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Receive => "receive",
            Self::Work => "work",
            Self::Reconcile => "reconcile",
            Self::Console => "console",
            Self::Operate => "operate",
        }
    }
}
