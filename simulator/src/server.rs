//! The simulator's listener: HTTP/1.1 and HTTP/2 without TLS. A fault can reset a connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// The time that open connections have to finish after the shutdown began. A body that takes an hour must not keep
/// the process alive.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The wait after a failed `accept`.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The listener of a [`Simulator`](crate::Simulator). Requests are answered while it runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    pub(crate) fn new(
        listener: TcpListener,
        router: Router,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self { listener, router, shutdown, tasks }
    }

    /// Serves until the shutdown token fires, then waits for the open connections and deliveries to end.
    pub async fn run(self) {
        let Self { listener, router, shutdown, tasks } = self;
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    tasks.spawn(serve_connection(stream, router.clone(), shutdown.clone()));
                }
                Err(error) => {
                    // Usually the process has no file descriptors left. Connections that end free some.
                    tracing::warn!(error = %error, "the simulator cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }
}

/// Resets the connection of a request. Every request carries one as an extension.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionResetter(CancellationToken);

impl ConnectionResetter {
    pub(crate) fn reset(&self) {
        self.0.cancel();
    }
}

async fn serve_connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let reset = CancellationToken::new();
    let io = TokioIo::new(ResettableStream { stream, reset: reset.clone() });
    let resetter = ConnectionResetter(reset.clone());
    let service = router.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(resetter.clone());
        request.map(axum::body::Body::new)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    let serving = builder.serve_connection(io, TowerToHyperService::new(service));
    tokio::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        () = reset.cancelled() => return,
        () = shutdown.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = serving => {}
        () = reset.cancelled() => {}
        () = tokio::time::sleep(CLOSE_TIMEOUT) => {}
    }
}

/// A TCP stream that is closed by a reset instead of an orderly close once `reset` has fired.
#[derive(Debug)]
struct ResettableStream {
    stream: TcpStream,
    reset: CancellationToken,
}

impl Drop for ResettableStream {
    fn drop(&mut self) {
        if self.reset.is_cancelled() {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for ResettableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ResettableStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
