//! Which of two copies of a conversation is kept. Pure.

use std::cmp::Ordering;

use super::manifest::{AudioStatus, Manifest, ObjectKind};

/// What to do with a copy that arrives where another one lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteDecision {
    /// It is newer, or adds a recording: write it under this revision.
    Write {
        /// One more than that of the copy it replaces; 1 for the first.
        revision: u64,
    },
    /// The archive has it already.
    Unchanged,
    /// The archive has a newer one.
    Stale,
}

/// Compares the copy in the archive with a `new` one, whose revision does not matter.
///
/// The same bytes are worth writing again only for a recording that was missing. Other bytes are newer if
/// the conversation is over where it was not, else if it has more turns, else a longer duration, else a
/// summary (compared only between answers of the same API: v3 has none), else if they were fetched later. So a copy that was fetched before the call had ended never replaces the final one, however
/// late it is written.
pub fn decide_write(existing: &Manifest, new: &Manifest) -> WriteDecision {
    let write = WriteDecision::Write { revision: existing.revision.saturating_add(1) };
    let hash = |manifest: &Manifest| manifest.conversation().map(|object| object.sha256.clone());
    if hash(existing) == hash(new) {
        return if adds_audio(existing, new) { write } else { WriteDecision::Unchanged };
    }
    match age(existing, new) {
        Ordering::Less => write,
        Ordering::Equal => WriteDecision::Unchanged,
        Ordering::Greater => WriteDecision::Stale,
    }
}

fn adds_audio(existing: &Manifest, new: &Manifest) -> bool {
    let missing = |name: &str| !existing.objects.iter().any(|object| object.name == name);
    new.audio.status == AudioStatus::Ready
        && (existing.audio.status != AudioStatus::Ready
            || new.objects.iter().any(|object| object.kind == ObjectKind::Audio && missing(&object.name)))
}

/// How `a` stands to `b`: less is older.
fn age(a: &Manifest, b: &Manifest) -> Ordering {
    let over = |manifest: &Manifest| !manifest.facts.in_progress;
    let turns = |manifest: &Manifest| manifest.facts.turn_count;
    let duration = |manifest: &Manifest| manifest.facts.total_duration_s.unwrap_or(f64::NEG_INFINITY);
    let summarised = |manifest: &Manifest| manifest.facts.summarised;
    over(a)
        .cmp(&over(b))
        .then_with(|| turns(a).cmp(&turns(b)))
        .then_with(|| duration(a).total_cmp(&duration(b)))
        .then_with(|| {
            let same_shape = a.provenance.served_by == b.provenance.served_by;
            if same_shape { summarised(a).cmp(&summarised(b)) } else { Ordering::Equal }
        })
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
    fn the_same_bytes_change_nothing() {
        let existing = manifest(|_| ());
        let later = |m: &mut Manifest| m.timings.fetched_at = "2027-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(decide_write(&existing, &manifest(later)), WriteDecision::Unchanged);
        for status in [AudioStatus::Absent, AudioStatus::Disabled, AudioStatus::Unknown] {
            let none = manifest(|m| without_audio(m, status));
            assert_eq!(decide_write(&existing, &none), WriteDecision::Unchanged);
            assert_eq!(decide_write(&none, &none), WriteDecision::Unchanged);
            assert_eq!(decide_write(&none, &existing), WRITE, "a recording came");
        }
        let more = manifest(|m| {
            let mut user = m.objects[1].clone();
            user.name = Direction::User.file_name().to_owned();
            m.objects.push(user);
        });
        assert_eq!(decide_write(&existing, &more), WRITE, "one more direction");
        assert_eq!(decide_write(&more, &existing), WriteDecision::Unchanged);
    }

    /// Each step outranks all that follow it.
    #[test]
    fn newer_replaces_older_and_never_the_other_way_round() {
        type Step = fn(&mut Manifest, bool);
        let steps: [Step; 5] = [
            |m, new| m.facts.in_progress = !new,
            |m, new| m.facts.turn_count = if new { 9 } else { 3 },
            |m, new| m.facts.total_duration_s = new.then_some(0.0),
            |m, new| m.facts.summarised = new,
            |m, new| {
                let at = if new { "2026-12-02T00:00:00Z" } else { "2026-12-01T00:00:00Z" };
                m.timings.fetched_at = at.parse().unwrap();
            },
        ];
        for (rank, step) in steps.iter().enumerate() {
            let build = |new: bool| {
                manifest(|m| {
                    step(m, new);
                    for lower in &steps[rank + 1..] {
                        lower(m, !new);
                    }
                    if new {
                        other_bytes(m);
                    }
                })
            };
            let (old, new) = (build(false), build(true));
            assert_eq!(decide_write(&old, &new), WRITE, "step {rank}");
            assert_eq!(decide_write(&new, &old), WriteDecision::Stale, "step {rank}");
        }
    }

    #[test]
    fn summaries_of_different_apis_are_not_compared() {
        let existing = manifest(|m| m.facts.summarised = true);
        let new = manifest(|m| {
            other_bytes(m);
            m.provenance.served_by = crate::archive::manifest::ServedBy::Data;
            m.timings.fetched_at = "2027-01-01T00:00:00Z".parse().unwrap();
        });
        assert_eq!(decide_write(&existing, &new), WRITE);
    }

    #[test]
    fn neither_is_newer() {
        assert_eq!(decide_write(&manifest(|_| ()), &manifest(other_bytes)), WriteDecision::Unchanged);
    }

    #[test]
    fn a_later_version_can_be_read() {
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
    fn the_written_form_is_the_published_contract() {
        let json: serde_json::Value = serde_json::from_str(include_str!("fixtures/manifest.json")).unwrap();
        assert_eq!(serde_json::to_value(manifest(|_| ())).unwrap(), json);
    }
}
