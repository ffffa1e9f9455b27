//! A proxy in front of an S3 server that fails chosen writes.

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
    plan: Arc<Mutex<Option<Plan>>>,
}

impl StoreProxy {
    /// Starts a proxy for the server on a loopback port.
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan: Arc<Mutex<Option<Plan>>> = Arc::default();
        let shared = Arc::clone(&plan);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let plan = Arc::clone(&shared);
                // A client that closes early ends its own connection only.
                std::thread::spawn(move || drop(answer(client.unwrap(), server, &plan)));
            }
        });
        Self { port, plan }
    }

    /// Returns `config` with this proxy as its server.
    pub(crate) fn config(&self, config: ArchiveConfig) -> ArchiveConfig {
        ArchiveConfig { endpoint: Some(format!("http://127.0.0.1:{}", self.port)), ..config }
    }

    /// Fails the next `times` writes of keys that end with `key_end`.
    pub(crate) fn fail_writes(&self, key_end: &str, fault: WriteFault, times: u32) {
        *self.plan.lock().unwrap() = Some(Plan { key_end: key_end.to_owned(), fault, left: times });
    }

    /// Returns how many of the planned faults have not happened.
    pub(crate) fn faults_left(&self) -> u32 {
        self.plan.lock().unwrap().as_ref().map_or(0, |plan| plan.left)
    }
}

/// Forwards one request, and closes the connection.
fn answer(mut client: TcpStream, server: u16, plan: &Mutex<Option<Plan>>) -> std::io::Result<()> {
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
    let fault = fault_of(&head, plan);
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
