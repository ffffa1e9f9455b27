//! The accept loop of a listener: HTTP/1.1 and cleartext HTTP/2, bounded connections, graceful shutdown.
//!
//! A connection ends when its client is too slow, idle for too long, or must make room for a new one; see [`activity`] and
//! [`connections`]. The time limits of a request belong to its handler.

mod activity;
mod connections;
mod limits;
mod observed;
mod request_rules;

use std::{
    convert::Infallible, error::Error, future::poll_fn, net::SocketAddr, pin::pin, sync::Arc, task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{
    body::{Body, Incoming},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulConnection},
};
use metrics::gauge;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until},
};

use self::{
    activity::Activity,
    connections::{Connections, OpenConnection},
    observed::{ObservedBody, ObservedStream, OpenRequest},
};
use crate::{lifecycle::Lifecycle, telemetry::GaugeGuard};

pub(super) use self::limits::{MAX_HEADER_BYTES, max_connections};
pub use self::{limits::ConnectionLimits, observed::RequestBody};

type BoxError = Box<dyn Error + Send + Sync>;

/// Requests of one connection of HTTP/2 at the same time.
const MAX_HTTP2_STREAMS: u32 = 32;
/// Pause after an `accept` that failed, usually because no file descriptor was free.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// Microseconds after which a timer is set again, because a time in the far future cannot be represented.
const LONGEST_TIMER: u64 = 24 * 3600 * 1_000_000;
/// Least time between two warnings about the limit of connections.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// Serves `listener` until the drain starts, then lets open requests finish. `service` returns the service of a
/// connection, by the address of its client.
///
/// `name` is the listener's label in metrics.
pub async fn serve<S, B>(
    name: &'static str,
    listener: TcpListener,
    service: impl Fn(SocketAddr) -> S + Send + Sync + 'static,
    limits: ConnectionLimits,
    lifecycle: Lifecycle,
) where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + From<&'static str> + Unpin + Send + 'static,
{
    let connections = Connections::new(limits);
    let draining = lifecycle.draining();
    let builder = Arc::new(connection_builder(limits));
    let open = gauge!("polyhook_connections", "listener" => name);
    let open_connection = |(stream, client): (TcpStream, SocketAddr)| {
        // Responses are small and must leave at once.
        let _ = stream.set_nodelay(true);
        let connection = connections.open(GaugeGuard::increment(open.clone()));
        let serve = serve_connection(stream, service(client), Arc::clone(&builder), connection);
        lifecycle.spawn("connection", serve);
    };
    let accept = async {
        let mut last_warning: Option<Instant> = None;
        loop {
            let accepted = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; if this continues, raise the limit of open files");
                    connections.close_oldest_idle();
                    sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            };
            let was_full = connections.make_room().await;
            if was_full && last_warning.is_none_or(|last| last.elapsed() > WARNING_INTERVAL) {
                tracing::warn!(
                    listener = name,
                    max_connections = limits.max_connections,
                    "the limit of connections is reached, so idle ones are closed for new ones; limit connections at the ingress"
                );
                last_warning = Some(Instant::now());
            }
            open_connection(accepted);
        }
    };
    tokio::select! {
        () = accept => {}
        () = draining.cancelled() => {}
    }
    accepted_by_system(listener).take(connections.room()).for_each(open_connection);
    connections.drain().await;
}

/// Returns the connections that clients have opened and the process has not accepted. They may have sent a request. Closes
/// the listener.
fn accepted_by_system(listener: TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    let listener = listener.into_std();
    std::iter::from_fn(move || {
        let (stream, client) = listener.as_ref().ok()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, client))
    })
}

/// Time limits are those of [`Activity`], so the library's own are off.
fn connection_builder(limits: ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let max_header_bytes = limits.max_header_bytes;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .header_read_timeout(None)
        .half_close(limits.half_close)
        .max_buf_size(max_header_bytes)
        .http2()
        .max_concurrent_streams(MAX_HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(max_header_bytes).unwrap_or(u32::MAX));
    builder
}

async fn serve_connection<S, B>(
    stream: TcpStream,
    service: S,
    builder: Arc<auto::Builder<TokioExecutor>>,
    connection: OpenConnection,
) where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + From<&'static str> + Unpin + Send + 'static,
{
    let activity = &connection.activity;
    let stream = TokioIo::new(ObservedStream::new(stream, Arc::clone(activity)));
    let service = service_fn({
        let activity = Arc::clone(activity);
        move |request| serve_request(&service, request, &activity)
    });
    match run(builder.serve_connection(stream, service), activity).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        None => tracing::debug!("closed a connection that was idle or whose client was too slow"),
    }
}

/// Runs a connection to its end, or to its deadline. Returns `None` at the deadline.
async fn run<C: GracefulConnection>(connection: C, activity: &Activity) -> Option<Result<(), C::Error>> {
    let mut connection = pin!(connection);
    let mut timer_at = activity.deadline();
    let mut timer = pin!(sleep_until(activity.instant(timer_at)));
    let mut is_shutting_down = false;
    poll_fn(|cx| {
        activity.register(cx.waker());
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        if !is_shutting_down && activity.may_shut_down() {
            is_shutting_down = true;
            connection.as_mut().graceful_shutdown();
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
        }
        loop {
            // A timer that is too early is only set again when it fires, so most requests do not set it.
            let deadline = activity.deadline();
            if deadline < timer_at || timer.is_elapsed() {
                timer_at = deadline.min(activity.now() + LONGEST_TIMER);
                timer.as_mut().reset(activity.instant(timer_at));
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if activity.deadline() <= activity.now() {
                return Poll::Ready(None);
            }
        }
    })
    .await
}

/// Rejects a request that breaks a rule of HTTP, and gives any other to `service`.
fn serve_request<S, B>(
    service: &S,
    request: Request<Incoming>,
    activity: &Arc<Activity>,
) -> impl Future<Output = Result<Response<ObservedBody<B>>, Infallible>> + use<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    B: Body + From<&'static str>,
{
    let version = request.version();
    let open = OpenRequest::new(activity, version == Version::HTTP_2);
    let answer = match request_rules::violation(&request) {
        None => Ok(service.call(request.map(|body| RequestBody::new(body, activity)))),
        Some(status) => Err(rejection(status, version)),
    };
    async move {
        let response = match answer {
            Ok(answer) => answer.await?,
            Err(response) => response,
        };
        Ok(open.answer(response))
    }
}

/// Builds the answer to a request that breaks a rule of HTTP. Its body is not read, so the connection is closed.
fn rejection<B: From<&'static str>>(status: StatusCode, version: Version) -> Response<B> {
    let body = match status {
        StatusCode::NOT_IMPLEMENTED => "{\"error\":\"not implemented\"}\n",
        _ => "{\"error\":\"bad request\"}\n",
    };
    let mut response = Response::new(B::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Connection-specific headers do not exist in HTTP/2 (RFC 9113, 8.2.2).
    if version != Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use tokio::{
        io::AsyncWriteExt,
        sync::{mpsc, oneshot},
        time::timeout,
    };

    use super::*;

    /// Returns true if a request is cancelled when its client closes the sending side of the connection.
    async fn is_cancelled_by_a_client_that_closes(half_close: bool) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ConnectionLimits {
            transfer_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_mins(1),
            max_connections: 2,
            max_header_bytes: MAX_HEADER_BYTES,
            half_close,
        };
        let (started, mut has_started) = mpsc::channel(1);
        let service = move |_| {
            let started = started.clone();
            service_fn(move |_: Request<RequestBody>| {
                let started = started.clone();
                async move {
                    // The sender is dropped with the request, which is never answered.
                    let (_request, has_ended) = oneshot::channel::<()>();
                    started.send(has_ended).await.unwrap();
                    std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
                }
            })
        };
        let lifecycle = Lifecycle::new();
        let server = lifecycle.spawn("server", serve("test", listener, service, limits, lifecycle.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let has_ended = has_started.recv().await.unwrap();
        client.shutdown().await.unwrap();
        let is_cancelled = timeout(Duration::from_millis(500), has_ended).await.is_ok();
        server.abort();
        is_cancelled
    }

    #[tokio::test]
    async fn a_client_that_leaves_cancels_its_request_unless_it_may_wait_half_closed() {
        assert!(is_cancelled_by_a_client_that_closes(false).await);
        assert!(!is_cancelled_by_a_client_that_closes(true).await);
    }
}
