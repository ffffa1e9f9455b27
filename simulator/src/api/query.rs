//! The query parameters of PolyAI's lists, and the cursors of their pages.

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use crate::{
    calls::{CallFilter, CallKey, Environment},
    error::ApiError,
};

/// The parameters of a query string, in order. A name may occur several times.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(raw: Option<&str>) -> Self {
        Self(form_urlencoded::parse(raw.unwrap_or("").as_bytes()).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.get(name)
            .map(|value| match value.to_ascii_lowercase().as_str() {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(ApiError::invalid(name, "must be true or false")),
            })
            .transpose()
    }

    /// Returns a number from `min` to `max`.
    pub(super) fn number(&self, name: &str, min: usize, max: usize) -> Result<Option<usize>, ApiError> {
        self.get(name)
            .map(|value| {
                value
                    .parse()
                    .ok()
                    .filter(|number| (min..=max).contains(number))
                    .ok_or_else(|| ApiError::invalid(name, &format!("must be a number from {min} to {max}")))
            })
            .transpose()
    }

    fn time(&self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        self.get(name)
            .map(|value| {
                // A plus sign that the client did not encode arrives as a space.
                value
                    .replace(' ', "+")
                    .parse()
                    .map_err(|_| ApiError::invalid(name, "must be an ISO 8601 time"))
            })
            .transpose()
    }

    /// Returns the filter of the v3 list. The default of `client_env` is `live`.
    pub(super) fn filter(&self) -> Result<CallFilter, ApiError> {
        let environment = self.get("client_env").unwrap_or("live");
        let environment = Environment::parse(environment)
            .ok_or_else(|| ApiError::invalid("client_env", "must be sandbox, pre-release or live"))?;
        if self.get("variant_id").is_some() && self.get("variant_name").is_some() {
            return Err(ApiError::invalid("variant_name", "cannot be combined with variant_id"));
        }
        for mode in ["query_type", "sample"] {
            if self.get(mode).is_some() {
                return Err(ApiError::invalid(mode, "the simulator lists; it does not search or sample"));
            }
        }
        Ok(CallFilter {
            from: self.time("start_time")?,
            until: self.time("end_time")?,
            environment: Some(environment),
            in_progress: self.boolean("in_progress")?,
            channels: self.all("channel"),
            variant_id: self.get("variant_id").map(str::to_owned),
            variant_name: self.get("variant_name").map(str::to_owned),
        })
    }

    /// Returns a cursor: the position where a page with these filters ended, in letters and digits.
    pub(super) fn cursor(&self, project: usize, (at, index): CallKey) -> String {
        let mut cursor = [at.to_be_bytes(), index.to_be_bytes()].concat();
        cursor.extend_from_slice(&self.checksum(project, &cursor));
        hex::encode(cursor)
    }

    /// Returns the position of the cursor, if there is one. A cursor that was changed or belongs to other filters is an error.
    pub(super) fn cursor_position(&self, project: usize) -> Result<Option<CallKey>, ApiError> {
        let Some(given) = self.get("cursor") else { return Ok(None) };
        let malformed = || ApiError::invalid("cursor", "is malformed");
        let bytes: [u8; 24] =
            hex::decode(given).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(malformed)?;
        let (position, checksum) = bytes.split_at(16);
        if checksum != self.checksum(project, position) {
            return Err(malformed());
        }
        let (at, index) = position.split_at(8);
        let number = |bytes: &[u8]| <[u8; 8]>::try_from(bytes).map_err(|_| malformed());
        Ok(Some((i64::from_be_bytes(number(at)?), u64::from_be_bytes(number(index)?))))
    }

    /// Returns a checksum over the position and all parameters that must stay the same between pages.
    fn checksum(&self, project: usize, position: &[u8]) -> [u8; 8] {
        let mut filters: Vec<_> = self
            .0
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "cursor" | "limit" | "offset"))
            .collect();
        filters.sort();
        let mut hash = Sha256::new();
        hash.update(position);
        hash.update(format!("{project} {filters:?}"));
        let mut checksum = [0; 8];
        checksum.copy_from_slice(&hash.finalize()[..8]);
        checksum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_a_cursor_of_other_filters() {
        let query = Query::parse(Some("client_env=live&limit=2"));
        let cursor = query.cursor(0, (-5, 7));
        assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let position = |query: String| Query::parse(Some(&query)).cursor_position(0);
        assert_eq!(position(format!("limit=9&client_env=live&cursor={cursor}")).unwrap(), Some((-5, 7)));
        assert!(position(format!("client_env=sandbox&cursor={cursor}")).is_err());
        assert!(position("client_env=live&cursor=abc".to_owned()).is_err());
        assert!(position(format!("client_env=live&cursor={}", cursor.replace('0', "1"))).is_err());
    }

    #[test]
    fn rejects_invalid_filters() {
        for wrong in [
            "client_env=prod",
            "start_time=yesterday",
            "in_progress=maybe",
            "variant_id=a&variant_name=b",
            "sample=random",
        ] {
            assert!(Query::parse(Some(wrong)).filter().is_err(), "{wrong}");
        }
        let filter = Query::parse(Some("start_time=2026-11-03T00:00:00+00:00&channel=voice&channel=CHAT"))
            .filter()
            .unwrap();
        assert_eq!(filter.channels, ["voice", "CHAT"]);
        assert_eq!(filter.from, Some("2026-11-03T00:00:00Z".parse().unwrap()));
        assert!(Query::parse(Some("limit=0")).number("limit", 1, 10).is_err());
    }
}
