//! `polyhook man`: prints or writes the manual pages.

use std::path::{Path, PathBuf};

use super::{CliError, help, output};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook man | man -l -
  polyhook man --dir /usr/local/share/man/man1     one page per command")]
pub(super) struct Args {
    /// Write one page per command into this folder instead of printing one page
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    if let Some(dir) = &args.dir {
        return write_pages(dir).map_err(|error| {
            CliError::Failed(format!(
                "cannot write manual pages to {}: {error}; give a folder that you may write to",
                dir.display()
            ))
        });
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(help::command())
        .render(&mut page)
        .map_err(|error| CliError::Failed(error.to_string()))?;
    output::raw(&page);
    Ok(())
}

fn write_pages(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(help::command(), dir)
}
