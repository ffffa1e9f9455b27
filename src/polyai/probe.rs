//! Single requests to PolyAI with all details of the answer, for `polyhook doctor`.
//!
//! [`PolyAiClient`](super::PolyAiClient) hides details that its callers do not need (host, certificate, clock) and tries
//! again by itself. [`Prober::send`] sends one request to one [`Target`] and returns the [`ProbeResponse`] as it came.
//! All requests are GETs, and a key is sent only to PolyAI's own hosts and to those that the configuration names.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, DATE},
};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};
use url::Url;

use super::{
    ApiError, ApiRequest, ConversationInfo, ErrorKind, Hosts, Region, Target,
    correlation::CorrelationId,
    error::CORRELATION_HEADER,
    http::{Answer, HttpClient, SizeLimit},
    list::page::Page,
};
use crate::clock::Clock;

/// The part of a text answer that is read. A list of a few conversations fits.
const MAX_TEXT_BYTES: usize = 32 << 20;
/// The part of a recording that is compared: some minutes at 8 kHz.
const MAX_AUDIO_BYTES: usize = 16 << 20;
/// The part of a recording that is kept, for its header.
const KEPT_AUDIO_BYTES: usize = 64;
/// The most bytes that are received. Reading ends earlier, except where the encoded body is longer than the decoded one.
const TRANSFER_LIMIT: SizeLimit = SizeLimit { bytes: 64 << 20, error: ErrorKind::BadAnswer };
/// The longest time for a request.
const TEXT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time for a request for a recording.
const AUDIO_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest id of a list that is used for further requests.
const MAX_ID_BYTES: usize = 128;
/// The longest content type that is shown.
const MAX_CONTENT_TYPE_BYTES: usize = 64;

/// A region to which a refused key may belong.
#[derive(Clone, Debug)]
pub struct CandidateRegion {
    /// The name in `polyai.region`.
    pub region: String,
    /// The hosts of its APIs.
    pub hosts: Hosts,
}

/// The answer to a probe.
#[derive(Debug)]
pub struct ProbeResponse {
    /// The body of a 200, or the error.
    pub outcome: Result<Body, ApiError>,
    /// The reason why there was no answer, for a person.
    pub cause: Option<String>,
    /// True if PolyAI answered. Each of its answers has a correlation id.
    pub is_polyai: bool,
    /// The content type, if it can be shown.
    pub content_type: Option<String>,
    /// Their clock minus ours, exact to about half a second.
    pub skew: Option<SignedDuration>,
    /// The end of validity of the host's certificate.
    pub certificate_expiry: Option<Timestamp>,
    /// The time from the request to the end of the answer.
    pub elapsed: Duration,
}

/// The body of a 200.
#[derive(Clone, Debug)]
pub struct Body {
    /// The first bytes of a recording; all of any other body.
    pub start: Bytes,
    /// The hash of the bytes that were read.
    pub sha256: [u8; 32],
}

/// An entry of a list, as far as `doctor` needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedConversation {
    /// PolyAI's id.
    pub id: String,
    /// True if it can have a recording.
    pub voice: bool,
    /// True if the call is still going on.
    pub in_progress: bool,
}

impl CandidateRegion {
    /// Returns all regions but the one of `hosts`. Returns none if `hosts` are not PolyAI's: a key for another host is not
    /// sent to PolyAI.
    pub fn other_than(hosts: &[&Url]) -> Vec<Self> {
        let Some(own) = hosts.iter().find_map(|url| Region::of_host(url)) else { return Vec::new() };
        Region::ALL
            .into_iter()
            .filter(|region| *region != own)
            .map(|region| Self { region: region.label().to_owned(), hosts: region.hosts() })
            .collect()
    }
}

/// Sends probes.
#[derive(Debug)]
pub struct Prober {
    http: HttpClient,
    clock: Clock,
}

impl Prober {
    /// Builds a prober. It follows the same rules for redirects, encodings and slow answers as every client of polyhook.
    pub fn new(clock: Clock) -> Result<Self, reqwest::Error> {
        Ok(Self { http: HttpClient::new(|builder| builder.tls_info(true))?, clock })
    }

    /// Sends one request.
    pub async fn send(&self, target: &Target, request: ApiRequest<'_>) -> ProbeResponse {
        let limit = match request {
            ApiRequest::Audio { .. } => AUDIO_TIMEOUT,
            ApiRequest::List { .. } | ApiRequest::Conversation { .. } => TEXT_TIMEOUT,
        };
        let host = target.host_and_port();
        let Some(url) = target.url(request) else {
            return ProbeResponse::without_answer(ApiError::new(ErrorKind::UnknownConversation, &host));
        };
        let (before, started, id) = (self.clock.now(), Instant::now(), CorrelationId::new());
        let exchange = async {
            let answer = self.http.get(url, target.key().header(), request.accept(), &id).await?;
            Ok(self.read_answer(answer, target, request, before).await)
        };
        let answered = timeout(limit, exchange).await;
        let answered = answered.unwrap_or_else(|_| Err(ApiError::new(ErrorKind::Timeout, &host)));
        let response = answered.unwrap_or_else(|error| ProbeResponse {
            cause: cause(&error),
            ..ProbeResponse::without_answer(ApiError { host, ..id.complete(error) })
        });
        ProbeResponse { elapsed: started.elapsed(), ..response }
    }

    /// Reads an answer. `sent_at` is the time at which its request was sent.
    async fn read_answer(
        &self,
        answer: Answer,
        target: &Target,
        request: ApiRequest<'_>,
        sent_at: Timestamp,
    ) -> ProbeResponse {
        let (host, now) = (target.host_and_port(), self.clock.now());
        let (status, headers) = (answer.status(), answer.headers().clone());
        let correlation_id = Some(answer.correlation_id().to_owned());
        let certificate_expiry = answer.certificate_expiry();
        let redirect_error = answer.redirect_error(now).filter(|_| status != StatusCode::OK);
        let (keep, max) = match request {
            ApiRequest::Audio { .. } if status == StatusCode::OK => (KEPT_AUDIO_BYTES, MAX_AUDIO_BYTES),
            ApiRequest::Audio { .. } => (MAX_TEXT_BYTES, MAX_AUDIO_BYTES),
            ApiRequest::List { .. } | ApiRequest::Conversation { .. } => (MAX_TEXT_BYTES, MAX_TEXT_BYTES),
        };
        let read = read_body(answer, keep, max).await;
        let cause = read.as_ref().err().and_then(cause);
        let outcome = match (redirect_error, read) {
            (Some(error), _) | (None, Err(error)) => Err(error),
            (None, Ok(body)) if status == StatusCode::OK => Ok(body),
            (None, Ok(body)) => Err(ApiError::from_answer(status, &headers, &body.start, now, &host)),
        };
        let outcome = outcome.map_err(|error| ApiError { correlation_id, host, ..error });
        ProbeResponse {
            outcome,
            cause,
            is_polyai: headers.contains_key(CORRELATION_HEADER) || Region::of_host(target.base()).is_some(),
            content_type: content_type(&headers),
            skew: clock_skew(&headers, sent_at, now),
            certificate_expiry,
            elapsed: Duration::ZERO,
        }
    }
}

impl ProbeResponse {
    fn without_answer(error: ApiError) -> Self {
        Self {
            outcome: Err(error),
            cause: None,
            is_polyai: false,
            content_type: None,
            skew: None,
            certificate_expiry: None,
            elapsed: Duration::ZERO,
        }
    }

    /// Returns the kind of error, or `None` for a 200.
    pub fn error(&self) -> Option<ErrorKind> {
        self.outcome.as_ref().err().map(|error| error.kind)
    }

    /// Returns whether the key is valid, even if it is not valid for this project. Only PolyAI's own answer says so.
    pub fn accepts_key(&self) -> bool {
        let needs_valid_key = [ErrorKind::KeyLacksScope, ErrorKind::UnknownProject];
        match &self.outcome {
            Ok(_) => self.conversations().is_some(),
            Err(error) => error.in_envelope && needs_valid_key.contains(&error.kind),
        }
    }

    /// Returns the conversations of a list, or `None` if the answer is not a list.
    pub fn conversations(&self) -> Option<Vec<ProbedConversation>> {
        let body = self.outcome.as_ref().ok()?;
        let mut page = Page::default();
        let read = page.read(&body.start[..], |reader| {
            Ok(ProbedConversation::new(&ConversationInfo::read_object(reader)?))
        });
        read.ok().map(|()| page.items)
    }
}

impl ProbedConversation {
    fn new(info: &ConversationInfo) -> Option<Self> {
        let id = info.id.clone()?;
        // The id is printed and used in further requests.
        let is_safe =
            (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        is_safe.then(|| Self { id, voice: info.is_voice(), in_progress: info.in_progress })
    }
}

/// Returns the reason why there was no answer. A redirect is one.
fn cause(error: &ApiError) -> Option<String> {
    let cause = error.detail.as_deref().unwrap_or("no answer in time");
    (error.kind != ErrorKind::Redirected).then(|| cause.to_owned())
}

/// Reads up to `max` bytes and keeps the first `keep`.
async fn read_body(answer: Answer, keep: usize, max: usize) -> Result<Body, ApiError> {
    let (mut start, mut hash, mut got) = (BytesMut::new(), Sha256::new(), 0);
    let mut parts = answer.decode(TRANSFER_LIMIT).await?.parts;
    while let Some(part) = parts.try_next().await? {
        let part = &part[..part.len().min(max - got)];
        hash.update(part);
        start.extend_from_slice(&part[..part.len().min(keep.saturating_sub(got))]);
        got += part.len();
        if got == max {
            break;
        }
    }
    Ok(Body { start: start.freeze(), sha256: hash.finalize().into() })
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let full = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = full.split(';').next().unwrap_or(full).trim();
    let is_safe =
        essence.len() <= MAX_CONTENT_TYPE_BYTES && essence.bytes().all(|byte| byte.is_ascii_graphic());
    is_safe.then(|| essence.to_owned())
}

/// Returns the clock of the host minus ours. `Date` has whole seconds, rounded down, so half a second is added. The host
/// wrote it at some time between `before` and `after`.
fn clock_skew(headers: &HeaderMap, before: Timestamp, after: Timestamp) -> Option<SignedDuration> {
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let theirs = Timestamp::try_from(date).ok()? + SignedDuration::from_millis(500);
    Some(theirs.duration_since(before + after.duration_since(before) / 2))
}
