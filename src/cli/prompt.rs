//! Questions to the user, asked on standard error and answered on standard input.

use std::io::{self, BufRead, IsTerminal, Write};

use super::CliError;
use crate::terminal;

/// Returns an error that names `--yes` unless a user can see a question and answer it.
pub(super) fn require_terminal(action: &str) -> Result<(), CliError> {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        return Ok(());
    }
    Err(CliError::Usage(format!("cannot ask for confirmation without a terminal; add --yes to {action}")))
}

/// Prints `question` and returns the answer without surrounding white space; empty at the end of the input.
pub(super) fn ask(question: &str) -> String {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{} ", terminal::escape_lines(question, false));
    let _ = stderr.flush();
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    answer.trim().to_owned()
}

/// Asks a question whose default answer is no.
pub(super) fn confirm(question: &str) -> bool {
    matches!(ask(&format!("{question} [y/N]")).to_ascii_lowercase().as_str(), "y" | "yes")
}
