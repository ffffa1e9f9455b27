//! The accept loop: HTTP/1.1 and cleartext HTTP/2, header timeouts, graceful shutdown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use metrics::gauge;
use tokio::{net::TcpListener, time::sleep};
use tower::ServiceExt;

use crate::{lifecycle::Lifecycle, telemetry::GaugeGuard};

/// A peer's header block. PolyAI's is below one KiB.
const MAX_HEADER_BYTES: usize = 32 << 10;
const MAX_HTTP2_STREAMS: u32 = 256;
/// After an `accept` that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until the drain, then lets open requests finish. A connection that is
/// silent, or has not sent a whole header, for `header_timeout` is closed. `name` is the listener's in metrics.
///
/// There may be as many connections as the process may open files.
pub async fn serve(
    name: &'static str,
    listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    lifecycle: Lifecycle,
) {
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
                tracing::warn!(%error, "a connection could not be accepted; raise the limit of open files if this persists");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and must leave at once.
        let _ = stream.set_nodelay(true);
        let heard = Arc::new(AtomicBool::new(false));
        let service = TowerToHyperService::new(router.clone().map_request({
            let heard = Arc::clone(&heard);
            move |request: Request<Incoming>| {
                heard.store(true, Ordering::Relaxed);
                request.map(axum::body::Body::new)
            }
        }));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let counted = GaugeGuard::increment(open.clone());
        lifecycle.spawn("connection", async move {
            let _counted = counted;
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                },
                () = never_heard(&heard, header_timeout) => {
                    tracing::debug!("a connection without a request was closed");
                }
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Ends when `within` has passed without a first request. The HTTP library times a header only once it knows
/// which version is spoken, and HTTP/2 headers not at all.
async fn never_heard(heard: &AtomicBool, within: Duration) {
    sleep(within).await;
    if heard.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}
