//! Publishes the announcements of archived conversations, for the index and for consumers.

use std::{collections::BTreeMap, sync::Arc};

use metrics::counter;

use super::{
    announce,
    failure::{JobFailure, RetryDecision},
    request::{ArchivedConversation, FetchRequest},
};
use crate::{
    archive::{Archive, ArchiveError, Location, MANIFEST, Manifest},
    queue::{Announced, Queue},
    telemetry::trace::Span,
};

/// Announces conversations of one archive: to the index with a note in the archive, and to consumers through one queue.
#[derive(Clone, Debug)]
pub(super) struct Announcer {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) archive: Archive,
    /// True if the archive has an index that must be kept current.
    pub(super) notes_changes: bool,
}

impl Announcer {
    /// Announces an archived conversation, and returns it without a correlation id. This happens in every attempt, because
    /// the worker that archived it may have died before its announcement.
    ///
    /// Returns `None` if the conversation is erased. That is checked after the last write to the archive: either this worker
    /// sees the erasure and removes what it wrote, or the erasure began later and finds it.
    pub(super) async fn announce(
        &self,
        request: &FetchRequest,
        outcome: &'static str,
        location: &Location,
        manifest: Manifest,
    ) -> Result<Option<Box<ArchivedConversation>>, JobFailure> {
        if self.notes_changes {
            self.archive.note_change(location).await?;
        }
        let (account_id, project_id) = (location.account_id(), location.project_id());
        if self.archive.remove_if_erased(account_id, project_id, location.conversation_id()).await? {
            return Ok(None);
        }
        let urls = self.object_urls(location, &manifest)?;
        let mut announcement = announce::archived(&manifest, urls.clone(), request.traceparent.clone())
            .map_err(|error| JobFailure::new("announce", error.to_string(), RetryDecision::Retry(None)))?;
        let span = Span::announce(&announcement.id, || announcement.routing_key(), announcement.body.len());
        announcement.traceparent = span.traceparent().or(announcement.traceparent);
        let announced =
            self.queue.announce(announcement).await.inspect_err(|error| span.set_error(error.label()))?;
        let label = match announced {
            Announced::Delivered => "delivered",
            Announced::Unrouted => {
                tracing::debug!(
                    conversation.id = manifest.conversation_id,
                    "announced, but no queue is bound for it"
                );
                "unrouted"
            }
        };
        counter!("polyhook_announcements_total", "outcome" => label).increment(1);
        let conversation_id = request.conversation_id.clone();
        let correlation_id = None;
        let archived = ArchivedConversation { conversation_id, outcome, manifest, urls, correlation_id };
        Ok(Some(Box::new(archived)))
    }

    /// Returns the URLs of all objects of a conversation, by name.
    fn object_urls(
        &self,
        location: &Location,
        manifest: &Manifest,
    ) -> Result<BTreeMap<String, String>, ArchiveError> {
        let names = manifest.objects.iter().map(|object| object.name.as_str()).chain([MANIFEST]);
        names.map(|name| Ok((name.to_owned(), self.archive.object_url(location, name)?))).collect()
    }
}
