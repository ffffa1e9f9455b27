//! One request: day after day, until the page is full or the time is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use jiff::civil::Date;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{
    CallFilter, FoundCall, IndexedDays, SearchEnd, SearchPage, SearchProject, TextHit, UnindexedDays,
    UnreadableDay,
    cursor::Cursor,
    files::{OpenFile, Part, ReadError, TableKind, list_parts, open_files, read_parts},
    rows::{NewestCalls, RowKey, RowPlace, SHOWN_COLUMNS, read_calls},
    scan::{Candidates, EdgeCalls, TURN_COLUMNS, match_calls, match_turns},
};
use crate::index::{Index, table::RowGroup};

/// The days that are opened ahead, after the first one.
const DAYS_AHEAD: usize = 4;
/// The number of times that a day is read again because its files were replaced.
const MAX_REPLACED: usize = 3;
/// The unreadable days that are reported.
const MAX_UNREADABLE: usize = 50;

type FoundRow = (RowKey, RowPlace, Option<TextHit>);

/// A request.
pub(super) struct Run<'a> {
    index: &'a Index,
    filter: Arc<CallFilter>,
    deadline: Instant,
    calls: Vec<FoundCall>,
    unreadable: BTreeMap<(std::cmp::Reverse<Date>, Arc<SearchProject>), String>,
    /// True after the first part: each request does at least one.
    has_progress: bool,
}

/// The opened files of a day, and the parts that are searched.
struct OpenDay {
    date: Date,
    calls: Vec<OpenFile>,
    errors: Vec<(Arc<SearchProject>, ReadError)>,
}

/// The files of a day whose row groups are searched, in their order.
struct DayParts {
    /// The calls with a match so far, for a search for a phrase.
    candidates: Option<Arc<Candidates>>,
    turns: Vec<OpenFile>,
    parts: Vec<Part>,
    version: String,
}

/// What was found in some parts of a day.
struct SearchedParts {
    found: Vec<FoundRow>,
    /// The end of the parts.
    end: usize,
    /// The calls at the ends of row groups.
    edges: BTreeSet<String>,
}

/// The state of a search, which moves to the thread that reads a row group.
struct PartState {
    newest: NewestCalls,
    edges: EdgeCalls,
}

/// The reason why a day is left.
enum DayEnd {
    /// It is done.
    Done,
    /// The page is full or the time is over.
    Stop(Cursor, SearchEnd),
    /// Its files were replaced.
    Replaced,
}

impl<'a> Run<'a> {
    pub(super) fn new(index: &'a Index, filter: Arc<CallFilter>, deadline: Instant) -> Self {
        Self { index, filter, deadline, calls: Vec::new(), unreadable: BTreeMap::new(), has_progress: false }
    }

    pub(super) async fn run(mut self, days: &IndexedDays, cursor: Option<Cursor>) -> SearchPage {
        let last = cursor.as_ref().map_or(Date::MAX, |cursor| cursor.date);
        let dates = days.dates.range(..=last).rev();
        let dates = dates.filter(|(date, projects)| self.filter.takes_date(**date) && !projects.is_empty());
        let dates: Vec<_> = dates.map(|(date, projects)| (*date, projects.clone())).collect();
        let index = self.index;
        let open = |(date, projects)| open_day(index, date, projects);
        let mut dates = dates.into_iter();
        // Most searches end in the first day.
        let first = stream::iter(dates.next()).then(open);
        let mut opened = pin!(first.chain(stream::iter(dates).map(open).buffered(DAYS_AHEAD)));
        let mut cursor = cursor;
        let (mut next, mut end) = (None, SearchEnd::Complete);
        while let Some(day) = opened.next().await {
            let position = cursor.take().filter(|cursor| cursor.date == day.date);
            let position = position.unwrap_or_else(|| Cursor::start(day.date));
            if self.is_over() {
                (next, end) = (Some(position), SearchEnd::OutOfTime { date: day.date, percent: 0 });
                break;
            }
            if let Some((place, reason)) = self.search_day(day, position).await {
                (next, end) = (Some(place), reason);
                break;
            }
        }
        let unreadable = self.unreadable.into_iter();
        SearchPage {
            calls: self.calls,
            next: next.map(|cursor| cursor.encode()),
            end,
            unreadable: unreadable
                .map(|((date, project), reason)| UnreadableDay { project, date: date.0, reason })
                .collect(),
            unindexed: UnindexedDays::default(),
            has_index: true,
            projects: Vec::new(),
        }
    }

    /// Returns true if the time is over and this request has done something.
    fn is_over(&self) -> bool {
        self.has_progress && Instant::now() >= self.deadline
    }

    fn note_unreadable(&mut self, project: &Arc<SearchProject>, date: Date, reason: String) {
        if self.unreadable.len() < MAX_UNREADABLE {
            self.unreadable.entry((std::cmp::Reverse(date), Arc::clone(project))).or_insert(reason);
        }
    }

    /// Searches a day. Returns `None` if it is done.
    async fn search_day(&mut self, day: OpenDay, position: Cursor) -> Option<(Cursor, SearchEnd)> {
        let (date, mut day) = (day.date, day);
        let projects: Vec<_> = day.projects();
        for attempt in 1.. {
            let is_last = attempt == MAX_REPLACED;
            match self.search_opened_day(&mut day, position.clone(), is_last).await {
                DayEnd::Done => {
                    self.has_progress = true;
                    break;
                }
                DayEnd::Stop(cursor, end) => return Some((cursor, end)),
                DayEnd::Replaced => {
                    day = open_day(self.index, date, projects.clone()).await;
                }
            }
        }
        None
    }

    async fn search_opened_day(&mut self, day: &mut OpenDay, position: Cursor, is_last: bool) -> DayEnd {
        for (project, error) in std::mem::take(&mut day.errors) {
            match error {
                ReadError::Replaced if !is_last => return DayEnd::Replaced,
                error => self.note_unreadable(&project, day.date, error.into_reason()),
            }
        }
        let mut position = position;
        let Some(parts) = self.list_day_parts(day, is_last).await else { return DayEnd::Replaced };
        if position.version != parts.version && position.first + position.end.unwrap_or(0) > 0 {
            // The parts have other numbers now. Some calls may be listed again.
            position = Cursor::start(day.date);
        }
        loop {
            let wanted = self.index.search.limits.calls - self.calls.len();
            // One more shows if there is another page.
            let newest = NewestCalls::new(wanted + 1, position.after.clone());
            let searched = self.search_parts(day, &parts, &position, newest, is_last).await;
            let Some(SearchedParts { mut found, end, edges }) = searched else { return DayEnd::Replaced };
            let is_full = found.len() > wanted;
            found.truncate(wanted);
            let last = found.last().map(|(key, ..)| key.clone());
            if !self.show(day, found, is_last).await {
                return DayEnd::Replaced;
            }
            let is_done = end >= parts.parts.len();
            if is_full {
                let end = (position.end.is_some() || !is_done).then_some(end);
                let after = last.or(position.after);
                let version = parts.version.clone();
                let cursor = Cursor { end, after, version, ..position };
                return DayEnd::Stop(cursor, SearchEnd::Full);
            }
            if is_done {
                return DayEnd::Done;
            }
            let mut seen = position.seen;
            seen.extend(edges);
            position = Cursor { first: end, seen, version: parts.version.clone(), ..Cursor::start(day.date) };
            if self.is_over() {
                let percent = u8::try_from(end * 100 / parts.parts.len()).unwrap_or(100);
                return DayEnd::Stop(position, SearchEnd::OutOfTime { date: day.date, percent });
            }
        }
    }

    /// Lists the row groups to search. For a phrase, reads the calls of the day first. Returns `None` if a file was replaced.
    async fn list_day_parts(&mut self, day: &OpenDay, is_last: bool) -> Option<DayParts> {
        let filter = Arc::clone(&self.filter);
        let parts = list_parts(&day.calls, &|footer, group| filter.may_match(footer, group));
        let mut hash = Sha256::new();
        let mut hash_files =
            |files: &[OpenFile]| files.iter().for_each(|file| hash.update(file.fingerprint()));
        hash_files(&day.calls);
        if self.filter.text.is_none() {
            let version = hex::encode(&hash.finalize()[..8]);
            return Some(DayParts { candidates: None, turns: Vec::new(), parts, version });
        }
        let candidates = self.find_candidates(day, parts, is_last).await?;
        let projects = day.calls.iter().map(|file| Arc::clone(&file.project)).collect();
        let projects = if candidates.is_empty() { Vec::new() } else { projects };
        let mut turns = Vec::new();
        for file in open_files(self.index, TableKind::Turns, day.date, projects).await {
            match file {
                Ok(file) => turns.push(file),
                Err((_, ReadError::Replaced)) if !is_last => return None,
                Err((project, error)) => self.note_unreadable(&project, day.date, error.into_reason()),
            }
        }
        hash_files(&turns);
        let mut parts = list_parts(&turns, &|_, _| true);
        // Both are absent, or none.
        let (oldest, newest) = (candidates.oldest.unwrap_or_default(), candidates.newest.unwrap_or_default());
        parts.retain(|part| part.oldest <= newest && oldest <= part.newest);
        let version = hex::encode(&hash.finalize()[..8]);
        Some(DayParts { candidates: Some(Arc::new(candidates)), turns, parts, version })
    }

    /// Finds the calls that match without regard to the phrase.
    async fn find_candidates(
        &mut self,
        day: &OpenDay,
        parts: Vec<Part>,
        is_last: bool,
    ) -> Option<Candidates> {
        let (mut candidates, columns) = (Candidates::default(), self.filter.columns());
        let mut groups = pin!(read_parts(self.index, &day.calls, parts, &columns));
        while let Some((part, group)) = groups.next().await {
            let file = &day.calls[part.file];
            let (filter, project) = (Arc::clone(&self.filter), Arc::clone(&file.project));
            let matched = match group {
                Ok(group) => {
                    let work = move || {
                        let result = match_calls(&group, &filter, |row, started_at, id| {
                            let place = RowPlace { file: part.file, group: part.group, row };
                            candidates.add(&project, id, started_at, place);
                        });
                        (candidates, result)
                    };
                    let (found, result) = self.index.search.thread.run(work).await;
                    candidates = found;
                    result.map_err(ReadError::from)
                }
                Err(error) => Err(error),
            };
            match matched {
                Ok(()) => {}
                Err(ReadError::Replaced) if !is_last => return None,
                Err(error) => self.note_unreadable(&file.project, day.date, error.into_reason()),
            }
        }
        Some(candidates)
    }

    /// Searches row groups from `position`, until the time is over. Returns `None` if a file was replaced.
    async fn search_parts(
        &mut self,
        day: &OpenDay,
        parts: &DayParts,
        position: &Cursor,
        newest: NewestCalls,
        is_last: bool,
    ) -> Option<SearchedParts> {
        let total = parts.parts.len();
        let first = position.first.min(total);
        let end = position.end.unwrap_or(total).clamp(first, total);
        let (files, columns) = match &parts.candidates {
            None => (&day.calls, self.filter.columns()),
            Some(_) => (&parts.turns, TURN_COLUMNS.to_vec()),
        };
        let searched: Vec<_> = parts.parts[first..end].to_vec();
        let mut groups = pin!(read_parts(self.index, files, searched, &columns));
        let edges = EdgeCalls { seen: position.seen.clone(), ..EdgeCalls::default() };
        let (mut state, mut place) = (PartState { newest, edges }, first);
        while place < end {
            // What follows is older than what the page shows.
            if state.newest.are_newer_than(parts.parts[place].newest) {
                place = end;
                break;
            }
            // Parts whose calls were sorted together once stay together.
            if self.is_over() && place > first && position.end.is_none() {
                break;
            }
            let Some((part, group)) = groups.next().await else { break };
            place += 1;
            self.has_progress = true;
            let project = &files[part.file].project;
            let result = match group {
                Ok(group) => {
                    let (filter, project) = (Arc::clone(&self.filter), Arc::clone(project));
                    let candidates = parts.candidates.clone();
                    let search =
                        move || search_group(part, &group, &project, &filter, candidates.as_deref(), state);
                    let (searched, result) = self.index.search.thread.run(search).await;
                    state = searched;
                    result
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => {}
                Err(ReadError::Replaced) if !is_last => return None,
                Err(error) => self.note_unreadable(project, day.date, error.into_reason()),
            }
        }
        Some(SearchedParts { found: state.newest.into_sorted(), end: place, edges: state.edges.found })
    }

    /// Adds found calls to the page. Returns false if a file was replaced.
    async fn show(&mut self, day: &OpenDay, found: Vec<FoundRow>, is_last: bool) -> bool {
        let mut wanted: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (_, place, _) in &found {
            wanted.entry((place.file, place.group)).or_default().push(place.row);
        }
        let parts =
            wanted.keys().map(|(file, group)| Part { file: *file, group: *group, newest: 0, oldest: 0 });
        let parts: Vec<_> = parts.collect();
        let mut groups = pin!(read_parts(self.index, &day.calls, parts, SHOWN_COLUMNS));
        let mut read = BTreeMap::new();
        while let Some((part, group)) = groups.next().await {
            let file = &day.calls[part.file];
            let mut rows = wanted.remove(&(part.file, part.group)).unwrap_or_default();
            rows.sort_unstable();
            let (project, date) = (Arc::clone(&file.project), day.date);
            let calls = match group {
                Ok(group) => {
                    let work = move || {
                        let calls = read_calls(&group.with_rows(&rows), &project, date)?;
                        Ok((rows, calls))
                    };
                    self.index.search.thread.run(work).await
                }
                Err(error) => Err(error),
            };
            match calls {
                Ok((rows, calls)) => {
                    let place = |row| RowPlace { file: part.file, group: part.group, row };
                    read.extend(rows.into_iter().map(place).zip(calls));
                }
                Err(ReadError::Replaced) if !is_last => return false,
                Err(error) => self.note_unreadable(&file.project, date, error.into_reason()),
            }
        }
        for (key, place, hit) in found {
            // Without a row, its file was reported.
            if let Some(call) = read.remove(&place).filter(|call| call.conversation_id == key.id) {
                self.calls.push(FoundCall { hit, ..call });
            }
        }
        true
    }
}

impl OpenDay {
    fn projects(&self) -> Vec<Arc<SearchProject>> {
        let opened = self.calls.iter().map(|file| &file.project);
        let projects: BTreeSet<_> = opened.chain(self.errors.iter().map(|(project, _)| project)).collect();
        projects.into_iter().cloned().collect()
    }
}

impl ReadError {
    fn into_reason(self) -> String {
        match self {
            Self::Replaced => "its files are being replaced; search again in a moment".to_owned(),
            Self::Unreadable(reason) => reason,
        }
    }
}

/// Searches a row group of calls, or of turns if there are candidates.
fn search_group(
    part: Part,
    group: &RowGroup,
    project: &Arc<SearchProject>,
    filter: &CallFilter,
    candidates: Option<&Candidates>,
    mut state: PartState,
) -> (PartState, Result<(), ReadError>) {
    let PartState { newest, edges } = &mut state;
    let result = match (candidates, &filter.text) {
        (Some(candidates), Some(phrase)) => match_turns(group, project, phrase, candidates, newest, edges),
        _ => match_calls(group, filter, |row, started_at, id| {
            let place = RowPlace { file: part.file, group: part.group, row };
            newest.add(started_at, id, project, place, None);
        }),
    };
    (state, result.map_err(ReadError::from))
}

async fn open_day(index: &Index, date: Date, projects: Vec<Arc<SearchProject>>) -> OpenDay {
    let (mut calls, mut errors) = (Vec::new(), Vec::new());
    for file in open_files(index, TableKind::Calls, date, projects).await {
        match file {
            Ok(file) => calls.push(file),
            Err(error) => errors.push(error),
        }
    }
    OpenDay { date, calls, errors }
}
