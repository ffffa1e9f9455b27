//! Parses a recorded request: the output of `curl -v`, a dump of a proxy, or the raw bytes.

use crate::signature::{SIGNATURE_HEADER, TIMESTAMP_HEADER};

/// The signature of a request and the parts that it signs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RecordedRequest {
    pub(super) signature: Option<String>,
    pub(super) timestamp: Option<String>,
    pub(super) body: Vec<u8>,
}

impl RecordedRequest {
    /// Parses header lines, with or without a request line and the `> ` of curl, up to an empty line; the rest is the
    /// body. Returns none if there is no empty line.
    pub(super) fn parse(raw: &[u8]) -> Option<Self> {
        let mut request = Self::default();
        let mut rest = raw;
        loop {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let (line, after) = (rest[..end].trim_ascii(), &rest[end + 1..]);
            rest = after;
            let line = line.strip_prefix(b">").unwrap_or(line).trim_ascii();
            if line.is_empty() {
                request.body = rest.to_vec();
                return Some(request);
            }
            let line = String::from_utf8_lossy(line);
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim().to_owned();
            match name.trim().to_ascii_lowercase().as_str() {
                SIGNATURE_HEADER => request.signature = Some(value),
                TIMESTAMP_HEADER => request.timestamp = Some(value),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_raw_requests_and_curl_output() {
        let expected = RecordedRequest {
            signature: Some("ab".to_owned()),
            timestamp: Some("17".to_owned()),
            body: b"{\n\n}".to_vec(),
        };
        for raw in [
            "POST /x HTTP/1.1\r\nHost: a:1\r\nX-PolyAI-Signature: ab\r\nx-polyai-timestamp:17\r\n\r\n{\n\n}",
            "> POST /x HTTP/1.1\n> X-PolyAI-Signature: ab\n> X-PolyAI-Timestamp: 17\n> \n{\n\n}",
            "X-PolyAI-Signature: ab\nX-PolyAI-Timestamp: 17\n\n{\n\n}",
        ] {
            assert_eq!(RecordedRequest::parse(raw.as_bytes()).as_ref(), Some(&expected), "{raw}");
        }
        assert_eq!(RecordedRequest::parse(b"{\"no\": \"headers\"}"), None);
    }
}
