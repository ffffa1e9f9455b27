//! The check that a process prints nothing private.

/// Panics if `text` holds one of `private`, a phone number, or the body of an event.
#[track_caller]
pub(super) fn assert_nothing_private(text: &str, private: &[String]) {
    let words = ["simulated-key", "whsec_", r#"\"data\":"#, r#""data":{"conversation_id""#];
    for secret in private.iter().map(String::as_str).chain(words) {
        assert!(!text.contains(secret), "a secret or a body was printed: {}", line_with(text, secret));
    }
    for (at, _) in text.match_indices('+') {
        let digits = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        assert!(digits < 7, "a phone number was printed: {}", line_with(&text[at..], ""));
    }
}

fn line_with(text: &str, part: &str) -> String {
    text.lines().find(|line| line.contains(part)).unwrap_or_default().to_owned()
}
