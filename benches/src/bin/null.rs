//! A receiver without a queue: axum, the signature, and 204. What a durable delivery costs beside it is the queue's.

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use clap::Parser;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::net::TcpListener;

/// Answers signed deliveries 204 and forgets them.
#[derive(Debug, Parser)]
struct Args {
    /// Where to listen.
    #[arg(long)]
    listen: String,
    /// What the deliveries are signed with.
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
