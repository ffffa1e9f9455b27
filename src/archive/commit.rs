//! The commit of a conversation: it becomes visible once and in order, even if several workers write it.
//!
//! All slow work is done before: the recordings are staged. A commit reads the current state, decides, copies the bytes
//! that it replaces (`revision.rs`), and then writes `conversation.json`, the recordings and the manifest. Two writers must
//! not do this at the same time, because the manifest of one could name the bytes of the other:
//!
//! * Within a process a mutex prevents it, and in a folder a file lock does so between processes.
//! * In a bucket `conversation.json` is the lock. It is written on the condition that it has not changed since it was
//!   read. From then on it differs from what the manifest names. Other writers see this and wait for the manifest. A
//!   writer gives up after three quarters of [`TAKEOVER_TIMEOUT`]. If nothing changes for the whole timeout, the
//!   writer is dead, and the next one takes over. No two clocks are compared.
//!   A writer marks `conversation.json` with its id, so that after a failure it recognises its own lock and continues.
//!   In a bucket that was restored or copied, `ETag`s differ from the manifest's although the bytes do not; that is
//!   not a lock.
//! * The manifest is written on the condition that it is the one on which the decision was based. Even so, the bytes
//!   can differ from the manifest in rare cases: two writers with the same `conversation.json` and different
//!   recordings, or a machine that was suspended for a minute. The writer that detects this returns
//!   [`ArchiveError::Raced`]. The next attempt finds the damage ([`StoredConversation::is_intact`]) and repairs it.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use object_store::{Attribute, GetOptions, ObjectMeta, PutPayload, PutResult, UpdateVersion};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    Archive, ArchiveError, StoredConversation,
    audio::StagedAudio,
    key::{CONVERSATION, Location, MANIFEST},
    manifest::{
        AudioStatus, Handoff, Manifest, ManifestDraft, ManifestObject, ObjectKind, SCHEMA_VERSION, Timings,
    },
    revision,
    write_decision::{WriteDecision, decide_write},
};
use crate::disk::SpaceUse;

/// The default time after which other writers take over from a writer that changes nothing. A writer gives up after
/// three quarters of it.
pub(super) const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(40);
/// The largest normal difference between the clocks of two workers.
const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(1);
/// The interval at which a waiting writer checks the current state.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
pub(super) const JSON: &str = "application/json";
/// The beginning of every warning about a recording.
const RECORDING_WARNING: &str = "recording_";
/// The metadata of `conversation.json` that names the process that wrote it.
const WRITER_METADATA: &str = "writer";

/// The outcome of a commit, with the manifest that the archive has now.
#[derive(Clone, Debug, PartialEq)]
pub enum CommitOutcome {
    /// This copy was written.
    Written(Manifest),
    /// The archive already had this copy.
    Unchanged(Manifest),
    /// The archive already had a newer copy.
    Stale(Manifest),
}

impl CommitOutcome {
    /// Returns the manifest that the archive has now.
    pub fn manifest(&self) -> &Manifest {
        match self {
            Self::Written(manifest) | Self::Unchanged(manifest) | Self::Stale(manifest) => manifest,
        }
    }

    /// Returns the manifest that the archive has now, by value.
    pub fn into_manifest(self) -> Manifest {
        match self {
            Self::Written(manifest) | Self::Unchanged(manifest) | Self::Stale(manifest) => manifest,
        }
    }

    /// Returns a short constant word for metric labels.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Written(_) => "written",
            Self::Unchanged(_) => "unchanged",
            Self::Stale(_) => "stale",
        }
    }
}

/// The next step of a commit.
enum CommitStep {
    /// Nothing is left to write.
    Finish(Box<CommitOutcome>),
    /// Another writer has started.
    Wait,
    /// The new copy must be written.
    Write(Box<WritePlan>),
}

/// The manifest to write, and the objects that it replaces.
struct WritePlan {
    manifest: Manifest,
    /// The manifest of the copy that is replaced, if its `conversation.json` has other bytes.
    earlier: Option<Manifest>,
    /// The `conversation.json` to replace.
    conversation: Option<ObjectMeta>,
    /// The manifest to replace.
    version: Option<UpdateVersion>,
}

/// A `conversation.json` in the store.
struct StoredDocument {
    meta: ObjectMeta,
    /// The process that wrote it, if it is known.
    writer: Option<String>,
}

impl Archive {
    /// Archives a conversation with its recordings, unless the archive has this copy or a newer one. Earlier
    /// recordings that are not replaced stay, and stay in the manifest.
    ///
    /// The result is durable when the function returns. After an error nothing has changed, or the next attempt completes
    /// the change. Avoid cancelling it: in a bucket the next writer would wait for the takeover timeout.
    pub async fn commit(
        &self,
        location: &Location,
        draft: &ManifestDraft,
        conversation: Bytes,
        audio: Vec<StagedAudio>,
    ) -> Result<CommitOutcome, ArchiveError> {
        let _lock = self.lock_commits(location).await?;
        let candidate = self.build_manifest(location, draft, &conversation, &audio);
        let mut watched: Option<(Option<String>, Instant)> = None;
        loop {
            let take_over =
                watched.as_ref().is_some_and(|(_, since)| since.elapsed() >= self.takeover_timeout);
            match self.next_step(location, &candidate, draft, take_over).await? {
                CommitStep::Finish(committed) => {
                    drop(audio);
                    self.abort_dropped_uploads().await;
                    return Ok(*committed);
                }
                CommitStep::Write(mut plan) => {
                    if let Some(earlier) = &plan.earlier {
                        let copy = self.keep_revision(location, earlier).await?;
                        revision::add(&mut plan.manifest, earlier.revision, copy);
                    }
                    match self.lock_conversation(location, &plan, &conversation).await? {
                        Some(written) => {
                            let writing = self.write_objects(location, *plan, written, &candidate, audio);
                            return match self.backend.folder {
                                Some(_) => writing.await,
                                None => tokio::time::timeout(self.takeover_timeout * 3 / 4, writing)
                                    .await
                                    .unwrap_or(Err(ArchiveError::Raced)),
                            };
                        }
                        // Another writer was faster. Read the state again.
                        None => watched = None,
                    }
                }
                CommitStep::Wait => {
                    let now =
                        self.head(&self.key(location, CONVERSATION)?).await?.and_then(|meta| meta.e_tag);
                    if watched.as_ref().is_none_or(|(before, _)| *before != now) {
                        watched = Some((now, Instant::now()));
                    }
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            }
        }
    }

    /// Reads the current state and decides. With [`ManifestDraft::force_rewrite`], an identical copy is written, too. With
    /// `take_over`, another writer that has started counts as dead.
    async fn next_step(
        &self,
        location: &Location,
        candidate: &Manifest,
        draft: &ManifestDraft,
        take_over: bool,
    ) -> Result<CommitStep, ArchiveError> {
        let stored = self.read_manifest(&self.key(location, MANIFEST)?, location).await?;
        let document = self.stored_document(location).await?;
        let existing = stored.as_ref().map(|(manifest, _)| manifest);
        let locked = self.backend.folder.is_none()
            && !take_over
            && self.is_locked_by_other(existing, document.as_ref()).await?;
        let conversation = document.map(|document| document.meta);
        let Some((existing, version)) = stored else {
            let manifest = Manifest { revision: 1, ..candidate.clone() };
            let plan = WritePlan { manifest, earlier: None, conversation, version: None };
            return Ok(if locked { CommitStep::Wait } else { CommitStep::Write(Box::new(plan)) });
        };
        // The objects of a locked conversation change at this moment.
        let mut damaged =
            if locked { Vec::new() } else { self.find_damage(location, &existing, false).await? };
        if draft.force_rewrite && !locked {
            // A repair writes everything else again.
            damaged.extend(self.find_damaged_revisions(location, &existing).await?);
        }
        let intact = damaged.is_empty();
        let revision = match self.decide(&existing, candidate) {
            WriteDecision::Write { revision } => revision,
            WriteDecision::Unchanged if (intact && !draft.force_rewrite) || locked => {
                return Ok(CommitStep::Finish(Box::new(CommitOutcome::Unchanged(existing))));
            }
            // An object was removed or changed from outside. Write it again.
            WriteDecision::Unchanged => existing.revision.saturating_add(1),
            WriteDecision::Stale => {
                if !intact && !locked {
                    tracing::warn!(
                        conversation.folder = %location,
                        "archived objects differ from their manifest; fetch the conversation again to repair them"
                    );
                }
                return Ok(CommitStep::Finish(Box::new(CommitOutcome::Stale(existing))));
            }
        };
        if locked {
            return Ok(CommitStep::Wait);
        }
        let new = Manifest { revision, ..candidate.clone() };
        let mut manifest = if draft.json_only {
            keep_all_recordings(&existing, new)
        } else {
            keep_recordings(&existing, &damaged, new)
        };
        revision::carry_over(&existing, &damaged, &mut manifest);
        let hash = |manifest: &Manifest| manifest.conversation().map(|object| object.sha256.clone());
        let is_replaced = hash(&existing) != hash(&manifest);
        let earlier = is_replaced.then_some(existing);
        Ok(CommitStep::Write(Box::new(WritePlan { manifest, earlier, conversation, version: Some(version) })))
    }

    async fn stored_document(&self, location: &Location) -> Result<Option<StoredDocument>, ArchiveError> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = match self.backend.store.get_opts(&self.key(location, CONVERSATION)?, options).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let writer = found.attributes.get(&Attribute::Metadata(WRITER_METADATA.into()));
        let writer = writer.map(|writer| writer.to_string());
        Ok(Some(StoredDocument { meta: found.meta, writer }))
    }

    /// Returns true if another writer has written the conversation, but not yet the manifest that names it.
    async fn is_locked_by_other(
        &self,
        existing: Option<&Manifest>,
        document: Option<&StoredDocument>,
    ) -> Result<bool, ArchiveError> {
        let Some(StoredDocument { meta, writer }) = document else { return Ok(false) };
        // This process commits a conversation once at a time, so this is what a failed attempt has left.
        if writer.as_deref() == Some(&*self.writer) {
            return Ok(false);
        }
        let Some(existing) = existing else { return Ok(true) };
        let Some(named) = existing.conversation() else { return Ok(false) };
        if named.etag.is_none() || named.etag == meta.e_tag {
            return Ok(false);
        }
        Ok(!self.is_intact(&meta.location, named, false).await?)
    }

    /// Decides like [`decide_write()`]. A fetch in the future was recorded while a clock was ahead, and counts as an early
    /// one: otherwise the copy would keep newer ones out until that time.
    fn decide(&self, existing: &Manifest, candidate: &Manifest) -> WriteDecision {
        let ahead = existing.timings.fetched_at.duration_since(self.clock.now());
        if ahead <= MAX_CLOCK_SKEW {
            return decide_write(existing, candidate);
        }
        let mut existing = existing.clone();
        existing.timings.fetched_at = Timestamp::MIN;
        decide_write(&existing, candidate)
    }

    /// Writes `conversation.json` if it has not changed since it was read. From then on this writer holds the lock.
    /// Returns `None` if it has changed.
    async fn lock_conversation(
        &self,
        location: &Location,
        plan: &WritePlan,
        conversation: &Bytes,
    ) -> Result<Option<PutResult>, ArchiveError> {
        let mode = self.backend.replace(
            plan.conversation
                .as_ref()
                .map(|meta| UpdateVersion { e_tag: meta.e_tag.clone(), version: meta.version.clone() }),
        );
        let mut attributes = self.backend.attributes(JSON);
        if self.backend.folder.is_none() {
            attributes.insert(Attribute::Metadata(WRITER_METADATA.into()), self.writer.to_string().into());
        }
        let (key, body) = (self.key(location, CONVERSATION)?, PutPayload::from(conversation.clone()));
        let written = self.backend.put(&key, body, mode, attributes, SpaceUse::Document).await?;
        if written.is_some() {
            count_bytes(ObjectKind::Conversation.as_str(), conversation.len() as u64);
        }
        Ok(written)
    }

    async fn write_objects(
        &self,
        location: &Location,
        plan: WritePlan,
        written: PutResult,
        candidate: &Manifest,
        audio: Vec<StagedAudio>,
    ) -> Result<CommitOutcome, ArchiveError> {
        let WritePlan { mut manifest, version, .. } = plan;
        let mut published = Vec::new();
        for staged in audio {
            let key = self.key(location, &staged.object().name)?;
            let object = staged.publish(&self.backend, &key).await?;
            count_bytes(ObjectKind::Audio.as_str(), object.size_bytes);
            published.push(object);
        }
        for object in &mut manifest.objects {
            if object.name == CONVERSATION && self.backend.folder.is_none() {
                object.etag.clone_from(&written.e_tag);
            } else if let Some(new) = published.iter().find(|new| new.name == object.name) {
                object.clone_from(new);
            }
        }
        manifest.timings.archived_at = self.clock.now();
        let body = serde_json::to_vec_pretty(&manifest).map_err(|error| ArchiveError::Manifest {
            key: location.to_string(),
            reason: error.to_string(),
        })?;
        let size = body.len() as u64;
        let (key, mode) = (self.key(location, MANIFEST)?, self.backend.replace(version));
        let attributes = self.backend.attributes(JSON);
        if self.backend.put(&key, body.into(), mode, attributes, SpaceUse::Document).await?.is_none() {
            return self.after_conflict(location, &manifest, candidate).await;
        }
        count_bytes("manifest", size);
        Ok(CommitOutcome::Written(manifest))
    }

    /// Resolves a failed conditional write of the manifest. The current manifest may be ours, if the store repeated a
    /// request whose answer was lost. It may be another writer's, which is fine if it names the current bytes.
    async fn after_conflict(
        &self,
        location: &Location,
        ours: &Manifest,
        candidate: &Manifest,
    ) -> Result<CommitOutcome, ArchiveError> {
        let Some(stored) = self.read(location).await?.filter(StoredConversation::is_intact) else {
            return Err(ArchiveError::Raced);
        };
        let theirs = stored.manifest;
        if theirs.timings == ours.timings && theirs.provenance == ours.provenance {
            return Ok(CommitOutcome::Written(theirs));
        }
        match self.decide(&theirs, candidate) {
            WriteDecision::Write { .. } => Err(ArchiveError::Raced),
            WriteDecision::Unchanged => Ok(CommitOutcome::Unchanged(theirs)),
            WriteDecision::Stale => Ok(CommitOutcome::Stale(theirs)),
        }
    }

    fn build_manifest(
        &self,
        location: &Location,
        draft: &ManifestDraft,
        conversation: &Bytes,
        audio: &[StagedAudio],
    ) -> Manifest {
        let mut facts = draft.facts.clone();
        facts.handoff = facts.handoff.map(remove_addresses);
        let document = ManifestObject {
            name: CONVERSATION.to_owned(),
            kind: ObjectKind::Conversation,
            direction: None,
            size_bytes: conversation.len() as u64,
            sha256: sha256(conversation),
            content_type: JSON.to_owned(),
            wav: None,
            etag: None,
        };
        Manifest {
            schema_version: SCHEMA_VERSION,
            revision: 0,
            conversation_id: location.conversation_id().to_owned(),
            account_id: location.account_id().to_owned(),
            project_id: location.project_id().to_owned(),
            facts,
            objects: std::iter::once(document).chain(audio.iter().map(|a| a.object().clone())).collect(),
            audio: draft.audio,
            warnings: draft.warnings.clone(),
            provenance: draft.provenance.clone(),
            timings: Timings {
                received_at: draft.received_at,
                fetched_at: draft.fetched_at,
                archived_at: self.clock.now(),
            },
            polyhook_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Adds the earlier recordings that the new copy does not replace, unless their redaction differs.
fn keep_recordings(existing: &Manifest, damaged: &[String], mut new: Manifest) -> Manifest {
    let is_incomplete = new.audio.status != AudioStatus::Ready;
    let replaces_some = new.objects.iter().any(|object| object.kind == ObjectKind::Audio);
    if (replaces_some || !is_incomplete) && existing.audio.redacted != new.audio.redacted {
        return new;
    }
    let kept = existing.objects.iter().filter(|object| {
        object.kind == ObjectKind::Audio
            && !damaged.contains(&object.name)
            && !new.objects.iter().any(|other| other.name == object.name)
    });
    let kept: Vec<_> = kept.cloned().collect();
    if is_incomplete && existing.audio.status == AudioStatus::Ready && !kept.is_empty() {
        new.audio = existing.audio;
    }
    new.objects.extend(kept);
    new
}

/// Leaves the recordings, and what the earlier manifest says about them, as they are.
fn keep_all_recordings(existing: &Manifest, mut new: Manifest) -> Manifest {
    new.audio = existing.audio;
    new.objects.extend(existing.objects.iter().filter(|object| object.kind == ObjectKind::Audio).cloned());
    let is_about_recordings = |warning: &&String| warning.starts_with(RECORDING_WARNING);
    new.warnings.extend(existing.warnings.iter().filter(is_about_recordings).cloned());
    new
}

/// Removes a reason or destination that looks like a phone number or an address. Names stay.
fn remove_addresses(handoff: Handoff) -> Handoff {
    let is_safe = |text: &String| {
        text.bytes().filter(u8::is_ascii_digit).count() < 5 && !text.contains('@') && !text.contains(':')
    };
    Handoff { reason: handoff.reason.filter(is_safe), destination: handoff.destination.filter(is_safe) }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub(super) fn count_bytes(kind: &'static str, bytes: u64) {
    metrics::counter!("polyhook_archive_bytes_total", "kind" => kind).increment(bytes);
}
