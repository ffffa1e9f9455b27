//! Reads small files that other people and programs write: secrets, keys, certificates, the configuration.
//!
//! * Bounded in size: a file that is too large is refused before it is read.
//! * Bounded in time: a thread reads the file, so a mount that hangs delays a start for [`READ_TIMEOUT`] and blocks no
//!   reload.
//! * Regular files only: opening a pipe waits for a writer, and a device may never end.
//! * Text is UTF-8. A byte order mark is removed, and CRLF and CR become LF.
//!
//! No error shows the content of a file.

use std::{
    fs::{File, FileType, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use zeroize::Zeroizing;

/// Maximum time of a read.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a file of secrets or keys.
const MAX_SECRETS_BYTES: u64 = 64 << 10;
/// Maximum size of a file of certificates or settings.
const MAX_SETTINGS_BYTES: u64 = 1 << 20;

/// The byte order mark of UTF-8, which some editors write.
const UTF8_MARK: &[u8] = "\u{feff}".as_bytes();

/// Time between two reads of a file that must agree.
const STABLE_INTERVAL: Duration = Duration::from_millis(50);
/// Reads of a changing file before it is reported as unstable.
const MAX_STABLE_READS: u32 = 20;
/// Reads of one file that may hang at the same time. Each occupies a thread.
const MAX_HANGING_READS: usize = 8;
/// Pause after the first read that hangs; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The text of a file, wiped from memory when it is dropped.
pub type Text = Zeroizing<String>;

/// Reads a text file of secrets or keys.
pub fn read_text(path: &Path) -> io::Result<Text> {
    let path = path.to_owned();
    within_timeout(move || read_secrets_now(&path))
}

/// Reads a text file of settings. It may also be a pipe, such as the shell's `<(…)`.
pub fn read_text_or_pipe(path: &Path) -> io::Result<Text> {
    let path = path.to_owned();
    within_timeout(move || {
        let kind = path.metadata()?.file_type();
        if !kind.is_file() && !is_pipe(kind) {
            return Err(wrong_kind(kind));
        }
        decode(&read_limited(File::open(&path)?, MAX_SETTINGS_BYTES)?)
    })
}

/// Reads a file of certificates, without a byte order mark.
pub fn read_bytes(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let path = path.to_owned();
    within_timeout(move || {
        let mut bytes = read_limited(open_regular(&path)?, MAX_SETTINGS_BYTES)?;
        if bytes.starts_with(UTF8_MARK) {
            bytes.drain(..UTF8_MARK.len());
        }
        Ok(bytes)
    })
}

/// Reads a file on the thread that calls it.
type ReadText = dyn Fn(&Path) -> io::Result<Text> + Send + Sync;

/// A file of secrets or keys that is read again and again while the process runs.
pub struct ReloadedFile {
    path: PathBuf,
    read: Arc<ReadText>,
    hanging: Mutex<HangingReads>,
}

/// The reads that have not ended within their time.
struct HangingReads {
    /// Each running read holds a clone.
    running: Arc<()>,
    pause: Duration,
    next_read: Instant,
}

impl std::fmt::Debug for ReloadedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ReloadedFile {
    /// Names a file without reading it.
    pub fn new(path: PathBuf) -> Self {
        Self::with_read(path, read_secrets_now)
    }

    fn with_read(path: PathBuf, read: impl Fn(&Path) -> io::Result<Text> + Send + Sync + 'static) -> Self {
        let hanging = HangingReads { running: Arc::new(()), pause: FIRST_PAUSE, next_read: Instant::now() };
        Self { path, read: Arc::new(read), hanging: Mutex::new(hanging) }
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads and parses the file, which another process may be writing at this moment: content that differs from
    /// `known` is returned only after two reads, 50 ms apart, agree.
    pub async fn read_stable<T: PartialEq>(
        &self,
        known: &T,
        parse: impl Fn(&str) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut before = self.read().await;
        if let Ok(text) = &before
            && let Ok(parsed) = parse(text)
            && parsed == *known
        {
            return Ok(parsed);
        }
        for _ in 0..MAX_STABLE_READS {
            tokio::time::sleep(STABLE_INTERVAL).await;
            let again = self.read().await;
            let stable = match (&before, &again) {
                (Ok(before), Ok(again)) => before == again,
                (Err(_), Err(_)) => true,
                _ => false,
            };
            if stable {
                return parse(&again?);
            }
            before = again;
        }
        Err(io::Error::other("the file keeps changing"))
    }

    /// Reads the file once, on a thread that is left behind if it hangs. While a read hangs, others are started at
    /// growing intervals, because the path may lead to another file in the meantime.
    async fn read(&self) -> io::Result<Text> {
        let Some(running) = self.next_read() else { return Err(not_answering()) };
        let (sender, receiver) = oneshot::channel();
        let (path, read) = (self.path.clone(), Arc::clone(&self.read));
        thread::Builder::new().name("read file".to_owned()).spawn(move || {
            let content = read(&path);
            drop(running);
            // The receiver is gone if the read took too long.
            let _ = sender.send(content);
        })?;
        let Ok(content) = tokio::time::timeout(READ_TIMEOUT, receiver).await else {
            self.pause();
            return Err(not_answering());
        };
        content.unwrap_or_else(|_| Err(io::Error::other("reading the file failed")))
    }

    /// Returns a mark for a new read, or `None` while others hang and it is too early for another one.
    fn next_read(&self) -> Option<Arc<()>> {
        let mut hanging = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
        let count = Arc::strong_count(&hanging.running) - 1;
        if count == 0 {
            hanging.pause = FIRST_PAUSE;
        } else if count >= MAX_HANGING_READS || Instant::now() < hanging.next_read {
            return None;
        }
        Some(Arc::clone(&hanging.running))
    }

    fn pause(&self) {
        let mut hanging = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
        hanging.next_read = Instant::now() + hanging.pause;
        hanging.pause *= 2;
    }
}

fn within_timeout<T: Send + 'static>(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().name("read file".to_owned()).spawn(move || {
        let _ = sender.send(read());
    })?;
    receiver.recv_timeout(READ_TIMEOUT).unwrap_or_else(|_| Err(not_answering()))
}

fn read_secrets_now(path: &Path) -> io::Result<Text> {
    decode(&read_limited(open_regular(path)?, MAX_SECRETS_BYTES)?)
}

/// Opens a file if it is a regular one. Opens nothing else, because that alone can have effects.
fn open_regular(path: &Path) -> io::Result<File> {
    let kind = path.metadata()?.file_type();
    if !kind.is_file() {
        return Err(wrong_kind(kind));
    }
    let mut options = OpenOptions::new();
    options.read(true);
    // A pipe that has replaced the file since then must not block the thread.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
    );
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(wrong_kind(kind)) }
}

/// Reads a file, unless it is larger than `max`. The file may grow while it is read.
fn read_limited(file: File, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let size = file.metadata()?.len();
    let mut bytes = Zeroizing::new(Vec::new());
    if size <= max {
        // One more than the size, so that the buffer does not grow and leave copies behind.
        bytes.reserve_exact(usize::try_from(size).unwrap_or_default() + 1);
        file.take(max + 1).read_to_end(&mut bytes)?;
    }
    if size.max(bytes.len() as u64) > max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {}, so it is another file", bytesize::ByteSize(max)),
        ));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> io::Result<Text> {
    let invalid = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidData, text));
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return invalid("it is UTF-16 text; save it as UTF-8");
    }
    if bytes.contains(&0) {
        return invalid("it contains NUL bytes; save it as UTF-8 text");
    }
    match str::from_utf8(bytes) {
        Ok(text) => Ok(with_line_feeds(text.strip_prefix('\u{feff}').unwrap_or(text))),
        Err(_) => invalid("it is not UTF-8 text; save it as UTF-8"),
    }
}

/// Replaces CRLF and CR by LF.
fn with_line_feeds(text: &str) -> Text {
    let mut lines = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(at) = rest.find('\r') {
        lines.push_str(&rest[..at]);
        lines.push('\n');
        rest = &rest[at + 1..];
        rest = rest.strip_prefix('\n').unwrap_or(rest);
    }
    lines.push_str(rest);
    lines
}

fn not_answering() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!(
            "it could not be read within {} s, because its disk or mount does not answer",
            READ_TIMEOUT.as_secs()
        ),
    )
}

fn wrong_kind(kind: FileType) -> io::Error {
    let name = match kind {
        kind if kind.is_dir() => "a folder",
        kind if is_pipe(kind) => "a pipe",
        _ => "a device or socket",
    };
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {name}, but it must be a regular file"))
}

#[cfg(unix)]
fn is_pipe(kind: FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&kind)
}

#[cfg(not(unix))]
fn is_pipe(_: FileType) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn make_pipe(path: &Path) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    }

    fn text_of(bytes: &[u8]) -> Result<String, String> {
        decode(bytes).map(|text| text.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn decodes_what_editors_of_all_systems_save() {
        assert_eq!(text_of("\u{feff}one\r\ntwo\rthree\n\r\n".as_bytes()).unwrap(), "one\ntwo\nthree\n\n");
        for utf16 in [&b"\xff\xfeo\0n\0e\0"[..], b"\xfe\xff\0o\0n\0e", b"\xff\xfe\0\0o\0\0\0"] {
            assert!(text_of(utf16).unwrap_err().contains("UTF-16"), "{utf16:?}");
        }
        assert!(text_of(b"o\0n\0e\0").unwrap_err().contains("NUL"));
        assert!(text_of(b"\xe9t\xe9").unwrap_err().contains("not UTF-8"));
    }

    #[test]
    fn refuses_what_is_not_a_small_regular_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| read_text(path).unwrap_err().to_string();
        assert!(error(folder.path()).contains("it is a folder"));
        assert!(error(Path::new("/dev/zero")).contains("device"));
        let pipe = folder.path().join("pipe");
        make_pipe(&pipe);
        assert!(error(&pipe).contains("it is a pipe"));
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(error(&socket).contains("socket"));
        let large = folder.path().join("large");
        File::create(&large).unwrap().set_len(1 << 40).unwrap();
        assert!(error(&large).contains("larger than 64.0 KiB"), "{}", error(&large));
        assert!(read_bytes(&large).unwrap_err().to_string().contains("larger than 1.0 MiB"));
        assert_eq!(read_text(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        // A file of the kernel, whose size is reported as 0.
        assert!(!read_text(Path::new("/proc/version")).unwrap().is_empty());
    }

    #[test]
    fn a_configuration_may_come_through_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        make_pipe(&pipe);
        let writer = {
            let pipe = pipe.clone();
            thread::spawn(move || std::fs::write(pipe, "a = 1\r\n").unwrap())
        };
        assert_eq!(*read_text_or_pipe(&pipe).unwrap(), "a = 1\n");
        writer.join().unwrap();
        assert!(
            read_text_or_pipe(folder.path()).is_err() && read_text_or_pipe(Path::new("/dev/zero")).is_err()
        );
    }

    #[tokio::test]
    async fn read_stable_ignores_a_half_written_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "half-of-the-").unwrap();
        let file = ReloadedFile::new(path.clone());
        let parse = |text: &str| Ok(text.to_owned());
        let write = async {
            tokio::time::sleep(STABLE_INTERVAL / 3).await;
            std::fs::write(&path, "half-of-the-secret").unwrap();
        };
        let known = "known".to_owned();
        let (read, ()) = tokio::join!(file.read_stable(&known, parse), write);
        assert_eq!(read.unwrap(), "half-of-the-secret");
        std::fs::remove_file(&path).unwrap();
        let error = file.read_stable(&known, parse).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// The paused clock advances only while every task waits, and a read on its thread does not count as one.
    #[tokio::test(start_paused = true)]
    async fn reads_that_hang_are_few_and_do_not_block_later_ones() {
        let (started, hangs) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(true)));
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Mutex::new(blocked);
        let read = {
            let (started, hangs) = (Arc::clone(&started), Arc::clone(&hangs));
            move |_: &Path| {
                started.fetch_add(1, Ordering::SeqCst);
                if *hangs.lock().unwrap() {
                    let _ = blocked.lock().unwrap().recv();
                }
                Ok(Zeroizing::new("text".to_owned()))
            }
        };
        let file = ReloadedFile::with_read("file".into(), read);
        for _ in 0..600 {
            assert_eq!(file.read().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        drop(release);
        while Arc::strong_count(&file.hanging.lock().unwrap().running) > 1 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(started.load(Ordering::SeqCst), MAX_HANGING_READS, "one thread for each hanging read");
        *hangs.lock().unwrap() = false;
        // A thread needs real time.
        tokio::time::resume();
        assert_eq!(*file.read().await.unwrap(), "text");
    }
}
