//! Requests that are not deliveries: other paths, other methods, and what an error reveals.

use std::collections::BTreeSet;

use super::{
    harness::{PATH, Server, server, signature},
    queues::{Behaviour, FakeQueue},
    wire::Request,
};

#[tokio::test]
async fn answers_404_to_other_paths() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    for path in [
        "/",
        "/polyai-event",
        "/polyai-events2",
        "/polyai-events/x",
        "/polyai-events//",
        "//polyai-events",
        "/Polyai-Events",
        "/polyai-events/../polyai-events",
        "/polyai%2devents",
        "/livez",
        "/readyz",
        "/metrics",
        "*",
    ] {
        for method in ["POST", "GET"] {
            let request = Request { method, path: path.to_owned(), ..Request::event("evt-1") };
            let answer = server.ask(&request).await;
            // The HTTP library answers 400 to an invalid path.
            assert!(
                answer.status == 404 || (path == "*" && answer.status == 400),
                "{method} {path}: {answer:?}"
            );
            if answer.status == 404 {
                assert_eq!(answer.body, "{\"error\":\"not found\"}\n");
            }
        }
    }
    assert_eq!(queue.entered(), 0);
}

#[tokio::test]
async fn accepts_a_trailing_slash_and_a_query() {
    let queue = FakeQueue::new(Behaviour::Store);
    let receiver = Server::start(&queue).await;
    for path in [PATH.to_owned(), format!("{PATH}/"), format!("{PATH}?from=polyai"), format!("{PATH}/?x")] {
        receiver.ask(&Request { path, ..Request::event("evt-1") }).await.assert_taken();
    }
    for configured in ["/", "/a/b/", "/a/b"] {
        let mut config = server();
        configured.clone_into(&mut config.path);
        let server = Server::with(&config, &signature(), &queue).await;
        server.ask(&Request { path: configured.to_owned(), ..Request::event("evt-1") }).await.assert_taken();
    }
}

#[tokio::test]
async fn answers_405_to_other_methods() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    for path in [PATH.to_owned(), format!("{PATH}/")] {
        for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            let request = Request { method, path: path.clone(), ..Request::event("evt-1") };
            let answer = server.ask(&request).await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method} {path}");
            assert_eq!(answer.body, "{\"error\":\"method not allowed\"}\n");
            assert_eq!(answer.headers.iter().filter(|(name, _)| name == "allow").count(), 1);
        }
    }
    assert_eq!(queue.entered(), 0);
}

/// An error is one line of JSON with only the necessary headers: no product, version, cause or request id.
#[tokio::test]
async fn error_answers_reveal_nothing() {
    let queue = FakeQueue::new(Behaviour::Fail(polyhook::queue::QueueError::Unavailable(
        "no space left on /var/lib/polyhook/queue.db".to_owned(),
    )));
    let server = Server::start(&queue).await;
    let unknown = Request { path: "/x".to_owned(), ..Request::event("evt-1") };
    let get = Request { method: "GET", ..Request::event("evt-1") };
    let needed = BTreeSet::from(["allow", "connection", "content-length", "content-type", "retry-after"]);
    for (request, status) in [
        (unknown, 404),
        (get, 405),
        (Request::unsigned("{}"), 401),
        (Request::signed(vec![b'x'; (1 << 20) + 1]), 413),
        (Request::event("evt-1"), 503),
    ] {
        let answer = server.ask(&request).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let names: BTreeSet<_> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.is_subset(&needed), "{names:?}");
        let line = answer.body.strip_suffix('\n').expect("a line");
        assert!(!line.contains('\n'));
        let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).expect("JSON");
        assert_eq!(json.keys().collect::<Vec<_>>(), ["error"]);
    }
    queue.behave(Behaviour::Store);
    let taken = server.ask(&Request::event("evt-1")).await;
    assert!(taken.headers.is_empty(), "{taken:?}");
}
