//! The command line itself: help, usage errors, colors, closed pipes.

use std::process::{Command, Stdio};

use crate::support::process::{PolyhookCommand, interpreter};

const COMMANDS: &[&[&str]] = &[
    &[],
    &["demo"],
    &["run"],
    &["receive"],
    &["work"],
    &["reconcile"],
    &["simulate"],
    &["send"],
    &["verify"],
    &["tail"],
    &["list"],
    &["show"],
    &["fetch"],
    &["backfill"],
    &["audit"],
    &["endpoint"],
    &["endpoint", "create"],
    &["endpoint", "list"],
    &["endpoint", "show"],
    &["endpoint", "update"],
    &["endpoint", "delete"],
    &["endpoint", "rotate-secret"],
    &["endpoint", "test"],
    &["spool"],
    &["spool", "status"],
    &["spool", "verify"],
    &["spool", "drain"],
    &["queue"],
    &["queue", "move"],
    &["erase"],
    &["dead"],
    &["dead", "list"],
    &["dead", "show"],
    &["dead", "replay"],
    &["dead", "drop"],
    &["config"],
    &["config", "check"],
    &["config", "show"],
    &["config", "schema"],
    &["doctor"],
    &["healthcheck"],
    &["completions"],
    &["man"],
];

#[test]
fn every_command_has_help_within_the_terminal_width() {
    let folder = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        for help in ["--help", "-h"] {
            let said =
                PolyhookCommand::new(folder.path(), command.iter().chain([&help])).run().expect_exit_code(0);
            let usage = [&["Usage: polyhook"], *command].concat().join(" ");
            assert!(said.stdout.contains(&usage), "{command:?}: {}", said.stdout);
            assert!(said.stderr.is_empty() && !said.stdout.contains('\x1b'));
            // The help starts with the purpose of the command.
            assert!(!said.stdout.starts_with("Usage"), "{command:?}: {}", said.stdout);
            // A command group shows its examples in the help of its commands.
            let is_group = said.stdout.contains("\nCommands:");
            let examples = said.stdout.contains("\nExamples:\n  polyhook ");
            assert!(is_group || examples, "{command:?}: {}", said.stdout);
            let listed =
                PolyhookCommand::new(folder.path(), command.iter().chain([&help])).env("COLUMNS", "80");
            for (width, text) in [(100, said.stdout), (80, listed.run().expect_exit_code(0).stdout)] {
                let wide = text.lines().find(|line| line.chars().count() > width);
                assert_eq!(wide, None, "{command:?} is wider than {width} columns");
            }
        }
        if let [name, ..] = command {
            let all = PolyhookCommand::new(folder.path(), ["--help"]).run().stdout;
            assert!(all.contains(&format!("\n  {name} ")), "{name} is not listed");
        }
    }
    let listed = PolyhookCommand::new(folder.path(), ["--help"]).run().stdout;
    let commands = listed.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    for line in commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap();
        assert!(name == "help" || COMMANDS.contains(&&[name][..]), "{name} is missing in COMMANDS");
    }
    let version = PolyhookCommand::new(folder.path(), ["--version"]).run().expect_exit_code(0);
    assert_eq!(version.stdout, format!("polyhook {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn suggests_a_correction_for_a_typo() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, suggestion) in [
        (&["tial"][..], "'tail'"),
        (&["dead", "lsit"], "'list'"),
        (&["send", "--conversatoin", "CA1"], "'--conversation'"),
        (&["send", "--bad", "signatur"], "'signature'"),
        (&["completions", "bsh"], "'bash'"),
        (&["config", "show", "--set", "queue.prefx=a"], "prefix"),
    ] {
        let said = PolyhookCommand::new(folder.path(), arguments).run();
        let code = if arguments[0] == "config" { 78 } else { 2 };
        assert!(said.stderr.contains(suggestion), "{arguments:?}: {}", said.stderr);
        said.expect_exit_code(code);
    }
}

#[test]
fn completions_and_manual_cover_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = PolyhookCommand::new(folder.path(), ["completions", shell]).run().expect_exit_code(0);
        for word in ["rotate-secret", "completions", "concurrency", "tail"] {
            assert!(said.stdout.contains(word), "{shell} does not know {word}");
        }
        assert!(said.stderr.is_empty());
    }
    // The completion that bash offers.
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(polyhook dead re); COMP_CWORD=2; \
        _polyhook polyhook re dead; echo \"${COMPREPLY[*]}\"";
    let bash = Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_polyhook")]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout).trim(), "replay", "{bash:?}");

    let page = PolyhookCommand::new(folder.path(), ["man"]).run().expect_exit_code(0).stdout;
    assert!(page.contains(".TH polyhook 1") && page.contains("polyhook demo"), "{page}");
    let said = PolyhookCommand::new(folder.path(), ["man", "--dir", "some/where"]).run().expect_exit_code(0);
    assert!(said.stdout.is_empty() && said.stderr.is_empty());
    for command in COMMANDS {
        let name = [&["polyhook"], *command].concat().join("-");
        let page = std::fs::read_to_string(folder.path().join(format!("some/where/{name}.1"))).expect(&name);
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    std::fs::write(folder.path().join("file"), "").unwrap();
    PolyhookCommand::new(folder.path(), ["man", "--dir", "file"]).run().expect_exit_code(1);
}

#[test]
fn exits_with_2_on_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &[][..],
        &["bogus"],
        &["run", "--bogus"],
        &["fetch"],
        &["verify"],
        &["verify", "--signature", "00"],
        &["send", "--url", "http://127.0.0.1:9/"],
        &["send", "--url", "no url"],
        &["simulate", "--exit"],
        &["simulate", "--scenario", "not-there.toml"],
        &["demo", "--calls", "0"],
        &["run", "--set", "no-equals-sign"],
    ] {
        let said = PolyhookCommand::new(folder.path(), arguments).run().expect_exit_code(2);
        assert!(!said.stderr.is_empty() && said.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn uses_colors_only_on_terminals_without_no_color() {
    const IN_A_TERMINAL: &str = "import pty, sys; pty.spawn(sys.argv[1:])";
    let binary = env!("CARGO_BIN_EXE_polyhook");
    let run = |no_color: &str, arguments: &[&str]| {
        let output = interpreter("python3")
            .args(["-c", IN_A_TERMINAL, binary])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TERM", "xterm-256color")
            .envs((!no_color.is_empty()).then_some(("NO_COLOR", no_color)))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let check = ["config", "check", "--role", "receive", "--set", "signature.secrets=0123456789abcdef"];
    for (arguments, says) in
        [(&check[..], "is good"), (&["config", "check"][..], "error"), (&["bogus"], "error")]
    {
        let colored = run("", arguments);
        assert!(colored.contains(says) && colored.contains("\x1b["), "{colored:?}");
        let plain = run("1", arguments);
        assert!(plain.contains(says) && !plain.contains("\x1b["), "{plain:?}");
        // No colors without a terminal, unless they are forced.
        let folder = tempfile::tempdir().unwrap();
        let piped = PolyhookCommand::new(folder.path(), arguments).run();
        assert!(!(piped.stdout + &piped.stderr).contains('\x1b'));
        let forced = PolyhookCommand::new(folder.path(), arguments).env("CLICOLOR_FORCE", "1").run();
        assert!((forced.stdout + &forced.stderr).contains("\x1b["), "{arguments:?}");
    }
}

#[test]
fn exits_normally_when_the_output_is_closed() {
    let binary = env!("CARGO_BIN_EXE_polyhook");
    for arguments in [
        &["config", "schema"][..],
        &["config", "show"],
        &["--help"],
        &["completions", "zsh"],
        &["man"],
        &["demo", "--calls", "2", "--exit"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(binary)
            .args(arguments)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
}
