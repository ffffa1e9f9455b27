//! Finding what no webhook has brought: PolyAI's list against the archive.
//!
//! PolyAI gives up on a delivery after some hours, a secret or a toggle can be wrong for days, and some tenants' webhooks
//! announce no conversations at all. The archive has to be complete all the same. So, again and again ([`ReconcileService`]) or
//! because a person wants it (`backfill`, `audit`), conversations are listed ([`crate::polyai::Lister`]) and looked up in
//! the archive, and what is missing is queued as [`conversation.discovered`](crate::event::Discovery): the same queue, the same
//! worker, the same retries as a webhook's.
//!
//! * There is no database: the archive is the ledger, and one listing a day ([`Archive::list_day`](crate::archive::Archive::list_day))
//!   tells what it holds. A pass can end anywhere and the next one knows as much.
//! * A call is left alone until it has been over for `settle`, so that its webhook comes first.
//! * A conversation is fetched once: the queue knows a second finding by reconciliation for a duplicate (for
//!   `queue.dedup_window`; until then it is not asked for again), and a worker that is given one that is archived by then,
//!   because a webhook or another finding was faster, does not fetch it.
//! * Of several replicas one reconciles ([`Archive::lease`](crate::archive::Archive::lease)): twice would be harmless and a
//!   waste. It is a lease in the archive and not a single active consumer of RabbitMQ's, because the embedded queue needs
//!   it too (several processes, one folder), and because a pass is not triggered by a message.
//!
//! Memory: what is known of one or two days, some 50 bytes for each conversation, and a page's few fields.

mod audit;
mod config;
mod pass;
mod service;

pub use audit::{AuditError, AuditFinding, AuditReport, Auditor, FindingKind};
pub use config::ReconcileConfig;
pub use pass::{PassError, PassSummary, QueueingLimits, ReconcilePass};
pub use service::ReconcileService;
