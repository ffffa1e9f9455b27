//! The accept loop of a listener: HTTP/1.1 and cleartext HTTP/2, header timeouts, graceful shutdown.

use std::{
    convert::Infallible,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    service::Service,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use metrics::gauge;
use tokio::{net::TcpListener, time::sleep};

use crate::{lifecycle::Lifecycle, telemetry::GaugeGuard};

/// Bytes of one request's headers. PolyAI's headers take less than one KiB.
const MAX_HEADER_BYTES: usize = 32 << 10;
const MAX_HTTP2_STREAMS: u32 = 256;
/// Pause after an `accept` that failed, usually because no file descriptor was free.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves `listener` until the drain starts, then lets open requests finish.
///
/// Closes a connection that sends nothing, or no complete header, for `header_timeout`. `name` is the listener's label
/// in metrics. The number of connections is bounded only by the process's limit of open files.
pub async fn serve<S, B>(
    name: &'static str,
    listener: TcpListener,
    service: S,
    header_timeout: Duration,
    lifecycle: Lifecycle,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let builder = connection_builder(header_timeout);
    let open = gauge!("polyhook_connections", "listener" => name);
    let graceful = GracefulShutdown::new();
    let draining = lifecycle.draining();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; if this continues, raise the limit of open files");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        // Responses are small and must leave at once.
        let _ = stream.set_nodelay(true);
        let received = Arc::new(AtomicBool::new(false));
        let service = NotesRequests { service: service.clone(), received: Arc::clone(&received) };
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let guard = GaugeGuard::increment(open.clone());
        lifecycle.spawn("connection", async move {
            let _guard = guard;
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                },
                () = first_request_timeout(&received, header_timeout) => {
                    tracing::debug!("a connection without a request was closed");
                }
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn connection_builder(header_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(header_timeout))
        .keep_alive_timeout(header_timeout);
    builder
}

/// A service that also records that a request was received.
#[derive(Clone, Debug)]
struct NotesRequests<S> {
    service: S,
    received: Arc<AtomicBool>,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for NotesRequests<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.received.store(true, Ordering::Relaxed);
        self.service.call(request)
    }
}

/// Completes when no request was received within `timeout`. The HTTP library applies its header timeout only once it
/// knows the HTTP version, and not at all to HTTP/2.
async fn first_request_timeout(received: &AtomicBool, timeout: Duration) {
    sleep(timeout).await;
    if received.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}
