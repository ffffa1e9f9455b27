//! `polyhook dead list|show|replay|drop`: inspects jobs that failed permanently, and replays or deletes them.
//!
//! Dead letters are read one by one and printed, replayed or dropped as they arrive, so memory does not depend on their
//! number. A replay is a move that the queue confirms: if this process is killed, each message is still a dead letter or
//! already a job again.

mod args;
pub(super) mod output;
mod settle;

use jiff::Timestamp;

pub(super) use self::args::Command;
use self::{
    args::{DropArgs, ListArgs, ReplayArgs, Selection, ShowArgs},
    output::DeadLetterTable,
};
use super::{
    CliError, GlobalArgs, output as cli_output, prompt,
    queue_access::{require_queue_file, unavailable, wait_until_ready, with_queue},
};
use crate::{
    clock::Clock,
    config::Roles,
    queue::{
        DeadLetter, DeadLetterAction, DeadLetterDetails, DeadLetterSummary, DeadLetters, Queue, QueueBackend,
        QueueError,
    },
};

pub(super) async fn run(global: &GlobalArgs, command: Command) -> Result<(), CliError> {
    if let Command::Replay(ReplayArgs { selection }) | Command::Drop(DropArgs { selection, .. }) = &command {
        selection.require()?;
    }
    if let Command::Drop(DropArgs { selection, yes: false }) = &command
        && !selection.dry_run
    {
        prompt::require_terminal("drop dead letters permanently")?;
    }
    let config = global.load_for_command(Roles::NONE)?;
    if let Ok(QueueBackend::Sqlite(path)) = config.queue.backend() {
        require_queue_file(&path)?;
    }
    let now = Clock::System.now();
    with_queue(&config, Roles::NONE, Clock::System, async |queue, _| {
        let queue = &**queue;
        wait_until_ready(queue).await?;
        match &command {
            Command::List(args) => list(queue, args, now).await,
            Command::Show(args) => show(queue, args, now).await,
            Command::Replay(ReplayArgs { selection }) => {
                settle::run(queue, DeadLetterAction::Replay, selection, now, None).await
            }
            Command::Drop(DropArgs { selection, yes }) => {
                // The user has not agreed to drop what becomes a dead letter while the question is open.
                let died_until = (!yes && !selection.dry_run).then_some(now);
                if died_until.is_some() && !may_drop(queue, selection, now).await? {
                    return Ok(());
                }
                settle::run(queue, DeadLetterAction::Drop, selection, now, died_until).await
            }
        }
    })
    .await
}

async fn list(queue: &dyn Queue, args: &ListArgs, now: Timestamp) -> Result<(), CliError> {
    let mut table = DeadLetterTable::new(now);
    let filter = args.filter.to_filter();
    let mut found = 0_u64;
    let read = for_each(queue, |letter| {
        if !filter.matches(letter, now) {
            return;
        }
        found += 1;
        if args.json {
            cli_output::json(&DeadLetterSummary::new(letter));
        } else {
            table.row(letter);
        }
    });
    let read = read.await;
    table.flush();
    if !args.json && read.is_ok() {
        let next =
            if found > 0 { "; why: polyhook dead show ID; again: polyhook dead replay ID" } else { "" };
        cli_output::line(cli_output::dimmed(format!("{}{next}", output::count(found))));
    }
    read
}

async fn show(queue: &dyn Queue, args: &ShowArgs, now: Timestamp) -> Result<(), CliError> {
    let mut found = false;
    for_each(queue, |letter| {
        if letter.message.id != args.id {
            return;
        }
        found = true;
        if args.json {
            cli_output::json(&DeadLetterDetails::new(letter, args.body));
        } else {
            output::print_details(letter, args.body, now);
        }
    })
    .await?;
    if found { Ok(()) } else { Err(unknown_id(&args.id)) }
}

/// Counts the dead letters that would be dropped and asks for confirmation.
async fn may_drop(queue: &dyn Queue, selection: &Selection, now: Timestamp) -> Result<bool, CliError> {
    let is_selected = selection.test(now);
    let mut found = 0_u64;
    for_each(queue, |letter| found += u64::from(is_selected(letter))).await?;
    if found == 0 {
        // There is nothing to confirm. The drop itself reports that nothing was selected.
        return Ok(true);
    }
    let question = format!("Drop {} permanently? They cannot be replayed afterwards.", output::count(found));
    let confirmed = prompt::confirm(&question);
    if !confirmed {
        cli_output::line("nothing was dropped");
    }
    Ok(confirmed)
}

/// Calls `visit` for each dead letter.
async fn for_each(queue: &dyn Queue, mut visit: impl FnMut(&DeadLetter)) -> Result<(), CliError> {
    let mut letters = open(queue).await?;
    let read = loop {
        match letters.next().await {
            Ok(Some(letter)) => visit(&letter),
            Ok(None) => break Ok(()),
            Err(error) => break Err(queue_failed(&error)),
        }
    };
    letters.close().await;
    read
}

async fn open(queue: &dyn Queue) -> Result<Box<dyn DeadLetters + '_>, CliError> {
    queue.dead_letters().await.map_err(|error| queue_failed(&error))
}

fn queue_failed(error: &QueueError) -> CliError {
    unavailable(error)
}

fn unknown_id(id: &str) -> CliError {
    CliError::Failed(format!(
        "there is no dead letter {id}; list the existing ones with `polyhook dead list`"
    ))
}
