//! The part of an object that a request asks for (RFC 9110, sections 13 and 14).

use std::ops::Range;

use http::{HeaderMap, HeaderName, header};

/// The part of an object to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// All of it: 200.
    Whole,
    /// A range: 206.
    Part(Range<u64>),
    /// No range that the object has: 416.
    Unsatisfiable,
    /// The client has this version: 304.
    NotModified,
    /// The client asks for another version: 412.
    PreconditionFailed,
}

impl Selection {
    /// Reads the conditions and the range of a request for an object of `size` bytes. `etag` is a strong validator, in quotes; `None` if there
    /// is none. A range that is not valid, several ranges, and other units are ignored, as the RFC permits.
    pub(super) fn of(headers: &HeaderMap, size: u64, etag: Option<&str>, is_get: bool) -> Self {
        if let Some(wanted) = text(headers, &header::IF_MATCH)
            && !lists(wanted, etag, false)
        {
            return Self::PreconditionFailed;
        }
        if text(headers, &header::IF_NONE_MATCH).is_some_and(|known| lists(known, etag, true)) {
            return Self::NotModified;
        }
        // A date does not identify a version, and the object has none.
        let is_same_version =
            text(headers, &header::IF_RANGE).is_none_or(|wanted| etag == Some(wanted.trim()));
        let range = text(headers, &header::RANGE).filter(|_| is_get && is_same_version);
        range.and_then(RequestedRange::read).map_or(Self::Whole, |range| range.within(size))
    }
}

/// Returns the value of a header that occurs once.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Returns whether a list of tags has `etag`. A tag of ours has no comma.
fn lists(tags: &str, etag: Option<&str>, is_weak_enough: bool) -> bool {
    tags.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").filter(|_| is_weak_enough).unwrap_or(tag);
        tag == "*" || Some(tag) == etag
    })
}

/// A range as it is written. Numbers that are too large are the largest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestedRange {
    /// `first-last` or `first-`
    From { first: u64, last: Option<u64> },
    /// `-length`
    Suffix(u64),
}

impl RequestedRange {
    fn read(header: &str) -> Option<Self> {
        let (unit, ranges) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        // A list may have empty elements.
        let mut ranges = ranges.split(',').map(str::trim).filter(|range| !range.is_empty());
        let (first, last) = ranges.next().filter(|_| ranges.next().is_none())?.split_once('-')?;
        match (first, last) {
            ("", length) => Some(Self::Suffix(number(length)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    fn within(self, size: u64) -> Selection {
        let range = match self {
            Self::From { first, last } => first..last.map_or(size, |last| size.min(last.saturating_add(1))),
            Self::Suffix(length) => size.saturating_sub(length)..size,
        };
        if range.start < range.end { Selection::Part(range) } else { Selection::Unsatisfiable }
    }
}

fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"abc\"";

    fn select(headers: &[(HeaderName, &str)], size: u64, is_get: bool) -> Selection {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        Selection::of(&map, size, Some(ETAG), is_get)
    }

    #[test]
    fn reads_ranges_as_the_rfc_says() {
        use Selection::{Part, Unsatisfiable, Whole};
        for (range, expected) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=0-99", Part(0..100)),
            ("bytes=10-19", Part(10..20)),
            ("bytes=90-1000", Part(90..100)),
            ("bytes=99-", Part(99..100)),
            ("bytes=0-", Part(0..100)),
            ("bytes=-1", Part(99..100)),
            ("bytes=-1000", Part(0..100)),
            ("bytes=-99999999999999999999999", Part(0..100)),
            ("bytes=1-99999999999999999999999", Part(1..100)),
            ("BYTES = 1-2", Part(1..3)),
            ("bytes= , 1-2 ,", Part(1..3)),
            ("bytes=100-", Unsatisfiable),
            ("bytes=100-200", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=2-1", Whole),
            ("bytes=-", Whole),
            ("bytes=", Whole),
            ("bytes", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=--1", Whole),
            ("bytes=0x1-2", Whole),
            ("bytes=1 - 2", Whole),
            ("lines=0-1", Whole),
            ("bytes=0-1,5-6", Whole),
        ] {
            assert_eq!(select(&[(header::RANGE, range)], 100, true), expected, "{range}");
        }
        assert_eq!(select(&[(header::RANGE, "bytes=0-"), (header::RANGE, "bytes=1-")], 100, true), Whole);
        assert_eq!(select(&[(header::RANGE, "bytes=0-1")], 100, false), Whole, "a range is for GET");
        for range in ["bytes=0-", "bytes=-1", "bytes=0-0"] {
            assert_eq!(select(&[(header::RANGE, range)], 0, true), Unsatisfiable, "{range}");
        }
    }

    #[test]
    fn a_range_of_another_version_is_not_mixed_with_this_one() {
        use Selection::{NotModified, Part, PreconditionFailed, Whole};
        let range = (header::RANGE, "bytes=0-1");
        for (name, value, expected) in [
            (header::IF_RANGE, ETAG, Part(0..2)),
            (header::IF_RANGE, "\"other\"", Whole),
            (header::IF_RANGE, "W/\"abc\"", Whole),
            (header::IF_RANGE, "Wed, 21 Oct 2015 07:28:00 GMT", Whole),
            (header::IF_MATCH, ETAG, Part(0..2)),
            (header::IF_MATCH, "*", Part(0..2)),
            (header::IF_MATCH, "\"other\", \"abc\"", Part(0..2)),
            (header::IF_MATCH, "W/\"abc\"", PreconditionFailed),
            (header::IF_MATCH, "\"other\"", PreconditionFailed),
            (header::IF_NONE_MATCH, ETAG, NotModified),
            (header::IF_NONE_MATCH, "\"x\", W/\"abc\"", NotModified),
            (header::IF_NONE_MATCH, "*", NotModified),
            (header::IF_NONE_MATCH, "\"other\"", Part(0..2)),
        ] {
            assert_eq!(
                select(&[range.clone(), (name.clone(), value)], 100, true),
                expected,
                "{name} {value}"
            );
        }
        let mut map = HeaderMap::new();
        map.insert(header::RANGE, "bytes=0-1".parse().unwrap());
        map.insert(header::IF_RANGE, ETAG.parse().unwrap());
        assert_eq!(Selection::of(&map, 100, None, true), Whole, "an object without a validator");
    }
}
