//! Finds what would keep the services from starting on this machine: ports in use, and files and folders that cannot be
//! written.
//!
//! Nothing changes: sockets get an address, but never listen, and no file gets a name. A polyhook that runs here is asked for
//! its metrics.

use std::{
    fs::OpenOptions,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{net::TcpSocket, time::timeout};

use crate::{
    config::{Config, Roles},
    disk,
    polyai::http,
    problem::Problem,
    queue::QueueBackend,
    web::AdminConfig,
};

/// Time for a polyhook that runs here to answer, and for a disk.
const TIMEOUT: Duration = Duration::from_secs(4);
/// The part of an answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The obstacles to starting services on this machine.
#[derive(Debug, Default)]
pub struct MachineReport {
    /// A person must change something.
    pub problems: Vec<Problem>,
    /// A polyhook that runs here uses these ports. That is a problem only for a second one.
    pub used_by_polyhook: Vec<Problem>,
}

/// Checks the ports, files and folders that services of `roles` need.
pub async fn check_machine(config: &Config, roles: Roles) -> MachineReport {
    let mut report = check_ports(config, roles).await;
    for (key, place) in places(config, roles) {
        let shown = place.path().display().to_string();
        let checked = timeout(TIMEOUT, tokio::task::spawn_blocking(move || place.check())).await;
        let (error, fix) = match checked {
            Ok(Ok(Ok(()))) => continue,
            Ok(Ok(Err(error))) => (error.to_string(), Place::fix(&error)),
            Ok(Err(_)) | Err(_) => ("its disk does not answer".to_owned(), "check the disk"),
        };
        let problem = Problem::new(key, format!("cannot write {shown}: {error}"));
        report.problems.push(problem.fix(format!("{fix}, or set another path")));
    }
    report
}

async fn check_ports(config: &Config, roles: Roles) -> MachineReport {
    let mut report = MachineReport::default();
    let mut in_use = Vec::new();
    let listeners = [
        ("server.listen", config.server.listen, roles.receive),
        ("admin.listen", config.admin.listen, roles != Roles::CONSOLE),
        ("console.listen", config.console.listen, config.serves_console(roles)),
    ];
    for (key, address, is_opened) in listeners {
        if address.port() == 0 || !is_opened {
            continue;
        }
        match bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => in_use.push((key, address, error)),
            Err(error) => report.problems.push(listen_problem(key, address, &error)),
            Ok(()) => {}
        }
    }
    let running = if in_use.iter().any(|(key, ..)| *key == "admin.listen") {
        running_polyhook(config.admin.local_address()).await
    } else {
        None
    };
    for (key, address, error) in in_use {
        let is_ours = match key {
            "console.listen" => is_console(AdminConfig { listen: address }.local_address()).await,
            "admin.listen" => running.is_some(),
            _ => running.as_ref().is_some_and(|running| running.receives),
        };
        if is_ours {
            let problem = Problem::new(key, format!("the polyhook that runs here uses {address}"));
            report.used_by_polyhook.push(problem.fix("stop it before you start another one"));
        } else {
            report.problems.push(listen_problem(key, address, &error));
        }
    }
    report
}

/// Gives the address to a socket that never listens, so that no client and no other program notices.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As for a listener: connections of a process that has ended do not block the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

/// Describes why a listener cannot be opened, and what to do.
pub(super) fn listen_problem(key: &'static str, address: SocketAddr, error: &io::Error) -> Problem {
    let problem = Problem::new(key, format!("cannot listen on {address}: {error}"));
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            problem.fix("another program uses this port: stop it, or set another port")
        }
        io::ErrorKind::PermissionDenied => {
            problem.fix("this user may not open this port: set one above 1023")
        }
        io::ErrorKind::AddrNotAvailable => {
            problem.fix("this machine does not have this address: set 0.0.0.0 or one of its own")
        }
        _ => problem,
    }
}

/// A polyhook that answers on an admin port.
#[derive(Debug)]
struct RunningPolyhook {
    receives: bool,
}

async fn running_polyhook(admin: SocketAddr) -> Option<RunningPolyhook> {
    let client = http::local_client().ok()?;
    let metrics = async {
        let answer = client.get(format!("http://{admin}/metrics")).send().await.ok()?;
        Some(http::read_prefix(answer, MAX_ANSWER_BYTES).await)
    };
    let metrics = timeout(TIMEOUT, metrics).await.ok()??;
    let metrics = String::from_utf8_lossy(&metrics);
    let receives = metrics.contains("polyhook_connections{listener=\"public\"}");
    metrics.contains("polyhook_build_info").then_some(RunningPolyhook { receives })
}

/// Returns whether a console answers. It may run without an admin listener.
async fn is_console(address: SocketAddr) -> bool {
    let alive = async {
        let answer = http::local_client().ok()?.get(format!("http://{address}/livez")).send().await.ok()?;
        let is_page = answer.headers().contains_key("content-security-policy");
        Some(is_page && *http::read_prefix(answer, MAX_ANSWER_BYTES).await == *b"ok\n")
    };
    timeout(TIMEOUT, alive).await.ok().flatten() == Some(true)
}

/// A place on a local disk that services write to.
#[derive(Debug)]
pub enum Place {
    /// A file, which may not exist yet.
    File(PathBuf),
    /// A folder, which may not exist yet.
    Folder(PathBuf),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Folder(path) => path,
        }
    }

    /// Returns what to do about an error of [`Self::check`].
    pub fn fix(error: &io::Error) -> &'static str {
        match error.kind() {
            io::ErrorKind::NotADirectory => "move away the file that is where a folder must be",
            io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => "move away what is in its place",
            io::ErrorKind::ReadOnlyFilesystem => "mount its disk for writing",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on its disk",
            io::ErrorKind::Unsupported => "it must be on a local disk",
            _ => "make the user that runs polyhook its owner",
        }
    }

    /// Returns an error if it can neither be written nor created. Changes nothing. Blocks.
    pub fn check(&self) -> io::Result<()> {
        match self {
            Self::Folder(path) => disk::check_writable(path),
            Self::File(path) => {
                let path = std::path::absolute(path)?;
                disk::check_writable(path.parent().unwrap_or(&path))?;
                match path.metadata() {
                    Ok(metadata) if metadata.is_file() => {
                        OpenOptions::new().read(true).write(true).open(path).map(drop)
                    }
                    Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

fn places(config: &Config, roles: Roles) -> Vec<(&'static str, Place)> {
    let mut places = Vec::new();
    match config.queue.backend() {
        Ok(QueueBackend::Sqlite(path)) => places.push(("queue.url", Place::File(path))),
        Ok(QueueBackend::RabbitMq) if roles.receive && !config.spool.path.as_os_str().is_empty() => {
            places.push(("spool.path", Place::File(config.spool.path.clone())));
        }
        _ => {}
    }
    if roles.work || roles.reconcile {
        places.extend(config.archive.folder().map(|folder| ("archive.url", Place::Folder(folder))));
    }
    places
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn config(folder: &Path, server: SocketAddr, admin: SocketAddr) -> Config {
        let mut config = Config::default();
        (config.server.listen, config.admin.listen) = (server, admin);
        let url = format!("sqlite:{}", folder.join("data/queue.db").display());
        config.queue.url = crate::queue::QueueUrls::One(crate::secret::Secret::new(url));
        config.archive.url = format!("file:{}", folder.join("data/archive").display());
        config
    }

    fn keys(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(Problem::key).collect()
    }

    #[tokio::test]
    async fn reports_every_port_and_path_and_creates_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let good = check_machine(&config(folder.path(), free, free), Roles::ALL).await;
        assert!(good.problems.is_empty(), "{good:?}");

        let [server, admin] = [(); 2].map(|()| std::net::TcpListener::bind(free).unwrap());
        let addresses = (server.local_addr().unwrap(), admin.local_addr().unwrap());
        // Not polyhook: it closes every connection.
        drop(std::thread::spawn(move || admin.incoming().for_each(drop)));
        std::fs::write(folder.path().join("data"), "").unwrap();
        let taken = config(folder.path(), addresses.0, addresses.1);
        let bad = check_machine(&taken, Roles::ALL).await;
        assert_eq!(keys(&bad.problems), ["server.listen", "admin.listen", "queue.url", "archive.url"]);
        assert!(bad.problems[2].message().contains("is not a folder"), "{bad:?}");
        let work = check_machine(&taken, Roles::WORK).await;
        assert_eq!(keys(&work.problems), ["admin.listen", "queue.url", "archive.url"]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        Place::File("in-the-working-directory.db".into()).check().unwrap();
    }

    #[tokio::test]
    async fn ports_of_a_running_polyhook_are_not_errors() {
        let folder = tempfile::tempdir().unwrap();
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let [server, admin] =
            [TcpListener::bind(free).await.unwrap(), TcpListener::bind(free).await.unwrap()];
        let config = config(folder.path(), server.local_addr().unwrap(), admin.local_addr().unwrap());
        for (metrics, problems, notes) in [
            (
                "polyhook_build_info{version=\"1\"} 1\npolyhook_connections{listener=\"public\"} 0\n",
                &[][..],
                &["server.listen", "admin.listen"][..],
            ),
            // A worker does not hold the port of the receiver.
            ("polyhook_build_info{version=\"1\"} 1\n", &["server.listen"], &["admin.listen"]),
        ] {
            let (checked, ()) = tokio::join!(check_machine(&config, Roles::ALL), async {
                let (mut stream, _) = admin.accept().await.unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{metrics}");
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
            assert_eq!((&*keys(&checked.problems), &*keys(&checked.used_by_polyhook)), (problems, notes));
        }
    }
}
