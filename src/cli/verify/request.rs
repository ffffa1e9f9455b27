//! A request as a tool shows it: `curl -v`, a proxy's dump, a recording of the bytes on the wire.

use crate::signature::{SIGNATURE_HEADER, TIMESTAMP_HEADER};

/// What of a request is signed, and the signature.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) signature: Option<String>,
    pub(super) timestamp: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// Reads lines of headers, with or without a request line and curl's `> ` before them, up to an empty one; what
    /// follows is the body. None without an empty line.
    pub(super) fn read(raw: &[u8]) -> Option<Self> {
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
    fn reads_what_tools_show() {
        let expected = Request {
            signature: Some("ab".to_owned()),
            timestamp: Some("17".to_owned()),
            body: b"{\n\n}".to_vec(),
        };
        for raw in [
            "POST /x HTTP/1.1\r\nHost: a:1\r\nX-PolyAI-Signature: ab\r\nx-polyai-timestamp:17\r\n\r\n{\n\n}",
            "> POST /x HTTP/1.1\n> X-PolyAI-Signature: ab\n> X-PolyAI-Timestamp: 17\n> \n{\n\n}",
            "X-PolyAI-Signature: ab\nX-PolyAI-Timestamp: 17\n\n{\n\n}",
        ] {
            assert_eq!(Request::read(raw.as_bytes()).as_ref(), Some(&expected), "{raw}");
        }
        assert_eq!(Request::read(b"{\"no\": \"headers\"}"), None);
    }
}
