//! The command line itself: help, usage errors, colors, closed pipes.

use std::process::{Command, Stdio};

use crate::support::process::{PolyhookCommand, interpreter};

/// Returns the commands of docs/commands.md, such as `dead list`. A unit test keeps that page equal to the help.
fn commands() -> Vec<&'static str> {
    include_str!("../../../docs/commands.md")
        .lines()
        .filter_map(|line| line.strip_prefix("## polyhook"))
        .map(str::trim)
        .collect()
}

#[test]
fn prints_help_and_version_without_colors() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["dead", "list", "-h"], &["help", "endpoint", "create"]] {
        let said = PolyhookCommand::new(folder.path(), arguments).run().expect_exit_code(0);
        assert!(said.stdout.contains("Usage: polyhook") && said.stderr.is_empty(), "{said:?}");
        assert!(!said.stdout.contains('\x1b'), "{said:?}");
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
    for command in commands() {
        let name = format!("polyhook {command}").trim_end().replace(' ', "-");
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
        // A malformed setting may be a secret.
        assert!(!said.stderr.contains("no-equals-sign"), "{}", said.stderr);
    }
}

#[test]
fn a_missing_argument_is_explained_with_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, advice) in [
        (&["backfill"][..], &["polyhook backfill --last 7d"][..]),
        (&["dead", "replay"], &["--reason", "--all", "polyhook dead list"]),
        (&["dead", "drop", "--yes"], &["--reason", "--all", "polyhook dead list"]),
        (&["show"], &["<ID>"]),
        (&["fetch"], &["<ID>"]),
        (&["send", "--url", "localhost:8080"], &["http://localhost:8080"]),
        (&["send", "--url", "no url"], &["http://"]),
    ] {
        let command = PolyhookCommand::new(folder.path(), arguments).env("POLYHOOK_CONFIG", "polyhook.toml");
        let said = command.run().expect_exit_code(2).stderr;
        for text in advice {
            assert!(said.contains(text), "{arguments:?}: {text} is missing in: {said}");
        }
        assert!(!said.contains("--config"), "{arguments:?}: {said}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn exits_with_1_when_the_output_is_lost() {
    for arguments in [&["--help"][..], &["config", "show"], &["config", "schema"], &["completions", "bash"]] {
        let folder = tempfile::tempdir().unwrap();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_polyhook"))
            .args(arguments)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(full)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("error: cannot write the output: No space left"), "{arguments:?}: {stderr}");
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
