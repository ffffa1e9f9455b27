//! The decision between two copies of a conversation. Pure.

use std::cmp::Ordering;

use jiff::SignedDuration;

use super::manifest::{AudioStatus, Manifest, ObjectKind};

/// The result for a copy that arrives where the archive already has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteDecision {
    /// The new copy is newer, or adds a recording: write it under this revision.
    Write {
        /// One more than the revision of the copy that it replaces; 1 for the first copy.
        revision: u64,
    },
    /// The archive already has this copy.
    Unchanged,
    /// The archive has a newer copy.
    Stale,
}

/// Compares the archived copy with a `new` one. The revision of `new` is ignored.
///
/// The same bytes are written again only to add a missing recording. Other bytes are newer by the first of these that
/// differs: the conversation is over, a fetch that is more than five minutes later (compared only between answers of the same
/// API), more turns, a longer duration, a summary (likewise, because v3 has none), a later fetch. So a copy that was
/// fetched before the end of the call never replaces the final one, even if it is written later. And whatever PolyAI
/// corrects later, such as a duration, is a new revision.
pub fn decide_write(existing: &Manifest, new: &Manifest) -> WriteDecision {
    let write = WriteDecision::Write { revision: existing.revision.saturating_add(1) };
    let hash = |manifest: &Manifest| manifest.conversation().map(|object| object.sha256.clone());
    if hash(existing) == hash(new) {
        return if adds_audio(existing, new) { write } else { WriteDecision::Unchanged };
    }
    match compare_age(existing, new) {
        Ordering::Less => write,
        Ordering::Equal => WriteDecision::Unchanged,
        Ordering::Greater => WriteDecision::Stale,
    }
}

/// Within this time an answer may come from a part of PolyAI that does not have everything yet.
const LAG: SignedDuration = SignedDuration::from_mins(5);

fn adds_audio(existing: &Manifest, new: &Manifest) -> bool {
    let missing = |name: &str| !existing.objects.iter().any(|object| object.name == name);
    new.objects.iter().any(|object| object.kind == ObjectKind::Audio && missing(&object.name))
        || (new.audio.status == AudioStatus::Ready && existing.audio.status != AudioStatus::Ready)
}

/// Compares the age of two copies: `Less` means that `a` is older.
fn compare_age(a: &Manifest, b: &Manifest) -> Ordering {
    let over = |manifest: &Manifest| !manifest.facts.in_progress;
    let turns = |manifest: &Manifest| manifest.facts.turn_count;
    let duration = |manifest: &Manifest| manifest.facts.total_duration_s.unwrap_or(f64::NEG_INFINITY);
    let summarised = |manifest: &Manifest| manifest.facts.summarised;
    let same_api = a.provenance.served_by == b.provenance.served_by;
    let later = b.timings.fetched_at.duration_since(a.timings.fetched_at);
    over(a)
        .cmp(&over(b))
        .then_with(|| {
            if same_api && later.abs() > LAG { SignedDuration::ZERO.cmp(&later) } else { Ordering::Equal }
        })
        .then_with(|| turns(a).cmp(&turns(b)))
        .then_with(|| duration(a).total_cmp(&duration(b)))
        .then_with(|| if same_api { summarised(a).cmp(&summarised(b)) } else { Ordering::Equal })
        .then_with(|| a.timings.fetched_at.cmp(&b.timings.fetched_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::manifest::Direction;

    const WRITE: WriteDecision = WriteDecision::Write { revision: 8 };

    fn manifest(change: impl FnOnce(&mut Manifest)) -> Manifest {
        let json = include_str!("fixtures/manifest.json");
        let mut manifest: Manifest = serde_json::from_str(json).unwrap();
        change(&mut manifest);
        manifest
    }

    fn other_bytes(manifest: &mut Manifest) {
        manifest.objects[0].sha256 = "other".to_owned();
    }

    fn without_audio(manifest: &mut Manifest, status: AudioStatus) {
        manifest.objects.truncate(1);
        manifest.audio.status = status;
    }

    #[test]
    fn identical_bytes_change_nothing() {
        let existing = manifest(|_| ());
        let later = |m: &mut Manifest| m.timings.fetched_at = "2027-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(decide_write(&existing, &manifest(later)), WriteDecision::Unchanged);
        for status in [AudioStatus::Absent, AudioStatus::Failed, AudioStatus::Disabled, AudioStatus::Unknown]
        {
            let none = manifest(|m| without_audio(m, status));
            assert_eq!(decide_write(&existing, &none), WriteDecision::Unchanged);
            assert_eq!(decide_write(&none, &none), WriteDecision::Unchanged);
            assert_eq!(decide_write(&none, &existing), WRITE, "a recording was added");
        }
        let more = manifest(|m| {
            let mut user = m.objects[1].clone();
            user.name = Direction::User.file_name().to_owned();
            m.objects.push(user);
        });
        assert_eq!(decide_write(&existing, &more), WRITE, "one more direction");
        assert_eq!(decide_write(&more, &existing), WriteDecision::Unchanged);
    }

    #[test]
    fn a_failed_recording_is_added_later() {
        let none = manifest(|m| without_audio(m, AudioStatus::Failed));
        let one = manifest(|m| m.audio.status = AudioStatus::Failed);
        assert_eq!(decide_write(&none, &one), WRITE, "one of two sides");
        assert_eq!(decide_write(&one, &one), WriteDecision::Unchanged);
        assert_eq!(decide_write(&one, &none), WriteDecision::Unchanged);
        assert_eq!(decide_write(&one, &manifest(|_| ())), WRITE, "now all are there");
    }

    /// Each criterion outranks all that follow it.
    #[test]
    fn each_criterion_outranks_the_following_ones() {
        type Criterion = fn(&mut Manifest, bool);
        let criteria: [Criterion; 5] = [
            |m, new| m.facts.in_progress = !new,
            |m, new| m.facts.turn_count = if new { 9 } else { 3 },
            |m, new| m.facts.total_duration_s = new.then_some(0.0),
            |m, new| m.facts.summarised = new,
            |m, new| {
                let at = if new { "2026-12-01T00:04:00Z" } else { "2026-12-01T00:00:00Z" };
                m.timings.fetched_at = at.parse().unwrap();
            },
        ];
        for (rank, criterion) in criteria.iter().enumerate() {
            let build = |new: bool| {
                manifest(|m| {
                    criterion(m, new);
                    for lower in &criteria[rank + 1..] {
                        lower(m, !new);
                    }
                    if new {
                        other_bytes(m);
                    }
                })
            };
            let (old, new) = (build(false), build(true));
            assert_eq!(decide_write(&old, &new), WRITE, "criterion {rank}");
            assert_eq!(decide_write(&new, &old), WriteDecision::Stale, "criterion {rank}");
        }
    }

    #[test]
    fn a_much_later_answer_of_the_same_api_is_newer_whatever_it_corrects() {
        let existing = manifest(|_| ());
        let corrected = |m: &mut Manifest| {
            other_bytes(m);
            m.facts.turn_count = 1;
            m.facts.total_duration_s = Some(1.0);
            m.timings.fetched_at = existing.timings.fetched_at + LAG + SignedDuration::from_secs(1);
        };
        assert_eq!(decide_write(&existing, &manifest(corrected)), WRITE);
        assert_eq!(decide_write(&manifest(corrected), &existing), WriteDecision::Stale);
        let early = manifest(|m| {
            corrected(m);
            m.facts.in_progress = true;
        });
        assert_eq!(decide_write(&existing, &early), WriteDecision::Stale, "it is not over in this answer");
    }

    #[test]
    fn ignores_summaries_of_different_apis() {
        let existing = manifest(|m| m.facts.summarised = true);
        let new = manifest(|m| {
            other_bytes(m);
            m.provenance.served_by = crate::archive::manifest::ServedBy::Data;
            m.timings.fetched_at = "2027-01-01T00:00:00Z".parse().unwrap();
        });
        assert_eq!(decide_write(&existing, &new), WRITE);
    }

    #[test]
    fn copies_of_equal_age_are_unchanged() {
        assert_eq!(decide_write(&manifest(|_| ()), &manifest(other_bytes)), WriteDecision::Unchanged);
    }

    #[test]
    fn reads_manifests_of_later_versions() {
        let mut json: serde_json::Value =
            serde_json::from_str(include_str!("fixtures/manifest.json")).unwrap();
        json["sentiment"] = serde_json::json!({ "score": 3 });
        json["audio"]["status"] = "transcoded".into();
        json["served_by"] = "v4".into();
        json["objects"][1]["kind"] = "video".into();
        json["objects"][1]["direction"] = "supervisor".into();
        let read: Manifest = serde_json::from_value(json).unwrap();
        assert_eq!(read.audio.status, AudioStatus::Unknown);
        assert_eq!(read.objects[1].kind, ObjectKind::Unknown);
    }

    #[test]
    fn writes_the_published_format() {
        let json: serde_json::Value = serde_json::from_str(include_str!("fixtures/manifest.json")).unwrap();
        assert_eq!(serde_json::to_value(manifest(|_| ())).unwrap(), json);
    }
}
