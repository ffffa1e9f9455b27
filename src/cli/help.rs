//! The layout of the help texts: commands in groups, global options in a group of their own, at most 80 columns.

use std::fmt::Write;

use clap::{Command, CommandFactory, builder::StyledStr};

use super::Cli;

/// The commands of each group, in the order of `polyhook --help`.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Get started", &["demo", "config", "doctor", "endpoint"]),
    ("Services", &["run", "receive", "work", "reconcile", "console"]),
    ("See what happens", &["status", "tail", "list", "show"]),
    ("Conversations", &["fetch", "backfill", "audit", "index", "erase"]),
    ("Failed and waiting jobs", &["dead", "spool", "queue"]),
    ("Test", &["simulate", "send", "verify"]),
    ("Tools", &["healthcheck", "completions", "man", "help"]),
];

/// Returns the command line with the final layout of its help.
pub(super) fn command() -> Command {
    let mut command = Cli::command();
    // Adds the `help` subcommand, and the global options to every subcommand.
    command.build();
    let template = template(&command);
    command.help_template(template)
}

/// Returns the template of `polyhook --help`. clap cannot group subcommands.
fn template(command: &Command) -> StyledStr {
    let styles = command.get_styles();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let width = command.get_subcommands().map(|subcommand| subcommand.get_name().len()).max().unwrap_or(0);
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (heading, names) in GROUPS {
        let _ = write!(text, "\n{header}{heading}:{header:#}\n");
        for subcommand in names.iter().filter_map(|name| command.find_subcommand(name)) {
            let name = subcommand.get_name();
            let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
            let padding = width - name.len();
            let _ = writeln!(text, "  {literal}{name}{literal:#}{:padding$}  {about}", "");
        }
    }
    let _ = write!(text, "\n{header}Global options:{header:#}\n{{options}}{{after-help}}");
    text.into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::expect_file;

    use super::*;

    const WIDTH: usize = 80;

    /// Calls `check` with each command and its name, such as `polyhook dead list`.
    fn for_each_command(command: &Command, name: &str, check: &mut impl FnMut(&Command, &str)) {
        check(command, name);
        for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
            for_each_command(subcommand, &format!("{name} {}", subcommand.get_name()), check);
        }
    }

    /// Returns the output of `name --help`.
    fn help(name: &str) -> String {
        command()
            .term_width(WIDTH)
            .try_get_matches_from(name.split(' ').chain(["--help"]))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_command_tree_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_is_in_one_group() {
        let mut grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let command = command();
        let mut commands: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        grouped.sort_unstable();
        commands.sort_unstable();
        assert_eq!(grouped, commands);
    }

    #[test]
    fn help_fits_the_width_and_is_not_wrapped_twice() {
        for_each_command(&command(), "polyhook", &mut |command, name| {
            let help = help(name);
            let too_long = help.lines().find(|line| line.chars().count() > WIDTH);
            assert_eq!(too_long, None, "{name}");
            // clap wraps paragraphs. It must not wrap examples, tables or text with line ends of its own.
            for paragraph in
                command.get_after_help().map(ToString::to_string).iter().flat_map(|text| text.split("\n\n"))
            {
                let too_long = paragraph.lines().find(|line| line.chars().count() > WIDTH);
                assert!(too_long.is_none() || !paragraph.contains('\n'), "{name}: {too_long:?}");
            }
        });
    }

    #[test]
    fn the_reference_is_the_help_of_every_command() {
        let mut page = "# Command reference\n\n`polyhook help COMMAND` for every command. \
            `UPDATE_EXPECT=1 cargo test --lib cli::help` writes this page.\n"
            .to_owned();
        for_each_command(&command(), "polyhook", &mut |command, name| {
            let mut text = help(name);
            // The global options are the same everywhere.
            if let Some((before, after)) =
                text.split_once("\n\nGlobal options:").filter(|_| command.get_name() != "polyhook")
            {
                let after =
                    after.split("\n\n").skip_while(|text| text.starts_with(['\n', ' '])).collect::<Vec<_>>();
                text = [&[before], after.as_slice()].concat().join("\n\n");
            }
            let text = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
            let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", text.trim_end());
        });
        expect_file!["../../docs/commands.md"].assert_eq(&page);
    }

    #[test]
    fn each_command_has_an_example() {
        for_each_command(&command(), "polyhook", &mut |command, name| {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                command.has_subcommands()
                    || after.contains(&format!("\n  {name}"))
                    || after.contains(&format!("| {name}")),
                "{name}: {after}"
            );
        });
    }

    /// Returns the lines of the shell blocks in the documents, each with the name of its file.
    fn documented_commands() -> Vec<(String, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folders = [root.join("docs"), root.join("deploy/helm"), root.to_owned()];
        let files = folders
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|file| file.unwrap().path());
        let mut commands = Vec::new();
        for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
            let text = std::fs::read_to_string(&path).unwrap().replace("\\\n", " ");
            for block in text.split("\n```sh\n").skip(1) {
                let lines = block.lines().take_while(|line| !line.starts_with("```"));
                commands.extend(lines.map(|line| (path.display().to_string(), line.to_owned())));
            }
        }
        commands
    }

    #[test]
    fn the_commands_in_the_documents_exist() {
        let mut found = 0;
        for (path, line) in documented_commands() {
            let code = line.split(" #").next().unwrap_or_default();
            for call in code.split([';', '|']).flat_map(|call| call.split("&&")).map(str::trim) {
                let words = call
                    .split_whitespace()
                    .take_while(|word| !word.starts_with('>'))
                    .map(|word| word.trim_matches(['"', '\'']));
                if call.starts_with("polyhook ") {
                    found += 1;
                    let parsed = command().try_get_matches_from(words);
                    let is_valid = parsed.as_ref().err().is_none_or(|error| !error.use_stderr());
                    assert!(is_valid, "{path}: {call}: {}", parsed.unwrap_err());
                }
            }
        }
        assert!(found > 30, "found {found} commands; is the pattern still right?");
    }
}
