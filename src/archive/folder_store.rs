//! A folder as an object store: only regular files below the folder are objects.
//!
//! Another program may have put anything into the folder. A pipe or a device is not opened, because that may never end. A link is not
//! listed or followed into a folder, because one that leads to itself must not hide a whole day, and a file outside the folder is not
//! read through it.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, DirEntry, Metadata, ReadDir},
    io,
    os::unix::fs::MetadataExt,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    local::LocalFileSystem, path::Path,
};
use tokio::{runtime::Handle, task::spawn_blocking, time::timeout};

use super::{folder::if_exists, folder_file::open_below};

/// The time after which a disk counts as away. A network file system may never answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// The objects that are listed at once.
const LISTED_AT_ONCE: usize = 1024;

/// A folder as an object store.
#[derive(Debug)]
pub(super) struct FolderStore {
    files: LocalFileSystem,
    root: Arc<FilePath>,
}

impl FolderStore {
    /// Opens a folder. Its path has no links.
    pub(super) fn open(root: &FilePath) -> Result<Self> {
        Ok(Self { files: LocalFileSystem::new_with_prefix(root)?, root: root.into() })
    }

    fn path(&self, prefix: Option<&Path>) -> PathBuf {
        self.root.join(prefix.map_or("", AsRef::as_ref))
    }
}

impl fmt::Display for FolderStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for FolderStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.files.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.files.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let (root, path, key) = (Arc::clone(&self.root), self.files.path_to_filesystem(key)?, key.clone());
        let open = move || open_object(&root, path, key, options);
        if Handle::try_current().is_err() {
            return open(); // The caller's thread has no runtime, and may block.
        }
        timeout(OPEN_TIMEOUT, blocking(open)).await.unwrap_or_else(|_| {
            Err(failed(io::Error::new(io::ErrorKind::TimedOut, "the disk of the archive does not answer")))
        })
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let walk =
            Walk { root: Arc::clone(&self.root), unopened: Some(self.path(prefix)), opened: Vec::new() };
        let listed = stream::unfold(Some(walk), async |walk| {
            let mut walk = walk?;
            let read = move || {
                let found: Vec<_> = walk.by_ref().take(LISTED_AT_ONCE).collect();
                Ok((found, walk))
            };
            match blocking(read).await {
                Ok((found, _)) if found.is_empty() => None,
                Ok((found, walk)) => Some((found, Some(walk))),
                Err(error) => Some((vec![Err(error)], None)),
            }
        });
        listed.flat_map(stream::iter).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (root, folder) = (Arc::clone(&self.root), self.path(prefix));
        blocking(move || {
            let (mut folders, mut objects) = (BTreeSet::new(), Vec::new());
            for entry in read_folder(&folder)?.into_iter().flatten() {
                match entry.and_then(|entry| look_at(&root, &entry)) {
                    Ok(Entry::Folder(path)) => folders.extend(key_of(&root, &path)),
                    Ok(Entry::Object(object)) => objects.push(object),
                    Ok(Entry::Other) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            let common_prefixes = folders.into_iter().collect();
            Ok(ListResult { common_prefixes, objects, extensions: Extensions::default() })
        })
        .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }
}

/// Runs work that blocks: in a thread for it, or in this one if it has no runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if Handle::try_current().is_err() {
        return work();
    }
    spawn_blocking(work).await.unwrap_or_else(|source| Err(Error::JoinError { source }))
}

/// Opens an object. Manifests name etags, so they are computed as [`LocalFileSystem`] does, which earlier versions read with.
fn open_object(root: &FilePath, path: PathBuf, location: Path, options: GetOptions) -> Result<GetResult> {
    let (file, metadata) = open_below(root, &path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            Error::NotFound { path: path.display().to_string(), source: source.into() }
        }
        kind => failed(io::Error::new(kind, format!("cannot open {}: {source}", path.display()))),
    })?;
    let changed = metadata.modified().map_err(failed)?;
    let micros = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    let etag = format!("\"{:x}-{micros:x}-{:x}\"", metadata.ino(), metadata.len());
    let meta = ObjectMeta { e_tag: Some(etag), ..object_meta(location, &metadata).map_err(failed)? };
    options.check_preconditions(&meta)?;
    let whole = 0..meta.size;
    let range = options.range.map_or(Ok(whole), |range| range.as_range(meta.size));
    Ok(GetResult {
        range: range.map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?,
        payload: GetResultPayload::File(file, path),
        meta,
        attributes: Attributes::default(),
        extensions: Extensions::default(),
    })
}

fn object_meta(location: Path, metadata: &Metadata) -> io::Result<ObjectMeta> {
    let last_modified = metadata.modified()?.into();
    Ok(ObjectMeta { location, last_modified, size: metadata.len(), e_tag: None, version: None })
}

/// Returns the entries of a folder, or `None` if there is no such folder.
fn read_folder(folder: &FilePath) -> Result<Option<ReadDir>> {
    if_exists(fs::read_dir(folder)).map_err(|error| {
        failed(io::Error::new(error.kind(), format!("cannot list {}: {error}", folder.display())))
    })
}

/// An entry of a folder.
enum Entry {
    Folder(PathBuf),
    Object(ObjectMeta),
    /// A link, a pipe, an unfinished file, something without a valid key, or something that was removed since.
    Other,
}

fn look_at(root: &FilePath, entry: &DirEntry) -> io::Result<Entry> {
    Ok(if_exists(read_entry(root, entry))?.unwrap_or(Entry::Other))
}

fn read_entry(root: &FilePath, entry: &DirEntry) -> io::Result<Entry> {
    let (path, kind) = (entry.path(), entry.file_type()?);
    if kind.is_dir() {
        return Ok(Entry::Folder(path));
    }
    match key_of(root, &path).filter(|key| kind.is_file() && !is_unfinished(key)) {
        Some(location) => Ok(Entry::Object(object_meta(location, &entry.metadata()?)?)),
        None => Ok(Entry::Other),
    }
}

fn key_of(root: &FilePath, path: &FilePath) -> Option<Path> {
    let parts = path.strip_prefix(root).ok()?.components().map(|part| part.as_os_str().to_str());
    Path::parse(parts.collect::<Option<Vec<_>>>()?.join("/")).ok()
}

/// Returns true for a name that [`LocalFileSystem`] gives to unfinished files.
fn is_unfinished(key: &Path) -> bool {
    let number = key.filename().and_then(|name| name.split_once('#')).map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn failed(source: io::Error) -> Error {
    Error::Generic { store: "LocalFileSystem", source: source.into() }
}

/// Lists the objects below a folder, those of one folder one after the other.
struct Walk {
    root: Arc<FilePath>,
    /// The folder that is listed next.
    unopened: Option<PathBuf>,
    /// The folders that contain it, the innermost last.
    opened: Vec<ReadDir>,
}

impl Iterator for Walk {
    type Item = Result<ObjectMeta>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(folder) = self.unopened.take() {
                match read_folder(&folder) {
                    Ok(entries) => self.opened.extend(entries),
                    Err(error) => return Some(Err(error)),
                }
            }
            let Some(entry) = self.opened.last_mut()?.next() else {
                self.opened.pop();
                continue;
            };
            match entry.and_then(|entry| look_at(&self.root, &entry)) {
                Ok(Entry::Folder(path)) => self.unopened = Some(path),
                Ok(Entry::Object(object)) => return Some(Ok(object)),
                Ok(Entry::Other) => {}
                Err(error) => return Some(Err(failed(error))),
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use futures_util::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    fn names(objects: Vec<ObjectMeta>) -> BTreeSet<String> {
        objects.into_iter().map(|object| object.location.to_string()).collect()
    }

    #[tokio::test]
    async fn the_etag_of_a_file_is_that_of_its_write() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(&folder.path().canonicalize().unwrap()).unwrap();
        let key = Path::from("day/file");
        let written = store.put(&key, "text".into()).await.unwrap();
        let found = store.get_range(&key, 1..3).await.unwrap();
        assert_eq!((store.head(&key).await.unwrap().e_tag, &*found), (written.e_tag, &b"ex"[..]));
        assert!(store.get_range(&key, 4..5).await.is_err(), "behind its end");
        let changed = GetOptions { if_match: Some("other".to_owned()), ..GetOptions::default() };
        let error = store.get_opts(&key, changed).await.unwrap_err();
        assert!(matches!(error, Error::Precondition { .. }), "{error}");
    }

    #[tokio::test]
    async fn reads_and_lists_regular_files_of_the_folder_only() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path().canonicalize().unwrap();
        let day = root.join("day");
        for path in ["good%2F1", "good2/deep"] {
            fs::create_dir_all(day.join(path)).unwrap();
            fs::write(day.join(path).join("manifest.json"), "{}").unwrap();
        }
        fs::write(day.join("good2/manifest.json#1"), "unfinished").unwrap();
        let pipe = day.join("good2/pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(day.join("good2/socket")).unwrap();
        symlink("loop", day.join("loop")).unwrap();
        symlink("..", day.join("good2/up")).unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path().join("secret"), day.join("good2/secret")).unwrap();
        symlink(outside.path(), day.join("outside")).unwrap();

        let store = FolderStore::open(&root).unwrap();
        let day = Path::from("day");
        let listed = store.list(Some(&day)).try_collect().await.unwrap();
        let expected = ["day/good%2F1/manifest.json", "day/good2/deep/manifest.json"];
        assert_eq!(names(listed), BTreeSet::from(expected.map(str::to_owned)));
        let listed = store.list_with_delimiter(Some(&day)).await.unwrap();
        let expected = ["day/good%2F1", "day/good2"].map(|key| Path::parse(key).unwrap());
        assert_eq!((listed.common_prefixes, listed.objects.len()), (expected.to_vec(), 0));
        assert!(
            store.list_with_delimiter(Some(&Path::from("none"))).await.unwrap().common_prefixes.is_empty()
        );

        let read = async |key: &str| match store.get(&Path::parse(key).unwrap()).await {
            Ok(found) => String::from_utf8(found.bytes().await.unwrap().to_vec()).unwrap(),
            Err(Error::NotFound { .. }) => "missing".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(read("day/good%2F1/manifest.json").await, "{}");
        assert_eq!(read("day/good2/up/good%2F1/manifest.json").await, "{}");
        for key in ["day/good2/pipe", "day/good2/socket", "day/good2", "day/none"] {
            assert_eq!(read(key).await, "missing", "{key}");
        }
        for key in ["day/good2/secret", "day/outside/secret"] {
            let error = read(key).await;
            assert!(error.contains("leads out of the archive's folder"), "{key}: {error}");
        }
        assert!(read("day/loop/manifest.json").await.contains("symbolic links"));
    }
}
