//! A flood of connections does not take descriptors, threads or memory from the rest of the process.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};

use crate::support::process::{Installation, Process, SimulatedPolyAi, deliver, eventually, get, metric};

/// Opens a connection, sends `bytes` and leaves it open.
fn open(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // A connection that was accepted may already be closed for a newer one.
    let _ = stream.write_all(bytes);
    stream
}

fn allow_many_open_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(10_000), most).unwrap();
}

fn threads(process: &Process) -> u64 {
    process.status_kib("Threads")
}

#[test]
fn idle_connections_leave_descriptors_to_everything_else() {
    allow_many_open_files();
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let mut run = site.polyhook(["run"]).open_files(200).start();
    let (admin, address) = (run.wait_until_ready(), run.receiver_address());
    let mut idle = Vec::new();
    for _ in 0..300 {
        let mut stream = open(address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let _ = stream.read(&mut [0; 512]);
        idle.push(stream);
    }
    assert_eq!(get(admin, "/livez").map(|(status, _)| status), Some(200));
    assert_eq!(get(admin, "/readyz").map(|(status, _)| status), Some(200));
    assert_eq!(metric(admin, "polyhook_connections{listener=\"public\"}"), 100, "half of the descriptors");
    // The whole way needs descriptors, too: secrets, queue, PolyAI and archive.
    let id = &polyai.ids()[0];
    assert_eq!(deliver(address, &site.secret, "evt-1", &polyai.event(id)), Some(204));
    eventually("archived", || site.manifests().len() == 1);
    let refused = run.stderr().iter().filter(|line| line.contains("cannot accept")).count();
    assert_eq!(refused, 0, "{:#?}", run.stderr().last());
    drop(idle);
    run.stop();
}

#[test]
fn scrapes_use_few_threads_and_connections() {
    allow_many_open_files();
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let mut receive = site.polyhook(["receive"]).start();
    let admin = receive.wait_until_ready();
    let before = threads(&receive);
    let scrapes: Vec<_> =
        (0..600).map(|_| open(admin, b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    let mut most = 0;
    eventually("a probe is answered", || {
        most = most.max(threads(&receive));
        get(admin, "/livez").is_some()
    });
    let most = most.max(threads(&receive));
    assert!(most <= before + 4, "{most} threads, {before} before");
    assert!(metric(admin, "polyhook_connections{listener=\"admin\"}") <= 64);
    drop(scrapes);
    receive.stop();
}

/// Opens a connection of HTTP/2 with `streams` requests whose bodies never come. Each has as many header fields of one
/// byte as possible. Waits until the server has read everything.
fn open_with_header_fields(to: SocketAddr, streams: u32) -> TcpStream {
    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0polyhook";
    const PING_ANSWER: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0polyhook";
    // An empty SETTINGS frame.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // POST, http, path, authority, a well-formed signature, and `age` from the static table.
    let mut block = b"\x83\x86\x04\x0e/polyai-events\x01\x01a\0\x12x-polyai-signature\x40".to_vec();
    block.extend([b'0'; 64]);
    block.extend([0x80 | 0x15; 880]);
    for number in 0..streams {
        let length = u32::try_from(block.len()).unwrap().to_be_bytes();
        bytes.extend(&length[1..]);
        // HEADERS with END_HEADERS, without END_STREAM.
        bytes.extend([1, 4]);
        bytes.extend((2 * number + 1).to_be_bytes());
        bytes.extend(&block);
    }
    bytes.extend(PING);
    let mut stream = open(to, &bytes);
    let mut received: Vec<u8> = Vec::new();
    while !received.windows(PING_ANSWER.len()).any(|part| part == PING_ANSWER) {
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(length @ 1..) => received.extend(&part[..length]),
            // The server has closed the connection, which is allowed.
            _ => break,
        }
    }
    stream
}

#[test]
fn header_fields_of_requests_without_a_body_take_little_memory() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let mut receive = site.polyhook(["receive"]).start();
    receive.wait_until_ready();
    let address = receive.receiver_address();
    let before = receive.status_kib("VmHWM");
    let floods: Vec<_> = (0..24).map(|_| open_with_header_fields(address, 100)).collect();
    let id = &polyai.ids()[0];
    assert_eq!(deliver(address, &site.secret, "evt-1", &polyai.event(id)), Some(204));
    let grown = receive.status_kib("VmHWM") - before;
    eprintln!("header fields: {grown} KiB more than {before} KiB");
    assert!(grown < 24 << 10, "{grown} KiB");
    drop(floods);
    receive.stop();
}

#[test]
fn sigterm_ends_the_process_although_clients_do_not_read() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "server.ack_budget = \"1s\"");
    let mut receive = site.polyhook(["receive"]).start();
    receive.wait_until_ready();
    let address = receive.receiver_address();
    let requests = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".repeat(1000);
    let mut pipelining = open(address, b"");
    pipelining.set_nonblocking(true).unwrap();
    while pipelining.write(&requests).is_ok() {}
    // SETTINGS with an initial window of 0, then a GET.
    let no_window = open(
        address,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x01\x01a",
    );
    let mut head = [0; 9];
    (&no_window).read_exact(&mut head).unwrap();
    receive.signal(Signal::SIGTERM);
    let status = receive.wait(Duration::from_secs(7));
    assert_eq!(status.code(), Some(0), "{:#?}", receive.stderr().last());
    drop((pipelining, no_window));
}
