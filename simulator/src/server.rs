//! The stand-in's listener: HTTP/1.1 and HTTP/2 in clear text, with connections that can be cut.

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
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{gate::Cutter, state::SimulatorState};

/// How long a connection may take to finish its answers once the drain has begun. The stand-in has
/// nothing to lose, and a body that drips for an hour must not hold the process up.
const LINGER: Duration = Duration::from_secs(1);
/// The wait after a failed `accept`.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The listener of a [`Simulator`](super::Simulator). Nothing is answered until it runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    state: SimulatorState,
}

impl Server {
    pub(crate) fn new(listener: TcpListener, router: Router, state: SimulatorState) -> Self {
        Self { listener, router, state }
    }

    /// Serves until the shutdown token fires, then waits for open connections and deliveries to end.
    pub async fn run(self) {
        let Self { listener, router, state } = self;
        while let Some(accepted) = state.shutdown().run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    state.tasks().spawn(connection(stream, router.clone(), state.shutdown().clone()));
                }
                Err(error) => {
                    // Usually the process has no file descriptors left. It gets some back when connections end.
                    tracing::warn!(error = %error, "the simulator cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
        drop(listener);
        state.tasks().close();
        state.tasks().wait().await;
    }
}

async fn connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let cut = CancellationToken::new();
    let io = TokioIo::new(Cuttable { stream, cut: cut.clone() });
    let cutter = Cutter(cut.clone());
    let service = router.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(cutter.clone());
        request.map(axum::body::Body::new)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    let serving = builder.serve_connection(io, TowerToHyperService::new(service));
    tokio::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        () = cut.cancelled() => return,
        () = shutdown.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = serving => {}
        () = cut.cancelled() => {}
        () = tokio::time::sleep(LINGER) => {}
    }
}

/// A connection that ends in a reset, not in an orderly close, once it has been cut.
#[derive(Debug)]
struct Cuttable {
    stream: TcpStream,
    cut: CancellationToken,
}

impl Drop for Cuttable {
    fn drop(&mut self) {
        if self.cut.is_cancelled() {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cuttable {
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
