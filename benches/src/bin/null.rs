//! A receiver without a queue: axum, signature, 204. The difference to a durable delivery is the cost of the queue.

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use clap::Parser;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::net::TcpListener;

/// Answers signed deliveries with 204 and discards them.
#[derive(Debug, Parser)]
struct Args {
    /// Address to listen on
    #[arg(long)]
    listen: String,
    /// Signing secret of the deliveries
    #[arg(long)]
    secret: String,
}

type Key = Hmac<Sha256>;

async fn deliver(State(key): State<Key>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers.get(name).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
    let mut mac = key;
    mac.update(&header("x-polyai-timestamp"));
    mac.update(b".");
    mac.update(&body);
    let given = hex::decode(header("x-polyai-signature")).unwrap_or_default();
    if mac.verify_slice(&given).is_ok() { StatusCode::NO_CONTENT } else { StatusCode::UNAUTHORIZED }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let key = Key::new_from_slice(args.secret.as_bytes()).map_err(std::io::Error::other)?;
    let router = Router::new().route("/polyai-events", post(deliver)).with_state(key);
    axum::serve(TcpListener::bind(args.listen).await?, router).await
}
