//! Who may see the console, over real connections: the address of a client, a file of tokens that changes, and the log.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};

use crate::support::process::{PolyhookCommand, eventually};

const TOKEN: &str = "hunter2-hunter2-hunter2";
const OTHER_TOKEN: &str = "hunter3-hunter3-hunter3";
const SETTINGS: &str = r#"
[console]
listen = "127.0.0.1:0"
token_file = "tokens"
trusted_proxies = ["127.0.0.9"]
user_header = "X-User"
"#;

/// Sends a request from an address of this machine, and returns status, head and body.
#[tokio::main(flavor = "current_thread")]
async fn send(
    from: &str,
    to: SocketAddr,
    request: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let answer = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let headers = headers.concat();
        let host = if headers.contains("host:") { "" } else { "host: 127.0.0.1\r\n" };
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\n{host}{headers}content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = timeout(Duration::from_secs(20), answer).await.expect("no answer");
    (answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap(), answer)
}

#[test]
fn a_real_client_is_known_by_its_address_and_its_token() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("polyhook.toml"), SETTINGS).unwrap();
    std::fs::write(folder.path().join("tokens"), TOKEN).unwrap();
    let arguments = ["console", "--config", "polyhook.toml"];
    let mut console = PolyhookCommand::new(folder.path(), arguments).must_not_print("hunter").start();
    let to = console.address("serving the console");
    let (proxy, person) = ("127.0.0.9", "127.0.0.1");
    let get = |from: &str, path: &str, headers: &[(&str, &str)]| {
        send(from, to, &format!("GET {path}"), headers, "")
    };

    let user = ("x-user", "ada@example.com");
    assert_eq!(get(proxy, "/conversations/CA1?text=private", &[user]).0, 404, "nothing is archived");
    for headers in [&[user][..], &[user, ("x-forwarded-for", proxy)]] {
        let (status, answer) = get(person, "/dead", headers);
        assert!(status == 403 && answer.contains("does not come from one"), "{answer}");
    }
    assert_eq!(get(proxy, "/dead", &[user, ("host", "evil.example")]).0, 403);
    assert_eq!(get(proxy, "/dead", &[user, ("x-long", &"a".repeat(20 << 10))]).0, 200);
    assert_eq!(get(proxy, "/dead", &[user, ("x-long", &"a".repeat(40 << 10))]).0, 431);

    assert_eq!(get(person, "/dead", &[]).0, 303);
    let (status, answer) = send(person, to, "POST /login", &[], &format!("token={TOKEN}"));
    assert_eq!(status, 303, "{answer}");
    let cookie = answer.split("polyhook=").nth(1).unwrap().split(';').next().unwrap();
    let cookie = ("cookie", &*format!("polyhook={cookie}"));
    assert_eq!(get(person, "/dead", &[cookie]).0, 200);
    std::fs::write(folder.path().join("tokens"), OTHER_TOKEN).unwrap();
    eventually("the session ends with its token", || get(person, "/dead", &[cookie]).0 == 303);

    let listen = format!("console.listen={to}");
    let beside = ["config", "check", "--role", "console", "--config", "polyhook.toml", "--set", &listen];
    let checked = PolyhookCommand::new(folder.path(), beside).run().expect_exit_code(0);
    assert!(checked.stderr.contains("the polyhook that runs here uses 127.0.0.1:"), "{}", checked.stderr);

    let line = |message: &str| {
        let lines = console.log();
        let found = lines.into_iter().find(|line| line["message"] == message);
        found.unwrap_or_else(|| panic!("{message} is not in the log"))
    };
    let opened = line("a person opened a conversation");
    for (name, value) in [
        ("viewer", "ada@example.com"),
        ("conversation", "CA1"),
        ("path", "/conversations/CA1"),
        ("target", "polyhook::console::access"),
        ("level", "INFO"),
    ] {
        assert_eq!(opened[name], value, "{opened}");
    }
    assert_eq!(line("a person logged in")["viewer"], "token-1");
    assert_eq!(line("refused the header of a proxy")["client"], person);
    assert!(!console.log().iter().any(|line| line.to_string().contains("private")), "a query is in the log");
    console.stop();
}
