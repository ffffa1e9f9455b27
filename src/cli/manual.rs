//! `polyhook completions` and `polyhook man`: what a shell and a manual need to know of the command line.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CliError, output};

/// Print the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook completions bash > /etc/bash_completion.d/polyhook
  polyhook completions zsh > \"${fpath[1]}/_polyhook\"
  polyhook completions fish > ~/.config/fish/completions/polyhook.fish")]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or write those of all commands.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook man | man -l -
  polyhook man --dir /usr/local/share/man/man1     one page for each command")]
pub(super) struct ManArgs {
    /// Write one page for each command into this folder, and print none
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "polyhook", &mut script);
    output::raw(&script);
}

pub(super) fn man(args: &ManArgs) -> Result<(), CliError> {
    if let Some(dir) = &args.dir {
        return write_pages(dir)
            .map_err(|error| CliError::Failed(format!("{} cannot be written: {error}", dir.display())));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .map_err(|error| CliError::Failed(error.to_string()))?;
    output::raw(&page);
    Ok(())
}

fn write_pages(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)
}
