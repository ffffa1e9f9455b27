//! `polyhook completions`: prints a completion script for a shell.

use clap_complete::Shell;

use super::{help, output};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook completions bash > /etc/bash_completion.d/polyhook
  polyhook completions zsh > \"${fpath[1]}/_polyhook\"
  polyhook completions fish > ~/.config/fish/completions/polyhook.fish")]
pub(super) struct Args {
    /// Shell to print completions for
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &Args) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut help::command(), "polyhook", &mut script);
    output::raw(&script);
}
