//! Answers that pass through gateways, proxies and stores: encoded, redirected, or both.

use std::sync::{Arc, Mutex, OnceLock};

use async_compression::tokio::write::{DeflateEncoder, GzipEncoder, ZlibEncoder};
use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, Response, header},
    response::IntoResponse,
};
use bytes::Bytes;
use polyhook::{
    archive::AudioStatus,
    clock::Clock,
    config::Config,
    lifecycle::Lifecycle,
    polyai::{self, ListQuery, PolyAiClient},
};
use polyhook_simulator::Scenario;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use url::Url;

use super::{World, assert_consistent, sha256, voice};

/// A change that a gateway makes to the answers of the simulated PolyAI.
#[derive(Clone, Debug)]
enum Change {
    Nothing,
    /// Encodes the body with these encoders and labels it.
    Encode(&'static [&'static str], Option<&'static str>),
    /// Labels the body.
    Label(&'static str),
    /// Redirects requests for this last part of a path with this status.
    Redirect(&'static str, u16, String),
}

/// A gateway, proxy or store in front of the simulated PolyAI, for which it has a key of its own.
struct Gateway {
    url: Url,
    polyai: Arc<OnceLock<(Url, String)>>,
    change: Arc<Mutex<Change>>,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl Gateway {
    async fn start(lifecycle: &Lifecycle) -> Self {
        let polyai = Arc::<OnceLock<(Url, String)>>::default();
        let change = Arc::new(Mutex::new(Change::Nothing));
        let seen = Arc::<Mutex<Vec<(String, HeaderMap)>>>::default();
        let client = polyai::http::client().unwrap();
        let (upstream, current, noted) = (Arc::clone(&polyai), Arc::clone(&change), Arc::clone(&seen));
        let router = Router::new().fallback(async move |request: Request| {
            let path = request.uri().path_and_query().unwrap().to_string();
            noted.lock().unwrap().push((path.clone(), request.headers().clone()));
            let (url, key) = upstream.get().unwrap();
            let answer = client.get(url.join(&path).unwrap()).header("x-api-key", key).send().await.unwrap();
            let change = current.lock().unwrap().clone();
            changed(&change, &path, answer).await
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        drop(lifecycle.spawn("gateway", async move { axum::serve(listener, router).await.unwrap() }));
        Self { url, polyai, change, seen }
    }

    /// Returns a world whose polyhook knows only the gateway.
    async fn world(&self, change: impl FnOnce(&mut Scenario, &mut Config)) -> World {
        let world = World::with(|scenario, config| {
            config.polyai.base_url = Some(self.url.clone());
            config.polyai.platform_url = Some(self.url.clone());
            change(scenario, config);
        })
        .await;
        self.connect(&world);
        world
    }

    fn connect(&self, world: &World) {
        self.polyai.set((world.sim.url().clone(), world.sim.api_key().to_owned())).unwrap();
    }

    fn set(&self, change: Change) {
        *self.change.lock().unwrap() = change;
    }

    fn seen(&self) -> Vec<(String, HeaderMap)> {
        self.seen.lock().unwrap().clone()
    }
}

async fn changed(change: &Change, path: &str, answer: reqwest::Response) -> Response<Body> {
    let builder = Response::builder().status(answer.status());
    let content_type = answer.headers().get(header::CONTENT_TYPE).unwrap().clone();
    let builder = builder.header(header::CONTENT_TYPE, content_type);
    let mut body = answer.bytes().await.unwrap();
    let builder = match change {
        Change::Redirect(end, status, location) if path.split('?').next().unwrap().ends_with(end) => {
            body.clear();
            builder.status(*status).header(header::LOCATION, location.replace("{path}", path))
        }
        Change::Encode(encoders, label) => {
            for encoder in *encoders {
                body = encoded(encoder, &body).await;
            }
            label.iter().fold(builder, |builder, label| builder.header(header::CONTENT_ENCODING, *label))
        }
        Change::Label(label) => builder.header(header::CONTENT_ENCODING, *label),
        Change::Redirect(..) | Change::Nothing => builder,
    };
    builder.body(Body::from(body)).unwrap()
}

async fn encoded(encoder: &str, bytes: &Bytes) -> Bytes {
    async fn finish<W: AsyncWrite + Unpin>(mut encoder: W, bytes: &Bytes) -> W {
        encoder.write_all(bytes).await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder
    }
    match encoder {
        "gzip" => finish(GzipEncoder::new(Vec::new()), bytes).await.into_inner().into(),
        "zlib" => finish(ZlibEncoder::new(Vec::new()), bytes).await.into_inner().into(),
        _ => finish(DeflateEncoder::new(Vec::new()), bytes).await.into_inner().into(),
    }
}

/// Asserts that polyhook's own list contains the ids.
async fn assert_listed(world: &World, ids: &[String]) {
    let polyai = PolyAiClient::new(&world.config.polyai, &world.config.projects, Clock::System).unwrap();
    let query = ListQuery {
        started: "2026-11-03T00:00:00Z".parse().unwrap().."2026-11-05T00:00:00Z".parse().unwrap(),
        environments: vec!["live".to_owned()],
        failed_before: false,
    };
    let mut list = polyai.list(&polyai.projects()[0], query);
    let mut found = Vec::new();
    while let Some(conversation) = list.next().await {
        found.push(conversation.id);
    }
    assert!(list.failures().is_empty(), "{:?}", list.failures());
    assert!(ids.iter().all(|id| found.contains(id)), "{ids:?} {found:?}");
}

#[tokio::test]
async fn decodes_what_a_gateway_encodes_unasked() {
    let lifecycle = Lifecycle::new();
    let gateway = Gateway::start(&lifecycle).await;
    let world = gateway.world(|_, _| ()).await;
    let mut ids = Vec::new();
    for change in [
        Change::Encode(&["gzip"], Some("gzip")),
        Change::Encode(&["gzip"], Some("X-GZIP")),
        Change::Encode(&["zlib"], Some("deflate")),
        Change::Encode(&["bare"], Some("deflate")),
        Change::Encode(&["gzip", "gzip"], Some("gzip, gzip")),
        Change::Encode(&["zlib", "gzip"], Some("deflate, gzip")),
        Change::Encode(&["gzip"], None),
        Change::Label("gzip"),
        Change::Label("identity"),
    ] {
        gateway.set(change.clone());
        let call = world.archive(&voice()).await;
        assert_eq!(world.dead_letters().await, [], "{change:?}");
        let manifest = assert_consistent(&world.place(&call));
        assert_eq!((manifest.audio.status, manifest.warnings), (AudioStatus::Ready, vec![]), "{change:?}");
        let conversation = world.get_v3(&call, "").await;
        let audio = world.get_v3(&call, "/audio?direction=combined&redacted=false").await;
        let hashes: Vec<_> = manifest.objects.iter().map(|object| object.sha256.clone()).collect();
        assert_eq!(hashes, [sha256(&conversation), sha256(&audio)], "{change:?}");
        ids.push(call.id);
        assert_listed(&world, &ids).await;
    }
    for (path, headers) in gateway.seen() {
        assert_eq!(headers[header::ACCEPT_ENCODING], "identity", "{path}");
    }
}

#[tokio::test]
async fn an_unknown_coding_is_named_and_tried_again() {
    let lifecycle = Lifecycle::new();
    let gateway = Gateway::start(&lifecycle).await;
    let world = gateway.world(|_, _| ()).await;
    gateway.set(Change::Label("br"));
    world.archive(&voice()).await;
    let dead = world.only_dead_letter().await;
    let last = dead.history.attempts.last().unwrap();
    assert_eq!((last.reason.as_ref(), last.status, dead.history.failures), ("bad_answer", Some(200), 5));
    assert!(last.detail.contains("its content coding br is not supported"), "{}", last.detail);
}

#[tokio::test]
async fn follows_a_recording_to_a_store_without_the_key() {
    let lifecycle = Lifecycle::new();
    let (gateway, store) = (Gateway::start(&lifecycle).await, Gateway::start(&lifecycle).await);
    let world = gateway.world(|_, _| ()).await;
    store.connect(&world);
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}{{path}}&X-Amz-Signature=secret", store.url.as_str().trim_end_matches('/'));
        gateway.set(Change::Redirect("/audio", status, location));
        // Stores encode, too.
        store.set(Change::Encode(&["gzip"], Some("gzip")));
        let call = world.archive(&voice()).await;
        assert_eq!(world.dead_letters().await, []);
        assert_eq!(assert_consistent(&world.place(&call)).audio.status, AudioStatus::Ready);
    }
    let seen = store.seen();
    assert_eq!(seen.len(), 5);
    for (path, headers) in seen {
        assert!(path.ends_with("&X-Amz-Signature=secret"), "{path}");
        assert_eq!(headers[header::ACCEPT], "audio/wav");
        assert!(!format!("{headers:?}").contains("key"), "{headers:?}");
    }
    for (path, headers) in gateway.seen() {
        assert!(headers.contains_key("x-api-key"), "{path}");
    }
}

#[tokio::test]
async fn a_redirect_to_an_internal_address_or_a_login_page_is_tried_again() {
    let lifecycle = Lifecycle::new();
    let gateway = Gateway::start(&lifecycle).await;
    let world = gateway.world(|_, _| ()).await;
    let login = super::stub::Stub::start(&lifecycle, |_| {
        axum::response::Html("<!doctype html><title>Sign in</title>").into_response()
    })
    .await;
    for (location, reason, status, words) in [
        ("http://169.254.169.254/latest?secret".to_owned(), "redirected", 302, "link-local"),
        ("https://[::ffff:a9fe:a9fe]/?secret".to_owned(), "redirected", 302, "link-local"),
        ("file:///etc/passwd?secret".to_owned(), "redirected", 302, "not an http(s) URL"),
        (login.url.join("login?secret").unwrap().to_string(), "bad_answer", 200, "login page"),
    ] {
        let known = world.dead_letters().await.len();
        gateway.set(Change::Redirect("", 302, location.clone()));
        world.archive(&voice()).await;
        let mut dead = world.dead_letters().await;
        assert_eq!(dead.len(), known + 1, "{location}");
        dead.sort_by_key(|letter| letter.history.attempts.last().map(|attempt| attempt.at));
        let history = &dead.last().unwrap().history;
        let last = history.attempts.last().unwrap();
        assert_eq!(
            (last.reason.as_ref(), last.status, history.failures),
            (reason, Some(status), 5),
            "{location}"
        );
        assert!(
            last.detail.contains(words) && !last.detail.contains("secret"),
            "{location}: {}",
            last.detail
        );
    }
}
