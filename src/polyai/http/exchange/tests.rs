use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    thread,
    time::Duration,
};

use async_compression::tokio::write::GzipEncoder;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::wav::StreamEnd;

const OK: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n";

/// A server with raw answers.
struct Server {
    url: Url,
    /// The heads of all requests, in lower case.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers each path as `answer` says. After the answer to a path that begins with `/drip`, it sends one byte every
    /// 20 ms until the client goes away.
    fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (noted, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                thread::spawn(move || {
                    let mut connection = connection.unwrap();
                    let head = read_head(&connection);
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    noted.lock().unwrap().push(head.to_lowercase());
                    let mut sent = connection.write_all(&answer(&path));
                    while path.starts_with("/drip") && sent.is_ok() {
                        thread::sleep(Duration::from_millis(20));
                        sent = connection.write_all(b"a");
                    }
                });
            }
        });
        Self { url, seen }
    }

    fn url(&self, path: &str) -> Url {
        self.url.join(path).unwrap()
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn read_head(connection: &TcpStream) -> String {
    let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
    lines.by_ref().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

fn redirect(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nconnection: close\r\nx-polyai-correlation-id: c-1\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n").into()
}

fn client() -> HttpClient {
    let mut client = HttpClient::new(ClientBuilder::no_proxy).unwrap();
    client.proxies = Matcher::builder().build();
    client
}

async fn get(client: &HttpClient, url: Url) -> Result<Answer, ApiError> {
    client.get(url, HeaderValue::from_static("secret-key"), "audio/wav", &CorrelationId::new()).await
}

async fn error(url: Url) -> ApiError {
    let answer = get(&client(), url).await;
    answer.map_or_else(|error| error, |answer| answer.redirect_error(Timestamp::UNIX_EPOCH).unwrap())
}

#[tokio::test]
async fn follows_a_redirect_to_another_host_without_the_key() {
    let store = Server::start(|_| format!("{OK}content-length: 4\r\n\r\nRIFF").into());
    let target = store.url("object?signature=secret").to_string();
    let api = Server::start(move |path| if path == "/here" { redirect("/there") } else { redirect(&target) });
    let answer = get(&client(), api.url("here")).await.unwrap();
    assert_eq!(answer.whole(100).await.unwrap(), "RIFF");
    let [here, there] = &api.seen()[..] else { panic!("two requests") };
    for own in [here, there] {
        assert!(own.contains("x-api-key: secret-key"), "{own}");
        assert!(own.contains("x-polyai-correlation-id: polyhook-"), "{own}");
    }
    let [stored] = &store.seen()[..] else { panic!("one request") };
    assert!(stored.starts_with("get /object?signature=secret "), "{stored}");
    assert!(stored.contains("accept: audio/wav") && stored.contains("accept-encoding: identity"), "{stored}");
    for private in ["x-api-key", "secret-key", "referer", "x-polyai"] {
        assert!(!stored.contains(private), "{stored}");
    }
}

#[tokio::test]
async fn another_host_gets_no_key_from_the_api_by_sending_polyhook_back() {
    let api_url = Arc::new(Mutex::new(String::new()));
    let back = Arc::clone(&api_url);
    let other = Server::start(move |_| redirect(&back.lock().unwrap()));
    let target = other.url.to_string();
    let api = Server::start(move |path| match path {
        "/back" => format!("{OK}content-length: 0\r\n\r\n").into(),
        _ => redirect(&target),
    });
    *api_url.lock().unwrap() = api.url("back").to_string();
    get(&client(), api.url("audio")).await.unwrap();
    assert!(!api.seen()[1].contains("key"), "{:?}", api.seen());
}

#[tokio::test]
async fn every_error_has_the_id_of_the_answer_or_of_the_request() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent: Url = format!("http://{}/", silent.local_addr().unwrap()).parse().unwrap();
    let api = Server::start(|path| match path {
        "/unnamed" => b"HTTP/1.1 302 Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec(),
        "/named" => redirect("ftp://h/"),
        _ => Vec::new(),
    });
    let limits = TransferLimits { headers: Duration::from_millis(200), ..TransferLimits::default() };
    let client = HttpClient { limits, ..client() };
    let closed = "http://127.0.0.1:1/".parse().unwrap();
    for (url, kind, own) in [
        (closed, ErrorKind::Network, true),
        (silent, ErrorKind::Timeout, true),
        (api.url("hang-up"), ErrorKind::Network, true),
        (api.url("unnamed"), ErrorKind::Redirected, true),
        (api.url("named"), ErrorKind::Redirected, false),
    ] {
        let (id, key) = (CorrelationId::new(), HeaderValue::from_static("k"));
        let error = client.get(url.clone(), key.clone(), "*/*", &id).await.unwrap_err();
        let expected = if own { id.as_str() } else { "c-1" };
        assert_eq!((error.kind, error.correlation_id.as_deref()), (kind, Some(expected)), "{url}");
        if kind != ErrorKind::Redirected {
            let request = client.request(Method::POST, url.clone(), key, "*/*", &id);
            let error = client.send(request, "api", &id).await.unwrap_err();
            assert_eq!((error.kind, error.correlation_id.as_deref()), (kind, Some(expected)), "{url}");
        }
    }
}

#[tokio::test]
async fn a_redirect_that_leads_nowhere_is_a_temporary_error_in_words() {
    let other =
        Server::start(|_| b"HTTP/1.1 403 Forbidden\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n".to_vec());
    let forbidden = other.url("object?signature=secret").to_string();
    let api = Server::start(move |path| match path {
        "/loop" => redirect("/loop"),
        "/metadata" => redirect("http://169.254.169.254/secret"),
        "/closed" => redirect("http://127.0.0.1:1/secret"),
        "/nowhere" => redirect("http://no-such-host.invalid/secret"),
        "/forbidden" => redirect(&forbidden),
        path => redirect(&format!("{path}x?secret")),
    });
    for (path, words) in [
        ("loop", "it redirects in a circle"),
        ("metadata", "it redirects to 169.254.169.254: its address is a loopback"),
        ("closed", "it redirects to 127.0.0.1: Connection refused"),
        ("nowhere", "it redirects to no-such-host.invalid: its name cannot be resolved"),
        ("forbidden", "it redirects to 127.0.0.1: it answered 403"),
        ("endless", "it redirects more than 5 times"),
    ] {
        let error = error(api.url(path)).await;
        let said = error.to_string();
        assert!(said.contains(words) && !said.contains("secret"), "{path}: {said}");
        assert_eq!((error.kind, error.status), (ErrorKind::Redirected, Some(302)), "{path}");
        assert_eq!(error.correlation_id.as_deref(), Some("c-1"), "{path}");
        let retry_after = (path == "forbidden").then_some(Duration::from_secs(7));
        assert_eq!(error.advice(), crate::polyai::Advice::Retry(retry_after), "{path}");
    }
}

#[tokio::test]
async fn only_a_get_is_redirected() {
    let api = Server::start(|_| redirect("/there"));
    let client = client();
    for method in [Method::POST, Method::PATCH, Method::DELETE] {
        let id = CorrelationId::new();
        let request = client.request(method, api.url("here"), HeaderValue::from_static("k"), "*/*", &id);
        assert_eq!(client.send(request, "api", &id).await.unwrap().status(), 302);
    }
    assert_eq!(api.seen().len(), 3);
}

/// The address is checked when it is connected to, so a name that resolves to it is not enough.
#[tokio::test]
async fn does_not_connect_to_a_name_of_this_machine() {
    let server = Server::start(|_| format!("{OK}content-length: 0\r\n\r\n").into());
    let url = format!("http://localhost:{}/", server.url.port().unwrap());
    let error = client().guarded(Reach::Public).unwrap().get(&url).send().await.unwrap_err();
    assert_eq!(find_cause(&error), Some(&ForbiddenAddress));
    assert!(server.seen().is_empty());
    client().guarded(Reach::Private).unwrap().get(&url).send().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_drips_ends() {
    let server = Server::start(|path| match path {
        "/drip/head" => b"HTTP/1.1 200 OK\r\nx-a: ".to_vec(),
        "/drip/error" => b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 100000\r\n\r\n".to_vec(),
        "/drip/chunked" => format!("{OK}transfer-encoding: chunked\r\n\r\n").into(),
        "/drip/gzip" => [OK.as_bytes(), b"content-encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\0"].concat(),
        _ => format!("{OK}content-length: 100000\r\n\r\n").into(),
    });
    let short = Duration::from_millis(300);
    let limits = TransferLimits { headers: 10 * short, window: short, ..TransferLimits::default() };
    let client = HttpClient { limits, ..client() };
    for path in ["drip/body", "drip/chunked", "drip/gzip"] {
        let answer = get(&client, server.url(path)).await.unwrap();
        let error = answer.whole(1 << 20).await.unwrap_err();
        // The bytes of chunked and gzip bodies are not valid, which may be noticed first.
        let expected = [ErrorKind::Timeout, ErrorKind::Network, ErrorKind::BadAnswer];
        let possible = if path == "drip/body" { &expected[..1] } else { &expected };
        assert!(possible.contains(&error.kind), "{path}: {error}");
    }
    let answer = get(&client, server.url("drip/error")).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.start(1000).await.len() < 1000), (503, true));
    let client = HttpClient { limits: TransferLimits { headers: short, ..limits }, ..client };
    assert_eq!(get(&client, server.url("drip/head")).await.unwrap_err().kind, ErrorKind::Timeout);
}

async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

#[tokio::test]
async fn a_decompression_bomb_ends_at_the_size_limit() {
    let once = gzip(&vec![0; 64 << 20]).await;
    let bombs = [("gzip", once.clone()), ("gzip, gzip", gzip(&once.repeat(50)).await)];
    for (coding, bomb) in bombs {
        assert!(bomb.len() < 1 << 20, "{}", bomb.len());
        let head = format!("{OK}content-encoding: {coding}\r\ncontent-length: {}\r\n\r\n", bomb.len());
        let server = Server::start(move |_| [head.as_bytes(), &bomb].concat());
        let answer = get(&client(), server.url("bomb")).await.unwrap();
        let error = answer.whole(1 << 20).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::TooLarge, "{coding}");
        assert!(error.to_string().contains("larger than 1.0 MiB"), "{error}");
        let answer = get(&client(), server.url("bomb")).await.unwrap();
        assert_eq!(answer.start(1000).await.len(), 1000);
    }
}

#[tokio::test]
async fn the_coding_marks_the_end_of_a_body_and_an_unknown_coding_is_named() {
    let body = gzip(b"RIFF").await;
    let server = Server::start(move |path| {
        let label = path.trim_start_matches('/');
        if label == "plain" {
            return format!("{OK}content-length: 4\r\n\r\nRIFF").into();
        }
        let head = format!("{OK}content-encoding: {label}\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body].concat()
    });
    let max = SizeLimit { bytes: 1000, error: ErrorKind::TooLarge };
    for (label, end) in
        [("gzip", StreamEnd::Marked), ("identity", StreamEnd::Marked), ("plain", StreamEnd::Announced(4))]
    {
        let decoded = get(&client(), server.url(label)).await.unwrap().decode(max).await.unwrap();
        assert_eq!(decoded.end, end, "{label}");
        assert_eq!(body::read_whole(decoded.parts).await.unwrap(), "RIFF");
    }
    let error = get(&client(), server.url("br")).await.unwrap().whole(1000).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadAnswer);
    assert!(error.to_string().contains("its content coding br is not supported"), "{error}");
}
