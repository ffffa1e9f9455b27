//! A folder as an object store, with exact permissions.
//!
//! [`LocalFileSystem`] creates files and folders with the permissions that the umask leaves. Here a file has those of
//! `archive.file_mode` before it gets its final name, and every new folder has the matching ones.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    local::LocalFileSystem, path::Path,
};

use super::config::FileMode;
use crate::private_file;

/// The name in errors.
const STORE: &str = "folder";

/// A folder in which every file and every new folder has exact permissions.
#[derive(Debug)]
pub(super) struct LocalStore {
    files: LocalFileSystem,
    mode: FileMode,
}

impl LocalStore {
    /// Opens an existing folder.
    pub(super) fn open(root: &std::path::Path, mode: FileMode) -> Result<Self> {
        // A job is acknowledged when it is archived, so the archive must survive a power cut.
        Ok(Self { files: LocalFileSystem::new_with_prefix(root)?.with_fsync(true), mode })
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (path, mode) = (self.files.path_to_filesystem(location)?, self.mode);
        blocking(move || match put(&path, &payload, &opts.mode, mode) {
            Ok(()) => Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::AlreadyExists { path: path.display().to_string(), source: error.into() })
            }
            Err(error) => Err(failed(error)),
        })
        .await
    }

    /// Writes an unfinished file with the permissions that the umask leaves, so it belongs into a private folder.
    /// [`ObjectStore::rename_opts`] corrects them.
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.files.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (old, new) = (self.files.path_to_filesystem(from)?, self.files.path_to_filesystem(to)?);
        let mode = self.mode;
        blocking(move || {
            private_file::set_mode(&old, mode.file_bits())
                .and_then(|()| create_parents(&new, mode))
                .map_err(failed)
        })
        .await?;
        self.files.rename_opts(from, to, options).await
    }
}

/// Writes a file under a temporary name, which [`LocalFileSystem`] does not list, and then gives it its name.
fn put(path: &std::path::Path, payload: &PutPayload, how: &PutMode, mode: FileMode) -> io::Result<()> {
    let (file, temporary) = create_temporary(path, mode)?;
    let written = private_file::set_mode(&temporary, mode.file_bits()).and_then(|()| write(file, payload));
    let put = written.and_then(|()| match how {
        // Unlike a rename, a hard link never replaces a file.
        PutMode::Create => fs::hard_link(&temporary, path).and_then(|()| fs::remove_file(&temporary)),
        PutMode::Overwrite | PutMode::Update(_) => fs::rename(&temporary, path),
    });
    if put.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    put?;
    path.parent().map_or(Ok(()), private_file::sync_folder)
}

fn create_temporary(path: &std::path::Path, mode: FileMode) -> io::Result<(File, std::path::PathBuf)> {
    for number in 1_u32.. {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!("#{number}"));
        let created = OpenOptions::create_new(&mut private_file::options(), true).open(&temporary);
        match created {
            Ok(file) => return Ok((file, temporary.into())),
            // Another writer, or a crash, has left it there.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_parents(path, mode)?,
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn write(mut file: File, payload: &PutPayload) -> io::Result<()> {
    for part in payload {
        file.write_all(part)?;
    }
    file.sync_all()
}

fn create_parents(path: &std::path::Path, mode: FileMode) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| private_file::create_folders(parent, mode.folder_bits()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|source| Error::JoinError { source })?
}

fn failed(error: io::Error) -> Error {
    Error::Generic { store: STORE, source: error.into() }
}
