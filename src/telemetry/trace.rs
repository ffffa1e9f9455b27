//! Spans, exported as OTLP over HTTP if `[tracing]` names a collector.
//!
//! A verified delivery is a SERVER span. Its publish is a PRODUCER span below it, whose context travels as the
//! message's `traceparent`. Each try of a job is a CONSUMER span below that one and linked to it. Below the job are
//! spans for requests to PolyAI, for the archive, and for the announcement, whose context travels on. A delivery that
//! is not verified makes no span. Names and attributes follow OpenTelemetry's semantic conventions for HTTP and
//! messaging (<https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/>). No span contains a body, a key or a
//! phone number.
//!
//! While the export is off, a [`Span`] is empty and costs nothing. Ended spans wait in a buffer of 2048. If the
//! collector does not answer, spans that do not fit are dropped, because a delivery must not wait for a span.
//!
//! Spans are not made with `tracing` and `tracing-opentelemetry`; version 0.34.0 of the latter was tried. Log lines could
//! take their fields from the span of the delivery only if that span also existed while the export is off. A delivery
//! then costs 1,133,218 instructions and 95.6 allocations instead of 933,894 and 72.6, and still 1,083,926 and 95.5 if
//! those fields are simply left out of the log line (`cargo test --locked --bench counts -- --case delivery`). If spans
//! serve only the export, disabled ones cost nothing (935,402 and 72.5, within the variation between runs). But the code
//! stays about as long, and `tracing-opentelemetry` lets a span begin only when it is made: the span of a delivery is
//! made after the signature is verified, and must begin with the first byte.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use opentelemetry::{
    Context, Key, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{
        FutureExt as _, Link, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceState,
        Tracer, TracerProvider,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::TelemetryError;
use crate::problem::Problem;

/// Timeout of the export of one batch, and of the last batch at shutdown.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// `[tracing]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TracingConfig {
    /// Base URL of the collector for OTLP over HTTP, such as `http://otel-collector:4318`; `/v1/traces` is appended.
    /// No spans are exported if it is not set. Headers are taken from `OTEL_EXPORTER_OTLP_HEADERS`.
    pub endpoint: Option<String>,
    /// Fraction of new traces that is kept, from 0 to 1. If the sender's `traceparent` says whether its trace is kept,
    /// that decision is used.
    pub sample_ratio: f64,
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self { endpoint: None, sample_ratio: 1.0 }
    }
}

impl TracingConfig {
    /// Returns the reasons why these settings cannot be used.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            problems.push(Problem::new("tracing.sample_ratio", "it must be between 0 and 1"));
        }
        if self.endpoint.as_deref().is_some_and(|endpoint| traces_url(endpoint).is_none()) {
            problems.push(Problem::new(
                "tracing.endpoint",
                "it is not an http:// or https:// URL without user and password; set it to the collector's base URL, such as \
                 http://otel-collector:4318, and put credentials into OTEL_EXPORTER_OTLP_HEADERS",
            ));
        }
        problems
    }
}

fn traces_url(endpoint: &str) -> Option<String> {
    let url = Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    // The endpoint must not contain a password, because `config show` and errors print it.
    if !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    Some(format!("{}/v1/traces", url.as_str().trim_end_matches('/')))
}

/// The names that spans use for the queue.
#[derive(Clone, Debug)]
pub struct MessagingNames {
    /// `rabbitmq`, or `polyhook` for the embedded queue.
    pub system: &'static str,
    /// The destination of events.
    pub events: String,
    /// The source of jobs.
    pub jobs: String,
    /// The destination of announcements.
    pub conversations: String,
}

#[derive(Debug)]
struct Export {
    tracer: SdkTracer,
    messaging: MessagingNames,
}

static EXPORT: OnceLock<Export> = OnceLock::new();

/// Exports the remaining spans when it is dropped. Waits at most two seconds for that.
#[derive(Debug)]
#[must_use]
pub struct TraceGuard(SdkTracerProvider);

impl Drop for TraceGuard {
    fn drop(&mut self) {
        // The exporter itself has logged a failure.
        let _ = self.0.shutdown_with_timeout(EXPORT_TIMEOUT);
    }
}

/// Exports spans from now on, if the configuration names a collector.
pub fn init(config: &TracingConfig, messaging: MessagingNames) -> Result<Option<TraceGuard>, TelemetryError> {
    let Some(url) = config.endpoint.as_deref().and_then(traces_url) else { return Ok(None) };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(url)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| TelemetryError::Traces(error.to_string()))?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource())
        .build();
    let _ = EXPORT.set(Export { tracer: provider.tracer("polyhook"), messaging });
    Ok(Some(TraceGuard(provider)))
}

/// Returns the attributes of this process: those of `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, then our own.
fn resource() -> Resource {
    const NAME: Key = Key::from_static_str("service.name");
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let from_environment = Resource::builder().build().get(&NAME);
    let unnamed = from_environment.is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let resource = Resource::builder().with_attribute(version);
    if unnamed { resource.with_service_name("polyhook").build() } else { resource.build() }
}

/// The attributes of a verified delivery's span.
#[derive(Clone, Copy, Debug)]
pub struct DeliverySpan<'a> {
    /// The sender's trace context.
    pub traceparent: Option<&'a str>,
    /// The request's path.
    pub path: &'a str,
    /// The event's id.
    pub id: &'a str,
    /// The event's type.
    pub kind: &'a str,
    /// The event's environment.
    pub environment: &'a str,
    /// The time when the whole request was read.
    pub read_at: Timestamp,
    /// The duration of the read.
    pub read_time: Duration,
}

/// A span, or nothing while the export is off. It ends when its last clone is dropped.
#[derive(Clone, Debug, Default)]
pub struct Span(Option<Context>);

impl Span {
    /// Starts the span of a delivery, at the time of its first byte.
    pub fn delivery(arrival: &DeliverySpan<'_>) -> Self {
        let Some(export) = EXPORT.get() else { return Self(None) };
        let DeliverySpan { traceparent, path, id, kind, environment, read_at, read_time } = *arrival;
        let attributes = [
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", path.to_owned()),
            KeyValue::new("url.path", path.to_owned()),
            KeyValue::new("url.scheme", "http"),
            KeyValue::new("messaging.message.id", id.to_owned()),
            KeyValue::new("polyhook.event.type", kind.to_owned()),
            KeyValue::new("polyhook.environment", environment.to_owned()),
        ];
        let span = SpanBuilder::from_name(format!("POST {path}"))
            .with_kind(SpanKind::Server)
            .with_start_time(SystemTime::from(read_at - read_time))
            .with_attributes(attributes);
        Self::start(export, span, &remote(traceparent).unwrap_or_default())
    }

    /// Starts the span of a publish, below the delivery.
    #[must_use]
    pub fn publish(&self, id: &str, routing_key: impl FnOnce() -> String, bytes: usize) -> Self {
        let (Some(export), Some(parent)) = (EXPORT.get(), &self.0) else { return Self(None) };
        let span = producer(export, &export.messaging.events, id, routing_key(), bytes);
        Self::start(export, span, parent)
    }

    /// Starts the span of an announcement, below the current span.
    pub fn announce(id: &str, routing_key: impl FnOnce() -> String, bytes: usize) -> Self {
        let Some(export) = EXPORT.get() else { return Self(None) };
        let span = producer(export, &export.messaging.conversations, id, routing_key(), bytes);
        Self::start(export, span, &Context::current())
    }

    /// Starts the span of one try of a job, in the trace of its delivery.
    pub fn job(traceparent: Option<&str>, id: &str, attempt: usize) -> Self {
        let Some(export) = EXPORT.get() else { return Self(None) };
        let queue = &export.messaging.jobs;
        let attributes = [
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.system", export.messaging.system),
            KeyValue::new("messaging.destination.name", queue.clone()),
            KeyValue::new("messaging.message.id", id.to_owned()),
            KeyValue::new("polyhook.attempt", i64::try_from(attempt).unwrap_or(i64::MAX)),
        ];
        let span = SpanBuilder::from_name(format!("process {queue}"))
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes);
        let Some(parent) = remote(traceparent) else { return Self::start(export, span, &Context::new()) };
        let link = Link::with_context(parent.span().span_context().clone());
        Self::start(export, span.with_links(vec![link]), &parent)
    }

    /// Starts the span of a request to PolyAI, below the current span.
    pub fn api_request(operation: &'static str, host: &str) -> Self {
        let Some(export) = EXPORT.get() else { return Self(None) };
        let attributes = [
            KeyValue::new("http.request.method", "GET"),
            KeyValue::new("server.address", host.to_owned()),
            KeyValue::new("polyhook.operation", operation),
        ];
        let span = SpanBuilder::from_name(format!("GET {operation}"))
            .with_kind(SpanKind::Client)
            .with_attributes(attributes);
        Self::start(export, span, &Context::current())
    }

    /// Starts the span of internal work, below the current span.
    pub fn internal(name: &'static str) -> Self {
        let Some(export) = EXPORT.get() else { return Self(None) };
        Self::start(export, SpanBuilder::from_name(name), &Context::current())
    }

    fn start(export: &Export, span: SpanBuilder, parent: &Context) -> Self {
        Self(Some(parent.with_span(export.tracer.build_with_context(span, parent))))
    }

    /// Returns the trace context that other services continue.
    pub fn traceparent(&self) -> Option<String> {
        let span = self.0.as_ref()?.span();
        let context = span.span_context();
        let flags = context.trace_flags().to_u8();
        Some(format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
    }

    /// Sets an attribute.
    pub fn set_attribute(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks the span as failed. `reason` is a constant word.
    pub fn set_error(&self, reason: &'static str) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new("error.type", reason));
            context.span().set_status(Status::error(reason));
        }
    }

    /// Runs `work` with this span as the current one.
    pub fn in_scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        work.with_context(self.0.clone().unwrap_or_else(Context::current))
    }
}

fn producer(export: &Export, exchange: &str, id: &str, routing_key: String, bytes: usize) -> SpanBuilder {
    let mut attributes = vec![
        KeyValue::new("messaging.operation.name", "publish"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("messaging.system", export.messaging.system),
        KeyValue::new("messaging.destination.name", exchange.to_owned()),
        KeyValue::new("messaging.message.id", id.to_owned()),
        KeyValue::new("messaging.message.body.size", i64::try_from(bytes).unwrap_or(i64::MAX)),
    ];
    if export.messaging.system == "rabbitmq" {
        attributes.push(KeyValue::new("messaging.rabbitmq.destination.routing_key", routing_key));
    }
    SpanBuilder::from_name(format!("publish {exchange}"))
        .with_kind(SpanKind::Producer)
        .with_attributes(attributes)
}

fn remote(traceparent: Option<&str>) -> Option<Context> {
    let parent = Traceparent::parse(traceparent?)?;
    let id = TraceId::from_hex(parent.trace_id).ok()?;
    let span = SpanId::from_hex(parent.span_id).ok()?;
    let flags = TraceFlags::new(parent.flags);
    Some(Context::new().with_remote_span_context(SpanContext::new(id, span, flags, true, TraceState::NONE)))
}

/// A `traceparent` of version 00 (<https://www.w3.org/TR/trace-context/#traceparent-header>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent<'a> {
    /// 32 hexadecimal digits, not all 0.
    pub trace_id: &'a str,
    /// 16 hexadecimal digits, not all 0.
    pub span_id: &'a str,
    /// Bit 0 is set if the trace is kept.
    pub flags: u8,
}

impl<'a> Traceparent<'a> {
    /// Parses the header's value. Returns nothing if it is not valid.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let id = |text: &str, length| {
            text.len() == length
                && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
                && text.bytes().any(|byte| byte != b'0')
        };
        let valid = version == "00" && id(trace_id, 32) && id(span_id, 16) && parts.next().is_none();
        let flags = u8::from_str_radix(flags, 16).ok().filter(|_| valid && flags.len() == 2)?;
        Some(Self { trace_id, span_id, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_valid_traceparents() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let good = format!("00-{id}-b7ad6b7169203331-01");
        let parsed = Traceparent::parse(&good).unwrap();
        assert_eq!((parsed.trace_id, parsed.span_id, parsed.flags), (id, "b7ad6b7169203331", 1));
        let zeros = "0".repeat(32);
        for bad in [
            "",
            "00",
            "00-xyz-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            &format!("00-{zeros}-b7ad6b7169203331-01"),
        ] {
            assert_eq!(Traceparent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn accepts_only_a_base_url_as_endpoint() {
        let problem = |endpoint: &str, sample_ratio| {
            !TracingConfig { endpoint: Some(endpoint.to_owned()), sample_ratio }.problems().is_empty()
        };
        assert!(!problem("http://collector:4318", 0.1));
        assert!(problem("collector:4318", 1.0));
        assert!(problem("grpc://collector:4317", 1.0));
        assert!(problem("http://collector:4318", 1.5));
        assert!(problem("https://user:password@collector:4318", 1.0));
        assert!(problem("https://key@collector:4318", 1.0));
        assert_eq!(traces_url("http://collector:4318/").unwrap(), "http://collector:4318/v1/traces");
        assert_eq!(traces_url("https://c.example/otlp").unwrap(), "https://c.example/otlp/v1/traces");
    }

    #[test]
    fn a_span_is_empty_while_export_is_off() {
        let span = Span::job(None, "id", 1);
        assert_eq!(span.traceparent(), None);
        assert!(span.publish("id", || panic!("the routing key must not be built"), 1).0.is_none());
    }
}
