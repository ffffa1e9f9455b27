//! Making a conversation visible, once and in order, whoever else tries.
//!
//! All that is slow has been done before: recordings are staged. A commit reads what is there, decides, and
//! then writes `conversation.json`, the recordings and the manifest. No two writers may be in there together, or
//! the manifest of one could name the bytes of the other:
//!
//! * Within a process a mutex sees to it, and in a folder a file lock between processes.
//! * In a bucket `conversation.json` is the lock. It is written on the condition that it still is what was
//!   there before, and from then on it is not what the manifest names, which others see: they wait for the
//!   manifest. A writer gives up when three quarters of [`PATIENCE`] are over; one that has changed nothing for
//!   all of it is dead, and the next takes over. Nobody's clock is compared with anybody else's.
//! * The manifest is written on the condition that it is the one the decision was based on. Where in spite of
//!   all that (two writers with the same `conversation.json` and different recordings, a machine that was
//!   asleep for a minute) the bytes are not what the manifest names, the writer who finds out returns
//!   [`ArchiveError::Raced`], and the next try finds the damage ([`StoredConversation::is_intact`]) and mends it.

use std::time::Duration;

use bytes::Bytes;
use object_store::{ObjectMeta, PutOptions, PutPayload, PutResult, UpdateVersion};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    Archive, ArchiveError, StoredConversation,
    audio::StagedAudio,
    conflicted,
    key::{CONVERSATION, Location, MANIFEST},
    manifest::{
        AudioStatus, Handoff, Manifest, ManifestDraft, ManifestObject, ObjectKind, SCHEMA_VERSION, Timings,
    },
    write_decision::{WriteDecision, decide_write},
};

/// How long, at first, the others watch a writer that does nothing; it gives up after three quarters of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);
/// How often they look.
const LOOK: Duration = Duration::from_millis(200);
const JSON: &str = "application/json";

/// How a commit ended.
#[derive(Clone, Debug, PartialEq)]
pub enum CommitOutcome {
    /// It is in the archive, as this manifest says.
    Written(Manifest),
    /// It was already; this is what lies there.
    Unchanged(Manifest),
    /// Something newer was; this is what lies there.
    Stale(Manifest),
}

impl CommitOutcome {
    /// What lies in the archive now.
    pub fn manifest(&self) -> &Manifest {
        match self {
            Self::Written(manifest) | Self::Unchanged(manifest) | Self::Stale(manifest) => manifest,
        }
    }

    /// The same, taken out.
    pub fn into_manifest(self) -> Manifest {
        match self {
            Self::Written(manifest) | Self::Unchanged(manifest) | Self::Stale(manifest) => manifest,
        }
    }

    /// A short constant word for metric labels.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Written(_) => "written",
            Self::Unchanged(_) => "unchanged",
            Self::Stale(_) => "stale",
        }
    }
}

/// What to do about what lies there.
enum Verdict {
    Leave(Box<CommitOutcome>),
    /// Somebody else is writing.
    Wait,
    Write(Box<Plan>),
}

struct Plan {
    manifest: Manifest,
    /// The conversation that is to be replaced.
    conversation: Option<ObjectMeta>,
    /// The manifest that is to be replaced.
    version: Option<UpdateVersion>,
}

impl Archive {
    /// Archives a conversation with its recordings, unless the archive has this copy or a newer one. Recordings that
    /// are there and not replaced stay, and stay in the manifest.
    ///
    /// Durable when it returns. On an error nothing has changed, or the next try completes it. Not to be
    /// cancelled lightly: in a bucket the next writer would then wait for a while.
    pub async fn commit(
        &self,
        location: &Location,
        draft: &ManifestDraft,
        conversation: Bytes,
        audio: Vec<StagedAudio>,
    ) -> Result<CommitOutcome, ArchiveError> {
        let bucket = Sha256::digest(location.folder())[0];
        let _turn = self.turn(bucket).await;
        let _lock = match &self.backend.folder {
            Some(folder) => Some(folder.lock_bucket(bucket).await?),
            None => None,
        };
        let candidate = self.manifest_of(location, draft, &conversation, &audio);
        let mut watched: Option<(Option<String>, Instant)> = None;
        loop {
            let stale = watched.as_ref().is_some_and(|(_, since)| since.elapsed() >= self.patience);
            match self.judge(location, &candidate, draft.again, stale).await? {
                Verdict::Leave(committed) => {
                    drop(audio);
                    self.abort_dropped_uploads().await;
                    return Ok(*committed);
                }
                Verdict::Write(plan) => match self.claim(location, &plan, &conversation).await? {
                    Some(claim) => {
                        let writing = self.publish(location, *plan, claim, &candidate, audio);
                        return match self.backend.folder {
                            Some(_) => writing.await,
                            None => tokio::time::timeout(self.patience * 3 / 4, writing)
                                .await
                                .unwrap_or(Err(ArchiveError::Raced)),
                        };
                    }
                    // Somebody was faster; look again.
                    None => watched = None,
                },
                Verdict::Wait => {
                    let now =
                        self.meta(&self.key(location, CONVERSATION)?).await?.and_then(|meta| meta.e_tag);
                    if watched.as_ref().is_none_or(|(before, _)| *before != now) {
                        watched = Some((now, Instant::now()));
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// Looks at what lies there and decides. `again`: what is the same is written all the same. `patient`: whoever holds the conversation is taken for dead.
    async fn judge(
        &self,
        location: &Location,
        candidate: &Manifest,
        again: bool,
        patient: bool,
    ) -> Result<Verdict, ArchiveError> {
        let stored = self.read(location).await?;
        let conversation = self.meta(&self.key(location, CONVERSATION)?).await?;
        let held = self.backend.folder.is_none()
            && !patient
            && held_by_other(stored.as_ref(), conversation.as_ref());
        let Some(StoredConversation { manifest: existing, damaged, version }) = stored else {
            let manifest = Manifest { revision: 1, ..candidate.clone() };
            let plan = Plan { manifest, conversation, version: None };
            return Ok(if held { Verdict::Wait } else { Verdict::Write(Box::new(plan)) });
        };
        let intact = damaged.is_empty();
        let revision = match decide_write(&existing, candidate) {
            WriteDecision::Write { revision } => revision,
            WriteDecision::Unchanged if (intact && !again) || held => {
                return Ok(Verdict::Leave(Box::new(CommitOutcome::Unchanged(existing))));
            }
            // Something was removed or changed by other hands: put it right.
            WriteDecision::Unchanged => existing.revision.saturating_add(1),
            WriteDecision::Stale => {
                if !intact && !held {
                    tracing::warn!(
                        conversation.folder = %location,
                        "archived objects are not what their manifest names; fetching the conversation again mends it"
                    );
                }
                return Ok(Verdict::Leave(Box::new(CommitOutcome::Stale(existing))));
            }
        };
        if held {
            return Ok(Verdict::Wait);
        }
        let manifest = keep_recordings(&existing, &damaged, Manifest { revision, ..candidate.clone() });
        Ok(Verdict::Write(Box::new(Plan { manifest, conversation, version: Some(version) })))
    }

    /// Writes `conversation.json` if nobody did since it was looked at; from then on it is ours to go on.
    async fn claim(
        &self,
        location: &Location,
        plan: &Plan,
        conversation: &Bytes,
    ) -> Result<Option<PutResult>, ArchiveError> {
        let mode = self.backend.replace(
            plan.conversation
                .as_ref()
                .map(|meta| UpdateVersion { e_tag: meta.e_tag.clone(), version: meta.version.clone() }),
        );
        let options = PutOptions { mode, attributes: self.backend.attributes(JSON), ..PutOptions::default() };
        let key = self.key(location, CONVERSATION)?;
        match self.backend.store.put_opts(&key, PutPayload::from(conversation.clone()), options).await {
            Ok(result) => {
                count(ObjectKind::Conversation.as_str(), conversation.len() as u64);
                Ok(Some(result))
            }
            Err(error) if conflicted(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn publish(
        &self,
        location: &Location,
        plan: Plan,
        claim: PutResult,
        candidate: &Manifest,
        audio: Vec<StagedAudio>,
    ) -> Result<CommitOutcome, ArchiveError> {
        let Plan { mut manifest, version, .. } = plan;
        let mut published = Vec::new();
        for staged in audio {
            let key = self.key(location, &staged.object().name)?;
            let object = staged.publish(&self.backend, &key).await?;
            count(ObjectKind::Audio.as_str(), object.size_bytes);
            published.push(object);
        }
        for object in &mut manifest.objects {
            if object.name == CONVERSATION && self.backend.folder.is_none() {
                object.etag.clone_from(&claim.e_tag);
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
        let options = PutOptions {
            mode: self.backend.replace(version),
            attributes: self.backend.attributes(JSON),
            ..PutOptions::default()
        };
        match self.backend.store.put_opts(&self.key(location, MANIFEST)?, body.into(), options).await {
            Ok(_) => {
                count("manifest", size);
                Ok(CommitOutcome::Written(manifest))
            }
            Err(error) if conflicted(&error) => self.after_conflict(location, &manifest, candidate).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Another manifest lies there. It may be ours, its answer lost and the request repeated; or somebody
    /// else's, which is well if it names the bytes that are there.
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
        match decide_write(&theirs, candidate) {
            WriteDecision::Write { .. } => Err(ArchiveError::Raced),
            WriteDecision::Unchanged => Ok(CommitOutcome::Unchanged(theirs)),
            WriteDecision::Stale => Ok(CommitOutcome::Stale(theirs)),
        }
    }

    fn manifest_of(
        &self,
        location: &Location,
        draft: &ManifestDraft,
        conversation: &Bytes,
        audio: &[StagedAudio],
    ) -> Manifest {
        let mut facts = draft.facts.clone();
        facts.handoff = facts.handoff.map(without_addresses);
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

/// Somebody has written the conversation and not yet the manifest that names it.
fn held_by_other(stored: Option<&StoredConversation>, conversation: Option<&ObjectMeta>) -> bool {
    match (stored, conversation) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(stored), Some(meta)) => stored
            .manifest
            .conversation()
            .and_then(|object| object.etag.as_ref())
            .is_some_and(|named| Some(named) != meta.e_tag.as_ref()),
    }
}

/// Recordings of the copy that is replaced stay, unless they come anew, or come now with another redaction.
fn keep_recordings(existing: &Manifest, damaged: &[String], mut new: Manifest) -> Manifest {
    let comes_without = new.audio.status != AudioStatus::Ready;
    if !comes_without && existing.audio.redacted != new.audio.redacted {
        return new;
    }
    let kept = existing.objects.iter().filter(|object| {
        object.kind == ObjectKind::Audio
            && !damaged.contains(&object.name)
            && !new.objects.iter().any(|other| other.name == object.name)
    });
    let kept: Vec<_> = kept.cloned().collect();
    if comes_without && existing.audio.status == AudioStatus::Ready && !kept.is_empty() {
        new.audio = existing.audio;
    }
    new.objects.extend(kept);
    new
}

/// A destination may be somebody's number; names stay.
fn without_addresses(handoff: Handoff) -> Handoff {
    let harmless = |text: &String| {
        text.bytes().filter(u8::is_ascii_digit).count() < 5 && !text.contains('@') && !text.contains(':')
    };
    Handoff { reason: handoff.reason.filter(harmless), destination: handoff.destination.filter(harmless) }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn count(kind: &'static str, bytes: u64) {
    metrics::counter!("polyhook_archive_bytes_total", "kind" => kind).increment(bytes);
}
