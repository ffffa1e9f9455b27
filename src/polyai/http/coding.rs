//! Content codings. polyhook asks for none, but gateways and stores encode all the same, or label what they do not encode.
//!
//! The label names the decoder, and the first bytes decide: a body that is labelled `gzip` but is plain is not decoded, and
//! a gzip body without a label is decoded, because neither JSON nor a WAV file begins like one.

use std::{io, pin::Pin, sync::Arc};

use async_compression::tokio::bufread::{DeflateDecoder, GzipDecoder, ZlibDecoder};
use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, TRANSFER_ENCODING},
};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::body::Body;
use crate::polyai::error::{ApiError, ErrorKind};

/// The most codings of one body. Two happen where a proxy encodes what was encoded.
const MAX_CODINGS: usize = 2;
/// The size of one decoded part.
const PART_BYTES: usize = 16 << 10;

/// A coding that a label names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    /// The zlib format (RFC 9110), or bare DEFLATE data, which some servers send.
    Deflate,
}

/// The format of a body by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Zlib,
    Deflate,
}

/// Returns the codings of an answer in the order in which they were applied.
///
/// # Errors
///
/// A coding is unknown, or there are too many. The error says so.
pub(super) fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, String> {
    let mut codings = Vec::new();
    let labels = headers.get_all(CONTENT_ENCODING).iter().chain(headers.get_all(TRANSFER_ENCODING));
    for label in labels {
        let label = String::from_utf8_lossy(label.as_bytes()).to_ascii_lowercase();
        for name in label.split(',').map(str::trim) {
            match name {
                "gzip" | "x-gzip" => codings.push(Coding::Gzip),
                "deflate" => codings.push(Coding::Deflate),
                // `chunked` is the framing. The others are no codings, but stores keep such labels with their objects.
                "" | "identity" | "chunked" | "none" | "binary" | "utf-8" | "aws-chunked" => {}
                _ => return Err(format!("its content coding {} is not supported", printable(name))),
            }
        }
    }
    if codings.len() > MAX_CODINGS {
        return Err(format!("its body has {} content codings", codings.len()));
    }
    Ok(codings)
}

/// Returns the name of a coding, if it is safe to print.
fn printable(name: &str) -> &str {
    let is_token = name.len() <= 20
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+'));
    if is_token { name } else { "(unreadable)" }
}

/// Decodes one coding of a body. Returns `false` if the body does not have it, and the body unchanged.
///
/// # Errors
///
/// The body fails before its second byte.
pub(super) async fn decode(
    mut body: Body,
    label: Option<Coding>,
    host: &Arc<str>,
) -> Result<(Body, bool), ApiError> {
    let mut start = BytesMut::new();
    while start.len() < 2
        && let Some(part) = body.next().await
    {
        start.extend_from_slice(&part?);
    }
    let format = Format::of(label, &start);
    let start = (!start.is_empty()).then(|| Ok(start.freeze()));
    let body = stream::iter(start).chain(body);
    if format == Format::Plain {
        return Ok((Box::pin(body), false));
    }
    let reader = StreamReader::new(body.map_err(io::Error::other));
    let plain: Pin<Box<dyn AsyncRead + Send>> = match format {
        Format::Gzip | Format::Plain => {
            let mut decoder = GzipDecoder::new(reader);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        Format::Zlib => Box::pin(ZlibDecoder::new(reader)),
        Format::Deflate => Box::pin(DeflateDecoder::new(reader)),
    };
    let host = Arc::clone(host);
    let parts = ReaderStream::with_capacity(plain, PART_BYTES).map_err(move |error| {
        // An error of the transfer itself passes through the decoder.
        error.downcast::<ApiError>().unwrap_or_else(|error| {
            let detail = format!("its encoded body cannot be decoded ({error})");
            ApiError { detail: Some(detail.into()), ..ApiError::new(ErrorKind::BadAnswer, &host) }
        })
    });
    Ok((Box::pin(parts), true))
}

impl Format {
    fn of(label: Option<Coding>, start: &[u8]) -> Self {
        match (label, start) {
            (_, [0x1f, 0x8b, ..]) => Self::Gzip,
            // The header of zlib: method 8, and a checksum.
            (Some(Coding::Deflate), [method, flags, ..])
                if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]) % 31 == 0 =>
            {
                Self::Zlib
            }
            (Some(Coding::Deflate), [_, ..]) => Self::Deflate,
            _ => Self::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::write::{DeflateEncoder, GzipEncoder, ZlibEncoder};
    use bytes::Bytes;
    use http::{HeaderName, HeaderValue};
    use tokio::io::{AsyncWrite, AsyncWriteExt};

    use super::*;

    const TEXT: &[u8] = br#"{"id":"CA1","turns":[]}"#;

    fn labelled(labels: &[(HeaderName, &str)]) -> Result<Vec<Coding>, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in labels {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        codings(&headers)
    }

    #[test]
    fn reads_labels_in_every_spelling() {
        use Coding::{Deflate, Gzip};
        let encoded = |label| labelled(&[(CONTENT_ENCODING, label)]);
        for (label, expected) in [
            ("gzip", vec![Gzip]),
            (" X-GZip ,", vec![Gzip]),
            ("deflate, GZIP", vec![Deflate, Gzip]),
            ("gzip,gzip", vec![Gzip, Gzip]),
            ("", vec![]),
            ("identity", vec![]),
            ("UTF-8", vec![]),
            ("aws-chunked,gzip", vec![Gzip]),
        ] {
            assert_eq!(encoded(label), Ok(expected), "{label}");
        }
        assert_eq!(labelled(&[]), Ok(vec![]));
        let two = [(CONTENT_ENCODING, "deflate"), (TRANSFER_ENCODING, "gzip, chunked")];
        assert_eq!(labelled(&two), Ok(vec![Deflate, Gzip]));
        assert_eq!(encoded("gzip, br"), Err("its content coding br is not supported".to_owned()));
        assert_eq!(encoded("zstd").unwrap_err(), "its content coding zstd is not supported");
        let long = "x".repeat(21);
        for odd in ["\u{1b}[31m", "a b", "ü", &long] {
            let headers = HeaderMap::from_iter([(
                CONTENT_ENCODING,
                HeaderValue::from_bytes(odd.as_bytes()).unwrap_or(HeaderValue::from_static("a b")),
            )]);
            assert!(codings(&headers).unwrap_err().contains("(unreadable)"), "{odd:?}");
        }
        assert_eq!(encoded("gzip,gzip,gzip").unwrap_err(), "its body has 3 content codings");
    }

    async fn finish<W: AsyncWrite + Unpin>(mut encoder: W, bytes: &[u8]) -> W {
        encoder.write_all(bytes).await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder
    }

    async fn gzip(bytes: &[u8]) -> Vec<u8> {
        finish(GzipEncoder::new(Vec::new()), bytes).await.into_inner()
    }

    /// Decodes a body that arrives byte by byte.
    async fn decoded(bytes: Vec<u8>, label: Option<Coding>) -> Result<(Vec<u8>, bool), ApiError> {
        let parts = bytes.into_iter().map(|byte| Ok(Bytes::from(vec![byte])));
        let (body, encoded) = decode(Box::pin(stream::iter(parts)), label, &"api.example".into()).await?;
        let parts: Vec<_> = body.try_collect().await?;
        Ok((parts.concat(), encoded))
    }

    #[tokio::test]
    async fn the_first_bytes_decide_and_the_label_helps() {
        use Coding::{Deflate, Gzip};
        let gzipped = gzip(TEXT).await;
        let zlib = finish(ZlibEncoder::new(Vec::new()), TEXT).await.into_inner();
        let bare = finish(DeflateEncoder::new(Vec::new()), TEXT).await.into_inner();
        for (bytes, label, encoded) in [
            (gzipped.clone(), Some(Gzip), true),
            (gzipped.clone(), None, true),
            (gzipped.clone(), Some(Deflate), true),
            (TEXT.to_vec(), Some(Gzip), false),
            (TEXT.to_vec(), None, false),
            (zlib, Some(Deflate), true),
            (bare, Some(Deflate), true),
        ] {
            assert_eq!(decoded(bytes, label).await.unwrap(), (TEXT.to_vec(), encoded), "{label:?}");
        }
        let members = [gzipped.clone(), gzipped].concat();
        assert_eq!(decoded(members, Some(Gzip)).await.unwrap().0, [TEXT, TEXT].concat());
        for label in [None, Some(Gzip), Some(Deflate)] {
            assert_eq!(decoded(Vec::new(), label).await.unwrap(), (Vec::new(), false));
        }
        assert_eq!(decoded(b"R".to_vec(), Some(Gzip)).await.unwrap().0, b"R");
    }

    #[tokio::test]
    async fn an_incomplete_or_changed_body_is_an_error() {
        let gzipped = gzip(&TEXT.repeat(100)).await;
        let zlib = finish(ZlibEncoder::new(Vec::new()), TEXT).await.into_inner();
        let bare = finish(DeflateEncoder::new(Vec::new()), TEXT).await.into_inner();
        let mut changed = gzipped.clone();
        let checksum = changed.len() - 5;
        changed[checksum] ^= 1;
        let cut = |bytes: &[u8], by: usize| bytes[..bytes.len() - by].to_vec();
        for (bytes, label) in [
            (changed, Coding::Gzip),
            (cut(&gzipped, 1), Coding::Gzip),
            (cut(&gzipped, 8), Coding::Gzip),
            (cut(&gzipped, 20), Coding::Gzip),
            (gzipped[..2].to_vec(), Coding::Gzip),
            (cut(&zlib, 1), Coding::Deflate),
            (cut(&bare, 1), Coding::Deflate),
            (b"\x1f\x8b<html>".to_vec(), Coding::Gzip),
        ] {
            let error = decoded(bytes.clone(), Some(label)).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadAnswer, "{label:?} {bytes:?}");
            assert!(error.to_string().contains("cannot be decoded"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_error_of_the_transfer_stays_what_it_is() {
        let gzipped = gzip(TEXT).await;
        let parts =
            [Ok(Bytes::from(gzipped[..12].to_vec())), Err(ApiError::new(ErrorKind::Timeout, "api.example"))];
        let body = Box::pin(stream::iter(parts));
        let (body, _) = decode(body, Some(Coding::Gzip), &"api.example".into()).await.unwrap();
        let error = body.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Timeout);
    }
}
