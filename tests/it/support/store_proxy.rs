//! A proxy in front of an S3 server that fails chosen writes and keeps a list of all requests.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use polyhook::archive::ArchiveConfig;

/// The fate of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteFault {
    /// The server never gets it.
    Refused,
    /// The server does it, and the client gets an error.
    AnswerLost,
}

#[derive(Debug)]
struct Plan {
    key_end: String,
    fault: WriteFault,
    left: u32,
}

/// A running proxy. Its threads end with the test process.
#[derive(Debug)]
pub(crate) struct StoreProxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    plan: Mutex<Option<Plan>>,
    /// The number of writes that are still allowed; `None`: all.
    allowed_writes: Mutex<Option<u32>>,
    requests: Mutex<Vec<String>>,
}

impl StoreProxy {
    /// Starts a proxy for the server on a loopback port.
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared: Arc<Shared> = Arc::default();
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let shared = Arc::clone(&of_thread);
                // A client that closes early ends its own connection only.
                std::thread::spawn(move || drop(answer(client.unwrap(), server, &shared)));
            }
        });
        Self { port, shared }
    }

    /// Returns `config` with this proxy as its server.
    pub(crate) fn config(&self, config: ArchiveConfig) -> ArchiveConfig {
        ArchiveConfig { endpoint: Some(format!("http://127.0.0.1:{}", self.port)), ..config }
    }

    /// Fails the next `times` writes of keys that end with `key_end`.
    pub(crate) fn fail_writes(&self, key_end: &str, fault: WriteFault, times: u32) {
        *self.shared.plan.lock().unwrap() = Some(Plan { key_end: key_end.to_owned(), fault, left: times });
    }

    /// Forbids all writes and removals after the next `count` ones, as if the process ended there. `None` allows all.
    pub(crate) fn allow_writes(&self, count: Option<u32>) {
        *self.shared.allowed_writes.lock().unwrap() = count;
    }

    /// Returns the requests since the last call, each as `METHOD /bucket/key`.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }

    /// Returns how many of the planned faults have not happened.
    pub(crate) fn faults_left(&self) -> u32 {
        self.shared.plan.lock().unwrap().as_ref().map_or(0, |plan| plan.left)
    }
}

/// Forwards one request, and closes the connection.
fn answer(mut client: TcpStream, server: u16, shared: &Shared) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head_end = loop {
        if let Some(at) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        read_some(&mut client, &mut request)?;
    };
    let head = String::from_utf8_lossy(&request[..head_end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    while request.len() < head_end + length.unwrap_or(0) {
        read_some(&mut client, &mut request)?;
    }
    let line = head.split(['?', '\r']).next().unwrap_or_default();
    shared.requests.lock().unwrap().push(line.trim_end_matches(" HTTP/1.1").to_owned());
    if !is_allowed(&head, &shared.allowed_writes) {
        let refusal = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        return client.write_all(refusal.as_bytes());
    }
    let fault = fault_of(&head, &shared.plan);
    let mut response = Vec::new();
    if fault != Some(WriteFault::Refused) {
        let line_end = head.find("\r\n").unwrap() + 2;
        let mut upstream = TcpStream::connect(("127.0.0.1", server))?;
        upstream.write_all(&request[..line_end])?;
        upstream.write_all(b"connection: close\r\n")?;
        upstream.write_all(&request[line_end..])?;
        upstream.read_to_end(&mut response)?;
    }
    if fault.is_some() {
        response =
            b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec();
    }
    client.write_all(&response)
}

fn read_some(client: &mut TcpStream, request: &mut Vec<u8>) -> std::io::Result<()> {
    let mut bytes = [0; 16 << 10];
    match client.read(&mut bytes)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        count => {
            request.extend_from_slice(&bytes[..count]);
            Ok(())
        }
    }
}

fn fault_of(head: &str, plan: &Mutex<Option<Plan>>) -> Option<WriteFault> {
    let mut plan = plan.lock().unwrap();
    let plan = plan.as_mut()?;
    let mut words = head.split(' ');
    let is_put = words.next() == Some("PUT");
    let key = words.next()?.split('?').next()?;
    if !is_put || !key.ends_with(&plan.key_end) || plan.left == 0 {
        return None;
    }
    plan.left -= 1;
    Some(plan.fault)
}

fn is_allowed(head: &str, allowed_writes: &Mutex<Option<u32>>) -> bool {
    let is_write = !head.starts_with("GET ") && !head.starts_with("HEAD ");
    match &mut *allowed_writes.lock().unwrap() {
        Some(left) if is_write => {
            let is_allowed = *left > 0;
            *left = left.saturating_sub(1);
            is_allowed
        }
        _ => true,
    }
}
