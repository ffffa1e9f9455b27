//! A PolyAI whose answers a test decides, byte by byte.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use url::Url;

use super::process::SimulatorAccess;

/// A running server. It ends with the test process.
pub(crate) struct ScriptedApi {
    pub(crate) access: SimulatorAccess,
    requests: Arc<Mutex<Vec<ScriptedRequest>>>,
}

/// A GET request.
#[derive(Clone, Debug)]
pub(crate) struct ScriptedRequest {
    pub(crate) path: String,
    query: HashMap<String, String>,
}

/// Status and body.
pub(crate) type ScriptedAnswer = (u16, Vec<u8>);

impl ScriptedRequest {
    /// Returns a parameter, or an empty text.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// Returns the day of the v3 window that is asked for.
    pub(crate) fn day(&self) -> &str {
        self.parameter("start_time").split('T').next().unwrap()
    }

    /// Returns `offset`, or 0.
    pub(crate) fn offset(&self) -> usize {
        self.parameter("offset").parse().unwrap_or(0)
    }
}

impl ScriptedApi {
    /// Starts a server on a free port.
    pub(crate) fn start(answer: impl Fn(&ScriptedRequest) -> ScriptedAnswer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (Arc::new(answer), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream, &*answer, &seen));
            }
        });
        let access = SimulatorAccess {
            url,
            account_id: "acme".to_owned(),
            project_id: "desk".to_owned(),
            api_key: "scripted-api-key".to_owned(),
            secret: "scripted-secret-0123456789".to_owned(),
        };
        Self { access, requests }
    }

    /// Returns the requests so far.
    pub(crate) fn requests(&self) -> Vec<ScriptedRequest> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    answer: &dyn Fn(&ScriptedRequest) -> ScriptedAnswer,
    seen: &Mutex<Vec<ScriptedRequest>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or("/").to_owned();
    while reader.read_line(&mut line)? > 2 {}
    let url = Url::parse(&format!("http://localhost{target}")).map_err(io::Error::other)?;
    let request =
        ScriptedRequest { path: url.path().to_owned(), query: url.query_pairs().into_owned().collect() };
    seen.lock().unwrap().push(request.clone());
    let (status, body) = answer(&request);
    let mut stream = stream;
    let head = format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}
