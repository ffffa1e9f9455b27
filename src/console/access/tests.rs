use axum::{body::Body, extract::Request};
use http::{Method, header};

use super::*;
use crate::{
    console::fixture::{Answer, TestConsole},
    secret::Secret,
};

const TOKEN: &str = "hunter2-hunter2-hunter2";
const OTHER_TOKEN: &str = "hunter3-hunter3-hunter3";
const PROXY: &str = "10.0.0.7";

fn config(listen: &str, token: bool, proxy: bool) -> ConsoleConfig {
    ConsoleConfig {
        listen: listen.parse().unwrap(),
        token: token.then(|| Secret::new(TOKEN)),
        trusted_proxies: if proxy { vec![PROXY.to_owned().try_into().unwrap()] } else { Vec::new() },
        user_header: proxy.then(|| "X-User".to_owned()),
        ..ConsoleConfig::default()
    }
}

fn with_token() -> TestConsole {
    TestConsole::open(config("0.0.0.0:8090", true, false))
}

fn request(method: &Method, path: &str, headers: &[(&str, &str)], body: &str) -> Request {
    let mut request = Request::builder().method(method).uri(path).header("host", "calls.example:8090");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::from(body.to_owned())).unwrap();
    let hosts: Vec<_> = request.headers().get_all("host").into_iter().cloned().collect();
    request.headers_mut().insert("host", hosts.last().unwrap().clone());
    request
}

async fn get(console: &TestConsole, path: &str, headers: &[(&str, &str)]) -> Answer {
    console.send("192.0.2.1", request(&Method::GET, path, headers, "")).await
}

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

async fn post(console: &TestConsole, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    console.send("192.0.2.1", request(&Method::POST, path, &[headers, &[FORM]].concat(), body)).await
}

/// Logs in and returns the cookie.
async fn log_in(console: &TestConsole) -> String {
    let answer = post(console, "/login", &[], &format!("token={TOKEN}")).await;
    assert_eq!((answer.status, answer.header("location")), (303, "/"), "{answer:?}");
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

fn is_public(path: &str) -> bool {
    ["/livez", "/login"].contains(&path) || path.starts_with("/assets/")
}

#[tokio::test]
async fn without_a_token_no_route_is_served() {
    for (has_token, has_proxy) in [(true, false), (false, true), (true, true)] {
        let console = TestConsole::open(config("0.0.0.0:8090", has_token, has_proxy));
        let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];
        let mut paths = console.paths("CA1");
        paths.extend(["/none", "/../dead", "//dead", "/conversations/CA1/"].map(str::to_owned));
        for path in paths.iter().filter(|path| !is_public(path)) {
            for method in methods {
                let method = method.parse().unwrap();
                let answer = console.send("192.0.2.1", request(&method, path, &[], "")).await;
                let is_to_login = answer.status == 303 && answer.header("location").starts_with("/login");
                assert!(is_to_login && has_token || answer.status == 401, "{method} {path}: {answer:?}");
                assert!(!answer.body.contains("CA1"), "{answer:?}");
            }
        }
        for path in ["/livez", "/assets/1/console.css"] {
            assert_eq!(get(&console, path, &[]).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn pages_lead_to_the_login_and_everything_else_is_refused() {
    let console = with_token();
    let page = ("accept", "text/html,*/*;q=0.8");
    for (path, headers, location) in [
        ("/", &[][..], "/login"),
        ("/conversations?text=a%20b", &[], "/login?next=%2Fconversations%3Ftext%3Da%2520b"),
        ("/conversations/CA1", &[], "/login?next=%2Fconversations%2FCA1"),
        ("/dead/17", &[page], "/login?next=%2Fdead%2F17"),
        ("/another/page", &[page], "/login?next=%2Fanother%2Fpage"),
    ] {
        let answer = get(&console, path, headers).await;
        assert_eq!((answer.status, answer.header("location")), (303, location), "{path}");
    }
    for (path, accept) in
        [("/live/events", "text/event-stream"), ("/conversations/CA1/audio", "*/*"), ("/none", "*/*")]
    {
        let answer = get(&console, path, &[("accept", accept)]).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_rules_of_access() {
    let (loopback, any) = ("127.0.0.1:8090", "0.0.0.0:8090");
    let here = ("host", "127.0.0.1:8090");
    let bearer: &str = &format!("Bearer {TOKEN}");
    let (user, wrong) = (("x-user", "ada"), ("authorization", "Bearer hunter2-hunter2-hunter9"));
    for (listen, token, proxy, client, headers, status) in [
        // Loopback needs nothing but a host that no other site can have.
        (loopback, false, false, "127.0.0.1", &[here][..], 200),
        (loopback, false, false, "127.0.0.1", &[("host", "localhost")], 200),
        (loopback, false, false, "127.0.0.1", &[("host", "[::1]:8090")], 200),
        (loopback, false, false, "127.0.0.1", &[("host", "evil.example:8090")], 403),
        (loopback, false, false, "127.0.0.1", &[here, ("authorization", "Basic eDp5")], 200),
        ("[::1]:8090", false, false, "::1", &[("host", "evil.example")], 403),
        // With a token or a proxy, loopback needs it, too.
        (loopback, true, false, "127.0.0.1", &[here], 303),
        (loopback, true, false, "127.0.0.1", &[here, ("authorization", bearer)], 200),
        (loopback, true, false, "127.0.0.1", &[("host", "evil.example"), ("authorization", bearer)], 403),
        (loopback, false, true, "127.0.0.1", &[here], 401),
        (loopback, false, true, "127.0.0.1", &[here, user], 403),
        // Another address.
        (any, true, false, "192.0.2.1", &[], 303),
        (any, true, false, "192.0.2.1", &[("authorization", bearer)], 200),
        (any, true, false, "192.0.2.1", &[wrong], 401),
        (any, true, false, "192.0.2.1", &[("authorization", "Basic eDp5")], 303),
        (any, true, false, "192.0.2.1", &[("cookie", "polyhook=1.2.3")], 303),
        (any, true, false, "192.0.2.1", &[user], 303),
        // A proxy: its word counts from its own address only.
        (any, false, true, PROXY, &[user], 200),
        (any, false, true, "::ffff:10.0.0.7", &[user], 200),
        (any, false, true, PROXY, &[], 401),
        (any, false, true, PROXY, &[("x-user", "")], 403),
        (any, false, true, "192.0.2.1", &[user], 403),
        (any, false, true, "192.0.2.1", &[user, ("x-forwarded-for", PROXY), ("x-real-ip", PROXY)], 403),
        (any, false, true, "192.0.2.1", &[("x-forwarded-for", PROXY)], 401),
        (any, false, true, "192.0.2.1", &[("authorization", bearer)], 401),
        (any, false, true, "no address", &[user], 403),
        // Both: a token from anywhere, but never with the header.
        (any, true, true, PROXY, &[user], 200),
        (any, true, true, PROXY, &[], 303),
        (any, true, true, "192.0.2.1", &[("authorization", bearer)], 200),
        (any, true, true, "192.0.2.1", &[user, ("authorization", bearer)], 403),
    ] {
        let console = TestConsole::open(config(listen, token, proxy));
        let answer = console.send(client, request(&Method::GET, "/dead", headers, "")).await;
        assert_eq!(answer.status, status, "{listen} {token} {proxy} {client} {headers:?}: {}", answer.body);
        let is_hidden = !answer.body.contains("hunter") && !answer.body.contains("ada") || status == 200;
        assert!(is_hidden, "{}", answer.body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_right_token_opens_a_session_and_a_wrong_one_takes_time() {
    let console = with_token();
    let form = get(&console, "/login?next=/dead", &[]).await;
    assert_eq!(form.status, 200);
    for part in ["name=\"token\"", "autocomplete=\"current-password\"", "value=\"/dead\"", "method=\"post\""]
    {
        assert!(form.body.contains(part), "{}", form.body);
    }
    let started = tokio::time::Instant::now();
    for wrong in ["", "token=", "token=hunter2", "token=hunter2-hunter2-hunter9", "csrf=x"] {
        let answer = post(&console, "/login", &[], wrong).await;
        assert_eq!(answer.status, 401, "{wrong}");
        assert!(answer.headers.get("set-cookie").is_none() && answer.body.contains("role=\"alert\""));
        assert!(!answer.body.contains("hunter"), "{}", answer.body);
    }
    assert!(started.elapsed() >= std::time::Duration::from_secs(5));

    let body = format!("next=%2Fconversations%3Fpage%3D2&token={TOKEN}");
    let answer = post(&console, "/login", &[], &body).await;
    assert_eq!((answer.status, answer.header("location")), (303, "/conversations?page=2"));
    assert_eq!(answer.header("cache-control"), "no-store");
    let evil = post(&console, "/login", &[], &format!("next=//evil.example&token={TOKEN}")).await;
    assert_eq!(evil.header("location"), "/");

    let cookie = log_in(&console).await;
    assert_eq!(get(&console, "/dead", &[("cookie", &cookie)]).await.status, 200);
    let again = get(&console, "/login?next=/dead", &[("cookie", &cookie)]).await;
    assert_eq!((again.status, again.header("location")), (303, "/dead"), "already logged in");
    console.console.clock.advance(std::time::Duration::from_hours(12));
    assert_eq!(get(&console, "/dead", &[("cookie", &cookie)]).await.status, 303, "it has expired");
}

/// Whoever guesses must not keep the owner out, however many guesses wait.
#[tokio::test(start_paused = true)]
async fn many_wrong_tokens_do_not_delay_the_right_one() {
    let console = Arc::new(with_token());
    let guess = |_| {
        let console = Arc::clone(&console);
        async move { post(&console, "/login", &[], "token=hunter2-hunter2-hunter9").await.status }
    };
    let guesses = futures_util::future::join_all((0..100).map(guess));
    let owner = async {
        tokio::task::yield_now().await;
        let started = tokio::time::Instant::now();
        log_in(&console).await;
        started.elapsed()
    };
    let (statuses, took) = tokio::join!(guesses, owner);
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    let delayed = statuses.iter().filter(|status| **status == 401).count();
    assert_eq!((delayed, statuses.len()), (32, 100), "the others are refused at once");
    assert!(statuses.iter().all(|status| [401, 429].contains(status)));
}

#[tokio::test]
async fn a_session_survives_a_restart_and_ends_with_its_token_or_by_logout() {
    let console = with_token();
    let cookie = log_in(&console).await;
    let headers = [("cookie", &*cookie)];
    let restarted = with_token();
    assert_eq!(get(&restarted, "/dead", &headers).await.status, 200);
    let rotated = TestConsole::open(ConsoleConfig {
        token: Some(Secret::new(OTHER_TOKEN)),
        ..config("0.0.0.0:8090", true, false)
    });
    assert_eq!(get(&rotated, "/dead", &headers).await.status, 303);

    let page = get(&console, "/dead", &headers).await;
    assert!(page.body.contains("action=\"/logout\""), "{}", page.body);
    assert_eq!(post(&console, "/logout", &headers, "").await.status, 403, "not without the form's token");
    assert_eq!(get(&console, "/dead", &headers).await.status, 200);
    let answer = post(&console, "/logout", &headers, &format!("csrf={}", page.csrf())).await;
    assert_eq!((answer.status, answer.header("location")), (303, "/login"));
    let removed: Vec<_> = answer.headers.get_all("set-cookie").into_iter().collect();
    assert!(removed.len() == 2 && removed.iter().all(|value| value.to_str().unwrap().contains("Max-Age=0")));
    assert_eq!(get(&console, "/dead", &headers).await.status, 303, "a copy of the cookie is of no use");
}

#[tokio::test]
async fn a_changed_file_of_tokens_takes_effect_without_a_restart() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("# ours\n{TOKEN}\n")).unwrap();
    let config = ConsoleConfig {
        token: None,
        token_file: Some(file.path().to_owned()),
        file_tokens: crate::web::SecretsFile::read(file.path()).unwrap(),
        ..config("0.0.0.0:8090", true, false)
    };
    let console = TestConsole::open(config);
    let cookie = log_in(&console).await;
    std::fs::write(file.path(), format!("{OTHER_TOKEN}\n{TOKEN}\n")).unwrap();
    console.access.reload().await;
    assert_eq!(get(&console, "/dead", &[("cookie", &cookie)]).await.status, 200, "both are active");
    std::fs::write(file.path(), format!("{OTHER_TOKEN}\n")).unwrap();
    console.access.reload().await;
    assert_eq!(get(&console, "/dead", &[("cookie", &cookie)]).await.status, 303);
    std::fs::write(file.path(), "").unwrap();
    console.access.reload().await;
    let bearer = format!("Bearer {OTHER_TOKEN}");
    assert_eq!(get(&console, "/dead", &[("authorization", &bearer)]).await.status, 200, "the last one stays");
}

#[tokio::test]
async fn the_cookie_is_secure_where_the_browser_uses_https() {
    let console = TestConsole::open(config("0.0.0.0:8090", true, true));
    let https = ("x-forwarded-proto", "https");
    for (client, headers, is_secure) in [
        ("192.0.2.1", &[][..], false),
        ("192.0.2.1", &[https], false),
        (PROXY, &[https], true),
        (PROXY, &[("x-forwarded-proto", "http")], false),
        ("192.0.2.1", &[("origin", "https://calls.example:8090")], true),
        ("192.0.2.1", &[("origin", "http://calls.example:8090")], false),
    ] {
        let body = format!("token={TOKEN}");
        let headers = [headers, &[FORM]].concat();
        let answer = console.send(client, request(&Method::POST, "/login", &headers, &body)).await;
        let cookie = answer.header("set-cookie");
        assert_eq!(cookie.ends_with("; Secure"), is_secure, "{client} {headers:?} {cookie}");
        assert_eq!(cookie.starts_with("__Host-polyhook="), is_secure, "{cookie}");
    }
}

/// A new route that changes something cannot forget the protection.
#[tokio::test]
async fn no_route_accepts_a_change_that_no_page_of_the_console_asked_for() {
    let console =
        TestConsole::open(ConsoleConfig { allow_replay: true, ..config("0.0.0.0:8090", true, false) });
    let cookie = log_in(&console).await;
    let own = ("cookie", &*cookie);
    let csrf = get(&console, "/dead", &[own]).await.csrf();
    let (right, wrong) = (format!("csrf={csrf}"), format!("csrf={}", "0".repeat(csrf.len())));
    let mut reached = 0;
    for path in console.paths("CA1").iter().filter(|path| !is_public(path) && **path != "/logout") {
        for (headers, body) in [
            (&[own][..], ""),
            (&[own], "csrf="),
            (&[own], &wrong),
            (&[own], &wrong.replacen("csrf", "CSRF", 1)),
            (&[own, ("x-csrf-token", "x")], &right),
            (&[own, ("sec-fetch-site", "cross-site")], &right),
            (&[own, ("sec-fetch-site", "same-site")], &right),
            (&[own, ("origin", "http://evil.example")], &right),
            (&[own, ("origin", "null")], &right),
        ] {
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                let headers = [headers, &[FORM]].concat();
                let answer = console.send("192.0.2.1", request(&method, path, &headers, body)).await;
                assert_eq!(answer.status, 403, "{method} {path} {headers:?} {body}");
            }
        }
        let text = [own, ("content-type", "text/plain")];
        let answer = console.send("192.0.2.1", request(&Method::POST, path, &text, &right)).await;
        assert_eq!(answer.status, 403, "{path}: a form only");
        let script = post(&console, path, &[own, ("x-csrf-token", &csrf)], "").await;
        let form = post(&console, path, &[own, ("sec-fetch-site", "same-origin")], &right).await;
        assert_ne!(form.status, 403, "{path}: {form:?}");
        reached += usize::from(form.status != 405 && script.status != 403);
    }
    assert!(reached > 0, "no route accepts a form");
    let other = get(&with_token(), "/dead", &[("cookie", &log_in(&console).await)]).await.csrf();
    assert_ne!(other, csrf, "another session has another token");
}

#[tokio::test]
async fn other_sites_can_neither_embed_nor_log_in() {
    let console = TestConsole::open(config("127.0.0.1:8090", false, false));
    let here = ("host", "127.0.0.1:8090");
    for (site, mode, dest, status) in [
        ("cross-site", "navigate", "document", 200),
        ("cross-site", "no-cors", "script", 403),
        ("same-site", "no-cors", "audio", 403),
        ("cross-site", "navigate", "iframe", 403),
        ("same-origin", "cors", "empty", 200),
    ] {
        let headers = [here, ("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
        assert_eq!(get(&console, "/dead", &headers).await.status, status, "{site} {mode} {dest}");
    }
    let page = console.get("/dead").await;
    assert!(page.status == 200 && !page.body.contains("/logout"), "there is no session to end: {page:?}");
    assert_eq!(console.get("/login").await.status, 303, "there is nothing to log in to");
    let console = with_token();
    let body = format!("token={TOKEN}");
    let answer = post(&console, "/login", &[("sec-fetch-site", "cross-site")], &body).await;
    assert!(answer.status == 403 && answer.headers.get("set-cookie").is_none());
    // A link on another site: the browser sends the cookie only when the page loads itself again.
    let linked = get(&console, "/login?next=/dead", &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!(linked.header("refresh"), "0;url=/login?next=%2Fdead");
    let own = get(&console, "/login?next=/dead", &[("sec-fetch-site", "same-origin")]).await;
    assert_eq!(own.header("refresh"), "", "once");
}

#[tokio::test]
async fn large_requests_cost_nothing_and_every_answer_has_the_headers() {
    let console = with_token();
    let cookie = log_in(&console).await;
    let long = "a".repeat(2 << 20);
    assert_eq!(post(&console, "/login", &[], &format!("token={}", &long[..20 << 10])).await.status, 413);
    let csrf = get(&console, "/dead", &[("cookie", &cookie)]).await.csrf();
    let body = format!("csrf={csrf}&x={long}");
    assert_eq!(post(&console, "/dead/actions/preview", &[("cookie", &cookie)], &body).await.status, 413);
    assert_eq!(post(&console, "/dead/actions/preview", &[], &body).await.status, 401, "it is not read");
    let many = "polyhook=1.2.3; ".repeat(1000);
    assert_eq!(get(&console, "/dead", &[("cookie", &many)]).await.status, 303);

    for (method, path) in [
        ("GET", "/dead"),
        ("GET", "/login"),
        ("GET", "/none"),
        ("POST", "/dead"),
        ("OPTIONS", "/dead"),
        ("GET", "/livez"),
    ] {
        let answer = console
            .send("192.0.2.1", request(&method.parse().unwrap(), path, &[("cookie", &cookie)], ""))
            .await;
        for (name, part) in [
            ("content-security-policy", "default-src 'none'"),
            ("content-security-policy", "frame-ancestors 'none'"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("permissions-policy", "microphone=()"),
            ("referrer-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
        ] {
            assert!(answer.header(name).contains(part), "{method} {path}: {name}");
        }
        assert!(answer.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
    }
    let head = request(&Method::HEAD, "/dead", &[("cookie", &cookie)], "");
    let head = console.send("192.0.2.1", head).await;
    assert_eq!((head.status, &*head.body), (200, ""));
}
