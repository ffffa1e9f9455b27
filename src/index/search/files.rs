//! The files of a day, read in parts.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use jiff::civil::Date;
use tokio::time::{Duration, timeout};

use super::rows::SearchProject;
use crate::{
    archive::{ArchiveError, DerivedVersion, ProjectDay},
    index::{
        Index,
        files::{calls_key, turns_key},
        table::{Footer, ParsedFooter, RowGroup, TableError},
    },
};

/// The end of a file that is read first. It contains most footers.
const FIRST_READ_BYTES: u64 = 128 << 10;
/// The files of a day that are opened at the same time.
const CONCURRENT_OPENS: usize = 8;
/// The row groups that are read ahead.
const READ_AHEAD: usize = 3;
/// The time after which the store counts as away.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableKind {
    Calls,
    Turns,
}

impl TableKind {
    /// Returns the column with the start of the call.
    fn time_column(self) -> &'static str {
        match self {
            Self::Calls => super::filter::STARTED_AT,
            Self::Turns => "call_started_at",
        }
    }
}

/// An opened file of a project's day.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) project: Arc<SearchProject>,
    kind: TableKind,
    key: String,
    version: DerivedVersion,
    pub(super) footer: Arc<Footer>,
}

/// A row group of one of some files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) file: usize,
    pub(super) group: usize,
    /// The start of the newest and of the oldest call in it, or limits of them.
    pub(super) newest: i64,
    pub(super) oldest: i64,
}

/// A file, or a part of it, cannot be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// Another process has replaced it. The new one can be read.
    Replaced,
    /// It is missing or damaged, or the store does not answer.
    Unreadable(String),
}

impl From<TableError> for ReadError {
    fn from(error: TableError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl From<ArchiveError> for ReadError {
    fn from(error: ArchiveError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl OpenFile {
    async fn open(
        index: &Index,
        kind: TableKind,
        project: &Arc<SearchProject>,
        date: Date,
    ) -> Result<Self, ReadError> {
        let archive = &index.archive;
        let day = ProjectDay::new(&project.account_id, &project.project_id, date);
        let key = match kind {
            TableKind::Calls => calls_key(&day),
            TableKind::Turns => turns_key(&day),
        };
        let missing = || ReadError::Unreadable(format!("{key} is missing; `polyhook index build` writes it"));
        let info = in_time(archive.derived_info(&key)).await?.ok_or_else(missing)?;
        let mut length = info.size.min(FIRST_READ_BYTES);
        loop {
            let end = read(index, &key, &info.version, info.size - length..info.size).await?;
            let size = info.size;
            match index.search.thread.run(move || Footer::parse(&end, size)).await? {
                ParsedFooter::Complete(footer) => {
                    let (project, version) = (Arc::clone(project), info.version);
                    return Ok(Self { project, kind, key, version, footer: Arc::new(footer) });
                }
                ParsedFooter::Needs(needed) if needed > length => length = needed.min(info.size),
                ParsedFooter::Needs(_) => {
                    return Err(TableError::Damaged("it has no footer".to_owned()).into());
                }
            }
        }
    }

    /// Reads some columns of a row group, still compressed.
    pub(super) async fn read_group(
        &self,
        index: &Index,
        group: usize,
        columns: &[&str],
    ) -> Result<RowGroup, ReadError> {
        let mut parts = Vec::new();
        for range in self.footer.ranges(group, columns)? {
            parts.push((range.start, read(index, &self.key, &self.version, range).await?));
        }
        Ok(RowGroup::new(Arc::clone(&self.footer), group, parts))
    }

    /// Returns the row groups for which `is_wanted` is true.
    fn parts(&self, file: usize, is_wanted: &dyn Fn(&Footer, usize) -> bool) -> Vec<Part> {
        let groups = (0..self.footer.groups()).filter(|group| is_wanted(&self.footer, *group));
        let parts = groups.map(|group| {
            let range = self.footer.number_range(group, self.kind.time_column());
            let (oldest, newest) = range.unwrap_or((i64::MIN, i64::MAX));
            Part { file, group, newest, oldest }
        });
        parts.collect()
    }

    /// Returns a text that changes when the file is replaced.
    pub(super) fn fingerprint(&self) -> String {
        format!("{}\0{}\0", self.key, self.version.tag())
    }
}

async fn read(
    index: &Index,
    key: &str,
    version: &DerivedVersion,
    range: std::ops::Range<u64>,
) -> Result<Bytes, ReadError> {
    let length = range.end - range.start;
    if length == 0 {
        return Ok(Bytes::new());
    }
    let read = async {
        if !index.archive.is_folder() {
            return index.archive.read_derived_part(key, version, range).await;
        }
        // A file is read at once in a thread without a runtime. The thread that uses the bytes also allocates them: the allocator
        // keeps memory of a thread that another one has freed.
        let (archive, key, version) = (index.archive.clone(), key.to_owned(), version.clone());
        let read = move || archive.read_derived_part(&key, &version, range).now_or_never();
        index.search.thread.run(read).await.unwrap_or(Ok(None))
    };
    let bytes = in_time(read).await?.ok_or(ReadError::Replaced)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(ReadError::Replaced) }
}

/// Waits for the store, but not as long as its client would.
async fn in_time<T>(request: impl Future<Output = Result<T, ArchiveError>>) -> Result<T, ReadError> {
    if let Ok(result) = timeout(STORE_TIMEOUT, request).await {
        return Ok(result?);
    }
    let seconds = STORE_TIMEOUT.as_secs();
    Err(ReadError::Unreadable(format!(
        "the archive did not answer within {seconds} s; search again in a moment"
    )))
}

/// Opens the files of one table of a day. Returns an error for each that cannot be opened.
pub(super) async fn open_files(
    index: &Index,
    kind: TableKind,
    date: Date,
    projects: Vec<Arc<SearchProject>>,
) -> Vec<Result<OpenFile, (Arc<SearchProject>, ReadError)>> {
    let open = |project: Arc<SearchProject>| async move {
        let opened = OpenFile::open(index, kind, &project, date).await;
        opened.map_err(|error| (project, error))
    };
    stream::iter(projects).map(open).buffered(CONCURRENT_OPENS).collect().await
}

/// Returns the row groups of some files for which `is_wanted` is true: those with the newest calls first.
pub(super) fn list_parts(files: &[OpenFile], is_wanted: &dyn Fn(&Footer, usize) -> bool) -> Vec<Part> {
    let parts = files.iter().enumerate().flat_map(|(place, file)| file.parts(place, is_wanted));
    let mut parts: Vec<_> = parts.collect();
    parts.sort_by_key(|part| (std::cmp::Reverse(part.newest), part.file, part.group));
    parts
}

/// Reads some columns of row groups one after the other, a few ahead.
pub(super) fn read_parts<'a>(
    index: &'a Index,
    files: &'a [OpenFile],
    parts: Vec<Part>,
    columns: &'a [&'static str],
) -> impl Stream<Item = (Part, Result<RowGroup, ReadError>)> + 'a {
    let read = move |part: Part| async move {
        (part, files[part.file].read_group(index, part.group, columns).await)
    };
    stream::iter(parts).map(read).buffered(READ_AHEAD)
}
