//! Opens the sources of a status.

use super::StartError;
use crate::{
    archive::ArchiveReader,
    clock::Clock,
    config::{Config, Roles},
    queue::{QueueBackend, rabbitmq::BrokerObserver},
    status::{ArchiveSource, QueueSource, SpoolSource, StatusReader},
    web::AdminConfig,
};

/// Opens the sources that `config` names. Connects to none of them and creates nothing.
pub fn open_status_reader(config: &Config, clock: Clock) -> Result<StatusReader, StartError> {
    open_status_reader_of(config, &config.admin, clock)
}

/// Like [`open_status_reader`], but asks the process at another admin listener.
pub(super) fn open_status_reader_of(
    config: &Config,
    admin: &AdminConfig,
    clock: Clock,
) -> Result<StatusReader, StartError> {
    let queue = match config.queue.backend()? {
        QueueBackend::Sqlite(path) => QueueSource::File(path),
        QueueBackend::RabbitMq => {
            // A receiver's configuration has no delays, and its workers often have the default ones.
            let defaults = Config::default();
            let delays = [&config.retry.delays[..], &defaults.retry.delays].concat();
            let refresh_ages =
                [config.refresh_ages(Roles::NONE), defaults.refresh_ages(Roles::NONE)].concat();
            let observer = BrokerObserver::new(&config.queue, &delays, &refresh_ages)?;
            QueueSource::Broker(Box::new(observer))
        }
    };
    let spool = (matches!(queue, QueueSource::Broker(_)) && !config.spool.path.as_os_str().is_empty())
        .then(|| SpoolSource { path: config.spool.path.clone(), max_bytes: config.spool.max_bytes.as_u64() });
    let reader = ArchiveReader::open(&config.archive).map_err(|error| error.to_string());
    let archive = ArchiveSource {
        url: config.archive.url.clone(),
        reader,
        reconciles: !config.reconcile.every.is_zero(),
        has_index: config.index.enabled,
    };
    Ok(StatusReader::new(queue, spool, archive, admin.local_url(""), clock))
}
