//! Reconciliation of PolyAI's list of conversations with the archive: finds the conversations that no webhook
//! announced.
//!
//! PolyAI stops retrying a delivery after some hours, a secret or a setting can be wrong for days, and the webhooks
//! of some tenants announce no conversations. The archive must become complete nevertheless. Therefore conversations
//! are listed ([`crate::polyai::ConversationLister`]) and compared with the archive, periodically ([`ReconcileService`]) or by a
//! command (`backfill`, `audit`). Missing ones are queued as [`conversation.discovered`](crate::event::Discovery),
//! for the same queue, worker and retries as those of webhooks.
//!
//! * A pass lists what is new, and later the same calls again at growing ages, because PolyAI may list a call late
//!   (`progress`). A conversation is listed five or six times. A call that has not settled is followed by its id
//!   (`project_pass`).
//! * There is no database. The archive itself records what is archived, and a small object in it the progress of the lists.
//!   A pass can end anywhere, and the next one continues from the same knowledge.
//! * A page, window or project that cannot be listed, a day of the archive that cannot be read and a message that cannot
//!   be queued do not affect the others. They are named, and tried first in the next pass.
//! * A call is ignored until `settle` after its end, so that its webhook comes first.
//! * A conversation is fetched once. If reconciliation finds it again, the queue recognises a duplicate (for
//!   `queue.dedup_window`). A worker does not fetch a conversation that was archived in the meantime.
//! * One of several replicas reconciles at a time ([`Archive::lease`](crate::archive::Archive::lease)). Two would be
//!   harmless, but wasteful. The lease is in the archive and not a single active consumer of RabbitMQ, because the
//!   embedded queue needs it, too (several processes, one folder), and because no message triggers a pass.
//!
//! Memory: about 50 bytes for each conversation of one or two days, and a few fields for each entry of one page.

mod archived;
mod audit;
mod config;
mod last_run;
mod pass;
mod pending;
mod progress;
mod project_pass;
mod results;
mod service;

pub use audit::{AuditFinding, AuditReport, Auditor, FindingKind};
pub use config::ReconcileConfig;
pub use last_run::{LastAudit, LastPass};
pub use pass::{PassError, PassOutcome, PassSummary, QueueingLimits, ReconcilePass, publish_discovery};
pub use pending::{Backlog, PendingConversations, PendingCounts, PendingError};
pub use service::{PassReport, ReconcileService, Scope};
