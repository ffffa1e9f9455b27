//! Replay and drop: a form asks for a preview, the preview asks for a confirmation, and the result has an address of its own,
//! so that loading it again repeats nothing.

mod pages;
mod run;

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::{IntoResponse, Redirect, Response},
};
use tokio::time::timeout;

use self::pages::ActionPage;
use super::{
    DeadPages, reader,
    scan::{SELECTION, scan},
    scope::{Scope, pairs},
    selection::{Remarks, SelectedLetters, Selection, State as SelectionState},
};
use crate::{
    console::{
        Console,
        access::Viewer,
        error::PageError,
        extract::Path,
        layout::{Page, Section},
    },
    queue::{DeadLetter, DeadLetterAction, DeadLetterFilter},
};

/// The time for which a confirmation waits, so that its result is usually there at once.
const RESULT_TIMEOUT: Duration = Duration::from_secs(3);
/// The seconds after which a page of an action that runs is loaded again.
const RELOAD_SECONDS: &str = "2";
/// The most ids that a form may name.
const MAX_IDS: usize = 1_000;

/// The fields of a form.
#[derive(Default)]
struct Form {
    action: Option<DeadLetterAction>,
    /// True if the letters are those of `scope`, and not those of `ids`.
    is_filter: bool,
    ids: BTreeSet<String>,
    scope: Scope,
    /// The selection to confirm.
    selection: String,
}

impl Form {
    /// Reads a form if the console may change anything.
    fn read(console: &Console, body: Result<Bytes, BytesRejection>) -> Result<Self, PageError> {
        if !console.config.allow_replay {
            return Err(PageError::forbidden(
                "This console is read-only: console.allow_replay is not set. `polyhook dead replay` and `polyhook dead drop` \
                 work on the command line.",
            ));
        }
        let body = body.map_err(|_| {
            PageError::bad_request("The form is incomplete or too long.", "Select fewer dead letters.")
        })?;
        let mut form = Self::default();
        for (name, value) in pairs(&body) {
            match &*name {
                "action" => form.action = action(&value),
                "scope" => form.is_filter = value == "filter",
                "id" => {
                    form.ids.insert(value.into_owned());
                }
                "selection" => form.selection = value.into_owned(),
                name => {
                    form.scope.take(name, &value);
                }
            }
        }
        Ok(form)
    }

    /// Returns the test for the selected letters. Something must be selected, so that a missing field does not select
    /// everything.
    fn target(self) -> Result<Target, PageError> {
        if self.is_filter && !self.scope.is_everything() {
            return Ok(Target::Filter(self.scope.filter()?));
        }
        if self.is_filter || self.ids.is_empty() {
            return Err(PageError::bad_request(
                "No dead letter is selected.",
                "Go back and check the boxes of the dead letters, or use the buttons of a reason.",
            ));
        }
        if self.ids.len() > MAX_IDS {
            return Err(PageError::bad_request(
                "Too many dead letters are selected.",
                "Use the buttons of a reason.",
            ));
        }
        Ok(Target::Ids(self.ids))
    }
}

fn action(word: &str) -> Option<DeadLetterAction> {
    match word {
        "replay" => Some(DeadLetterAction::Replay),
        "drop" => Some(DeadLetterAction::Drop),
        _ => None,
    }
}

enum Target {
    Ids(BTreeSet<String>),
    Filter(DeadLetterFilter),
}

/// `POST /dead/actions/preview`: counts what is selected and changes nothing.
pub(super) async fn preview(
    State(console): State<Arc<Console>>,
    Extension(pages): Extension<Arc<DeadPages>>,
    viewer: Viewer,
    body: Result<Bytes, BytesRejection>,
) -> Result<Redirect, PageError> {
    let form = Form::read(&console, body)?;
    let Some(action) = form.action else {
        return Err(PageError::bad_request(
            "The form names no action.",
            "Open the page again, and use its buttons.",
        ));
    };
    let target = form.target()?;
    let reading = select(Arc::clone(&console), Arc::clone(&pages), target);
    let (letters, remarks) = reader::finish(&console, reading).await?;
    if letters.count == 0 {
        return Err(PageError::not_found(
            "None of the selected dead letters is there any more.",
            "They were replayed or dropped, or another command reads them at the moment. List the dead letters again.",
        ));
    }
    let selection = Arc::new(Selection::new(&viewer.name, action, letters, remarks));
    let url = url(&selection);
    pages.selections.add(selection);
    Ok(Redirect::to(&url))
}

/// Reads the selected letters.
async fn select(
    console: Arc<Console>,
    pages: Arc<DeadPages>,
    target: Target,
) -> Result<(SelectedLetters, Remarks), PageError> {
    let _turn = pages.reader.turn().await?;
    let (now, mask) = (console.clock.now(), console.text_mask());
    let (mut letters, mut found) = (SelectedLetters::default(), BTreeSet::new());
    let mut visit = |letter: DeadLetter, _| {
        match &target {
            Target::Ids(ids) if ids.contains(&letter.message.id) => {
                letters.add(&letter, mask);
                found.insert(letter.message.id);
            }
            Target::Filter(filter) if filter.matches(&letter, now) => letters.add(&letter, mask),
            Target::Ids(_) | Target::Filter(_) => {}
        }
        ControlFlow::Continue(())
    };
    let extent = scan(&*console.queue, SELECTION, &mut visit).await?;
    let missing = match target {
        Target::Ids(ids) => ids.into_iter().filter(|id| !found.contains(id)).collect(),
        Target::Filter(_) => Vec::new(),
    };
    Ok((letters, Remarks { missing, cut_after: extent.is_cut.then_some(extent.read) }))
}

/// `POST /dead/actions/confirm`: starts the action of a preview, once.
pub(super) async fn confirm(
    State(console): State<Arc<Console>>,
    Extension(pages): Extension<Arc<DeadPages>>,
    viewer: Viewer,
    body: Result<Bytes, BytesRejection>,
) -> Result<Redirect, PageError> {
    let form = Form::read(&console, body)?;
    let selection = pages.selections.get(&form.selection).filter(|selection| selection.viewer == viewer.name);
    let selection = selection.ok_or_else(forgotten)?;
    let mut state = selection.state.subscribe();
    if selection.begin() {
        let run = run::run(Arc::clone(&console), Arc::clone(&pages), Arc::clone(&selection));
        console.lifecycle.spawn("console action", run);
    }
    // Whether it is over or not, its page says so.
    let is_over = |state: &SelectionState| matches!(state, SelectionState::Finished { .. });
    let _ = timeout(RESULT_TIMEOUT, state.wait_for(is_over)).await;
    Ok(Redirect::to(&url(&selection)))
}

/// `GET /dead/actions/{id}`: the preview, the progress or the result.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    Extension(pages): Extension<Arc<DeadPages>>,
    viewer: Viewer,
    Path(id): Path<String>,
) -> Result<Response, PageError> {
    let selection = pages.selections.get(&id).ok_or_else(forgotten)?;
    let state = selection.state.borrow().clone();
    let page = ActionPage { console: &console, viewer: &viewer, selection: &selection };
    let (title, body) = page.render(&state);
    let page = Page::new(Section::Dead, title, body).with_asset("dead.css");
    Ok(match state {
        SelectionState::Running(_) => ([("refresh", RELOAD_SECONDS)], page).into_response(),
        SelectionState::Previewed | SelectionState::Finished { .. } => page.into_response(),
    })
}

fn url(selection: &Selection) -> String {
    format!("/dead/actions/{}", selection.id)
}

fn forgotten() -> PageError {
    PageError::not_found(
        "There is no such preview: it is too old, of another person, or the process was restarted.",
        "Nothing was done by this request. List the dead letters, and make the preview again.",
    )
}
