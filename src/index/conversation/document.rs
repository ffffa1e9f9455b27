//! The members of a conversation.

use std::{collections::HashSet, io};

use super::scrubber::Scrubber;
use crate::json::{Field, JsonFilter, JsonReader, Key, Scalar, conversation_key, copy_json};

/// The longest name that is kept whole.
const MAX_NAME_BYTES: usize = 1024;
/// The maximum members that are read. PolyAI's answers have about thirty.
const MAX_MEMBERS: usize = 10_000;
/// The maximum size of a JSON column.
pub(super) const MAX_JSON_BYTES: usize = 4 << 20;
/// Written for a member that does not fit.
const TOO_LARGE: &str = "\"(too large)\"";

/// The members of a conversation. A member that a column takes is no longer part of the rest.
#[derive(Debug, Default)]
pub(super) struct Document<'a> {
    members: Vec<Member<'a>>,
    /// The last array of turns.
    pub(super) turns: Option<&'a [u8]>,
}

#[derive(Debug)]
struct Member<'a> {
    name: String,
    key: Option<Key>,
    json: &'a [u8],
    is_taken: bool,
}

/// A value that was read of a member.
#[derive(Debug, PartialEq)]
pub(super) struct Taken<T> {
    pub(super) value: T,
    /// True if the value is all that the member has, so that the rest need not repeat it.
    pub(super) is_whole: bool,
}

impl<'a> Document<'a> {
    /// Reads the members of anything that is nearly an object. Of anything else there are none.
    pub(super) fn read(json: &'a [u8]) -> Self {
        let mut document = Self::default();
        // Reading from memory does not fail.
        document.read_members(json).unwrap_or_default();
        document
    }

    fn read_members(&mut self, json: &'a [u8]) -> io::Result<()> {
        let mut reader = JsonReader::with_limits(json, MAX_NAME_BYTES, 0);
        if reader.peek()? != Some(b'{') {
            return Ok(());
        }
        reader.object(
            |name| Some((name.to_owned(), conversation_key(name))),
            |reader, (name, key)| {
                let is_turns = key.is_some_and(|key| key.field == Field::Turns);
                if is_turns && reader.peek()? == Some(b'[') {
                    // Element by element, so that a wrong bracket in one does not hide the others.
                    let before = *reader.input_mut();
                    reader.array(JsonReader::skip_value)?;
                    self.turns = Some(&before[..before.len() - reader.input_mut().len()]);
                    return Ok(());
                }
                let json = value_bytes(reader)?;
                // The known ones have room of their own.
                let max = if key.is_some() { 2 * MAX_MEMBERS } else { MAX_MEMBERS };
                if !is_turns && self.members.len() < max {
                    self.members.push(Member { name, key, json, is_taken: false });
                }
                Ok(())
            },
        )
    }

    /// Returns what `read` makes of the preferred member of `field` of which it makes anything.
    pub(super) fn take<T: PartialEq>(
        &mut self,
        field: Field,
        read: impl Fn(&[u8]) -> Option<Taken<T>>,
    ) -> Option<T> {
        let mut best: Option<(u8, Taken<T>)> = None;
        for (rank, member) in self.members_of(field) {
            if best.as_ref().is_none_or(|(best, _)| rank <= *best)
                && let Some(taken) = read(member.json)
            {
                best = Some((rank, taken));
            }
        }
        for (rank, member) in self.members_of(field) {
            let is_same = |(best, taken): &(u8, Taken<T>)| {
                taken.is_whole && (rank == *best || read(member.json).as_ref() == Some(taken))
            };
            member.is_taken = best.as_ref().is_some_and(is_same) || is_empty(member.json);
        }
        best.map(|(_, taken)| taken.value)
    }

    /// Like [`take`](Self::take), for a scalar.
    pub(super) fn take_scalar<T: PartialEq>(
        &mut self,
        field: Field,
        read: impl Fn(Scalar) -> Option<T>,
    ) -> Option<T> {
        self.take(field, |json| Some(Taken { value: read(scalar(json))?, is_whole: true }))
    }

    /// Leaves a member out of the rest if a column has its value already.
    pub(super) fn drop_known(&mut self, field: Field, is_known: impl Fn(Scalar) -> bool) {
        for (_, member) in self.members_of(field) {
            member.is_taken = is_known(scalar(member.json)) || is_empty(member.json);
        }
    }

    fn members_of(&mut self, field: Field) -> impl Iterator<Item = (u8, &mut Member<'a>)> {
        self.members.iter_mut().filter_map(move |member| {
            let key = member.key.filter(|key| key.field == field)?;
            Some((key.rank, member))
        })
    }

    /// Returns the members that no column took, as an object, or `None` if there are none.
    pub(super) fn rest(self, scrubber: &Scrubber<'_>) -> Option<String> {
        let mut members = Vec::new();
        let mut names = HashSet::new();
        let mut room = MAX_JSON_BYTES;
        // Of two members of the same name the later one counts.
        for member in self.members.into_iter().rev().filter(|member| !member.is_taken) {
            let is_marked = scrubber.marks(&member.name);
            let name = serde_json::Value::from(scrubber.name(member.name)).to_string();
            if names.insert(name.clone()) {
                let json = copy_json(member.json, room, scrubber, is_marked);
                let member = format!("{name}:{}", json.as_deref().unwrap_or(TOO_LARGE));
                room = room.saturating_sub(member.len());
                members.push(member);
            }
        }
        members.reverse();
        (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")))
    }
}

/// Reads a scalar with a text of any length up to that of a column.
pub(super) fn scalar(json: &[u8]) -> Scalar {
    JsonReader::with_limits(json, 0, MAX_JSON_BYTES).scalar().unwrap_or(Scalar::Null)
}

/// Returns whether a value is `null`, `""`, `[]` or `{}`.
pub(super) fn is_empty(json: &[u8]) -> bool {
    JsonReader::new(json).has_content().is_ok_and(|has_content| !has_content)
}

/// Reads a value and returns its bytes.
pub(super) fn value_bytes<'a>(reader: &mut JsonReader<&'a [u8]>) -> io::Result<&'a [u8]> {
    let before = *reader.input_mut();
    reader.skip_value()?;
    Ok(&before[..before.len() - reader.input_mut().len()])
}
