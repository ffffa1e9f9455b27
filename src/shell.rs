//! Quotes texts from outside for the commands that polyhook prints, because people paste them into a shell.
//!
//! Ids come from everybody who can send to a queue, and paths may contain spaces.

use std::borrow::Cow;

/// Returns `text` as one word of a shell command. Usual ids, names and paths stay as they are.
pub fn quote(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

/// Returns `text` as the last argument of a command. After `--`, an id that begins with a hyphen is not an option.
pub fn last_argument(text: &str) -> Cow<'_, str> {
    if text.starts_with('-') { format!("-- {}", quote(text)).into() } else { quote(text) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn usual_ids_and_paths_stay_as_they_are() {
        for usual in ["evt_3f1c0a52", "CA0123456789abcdef", "/etc/polyhook/run.toml", "trigger:CA1", "a@b"] {
            assert_eq!((quote(usual), last_argument(usual)), (usual.into(), usual.into()));
        }
        assert_eq!(last_argument("-f"), "-- -f");
        assert_eq!(last_argument("-f;x"), "-- '-f;x'");
    }

    #[test]
    fn a_shell_reads_the_same_text() {
        for text in [
            "",
            "a b",
            "$(touch x)",
            "`id`",
            "it's",
            "a;b|c&d>e",
            "~root",
            "#x",
            "*",
            "a\nb",
            "'",
            r"\'",
            "é",
        ] {
            let command = format!("printf %s {}", quote(text));
            let printed = Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8(printed.stdout).unwrap(), text);
        }
    }
}
