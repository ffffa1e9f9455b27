//! Times, durations, sizes and numbers as every page shows them.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::Timestamp;
use maud::{Markup, html};

use crate::{shell, terminal};

/// Returns a time. The script of the console shows it in the viewer's zone, with UTC as its title.
pub(super) fn time(at: Timestamp) -> Markup {
    let text = at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    html! { time datetime=(at) title=(text) { (text) } }
}

/// Returns an age in its largest unit and the next one: `12 s`, `4 min`, `3 h 20 min`, `2 d 4 h`.
pub(super) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

/// Returns a size, such as `1.2 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Returns the length of a call: `4:05`, `1:00:09`.
pub(super) fn length(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

/// Shows text from outside, such as what a caller said. Its direction of writing does not change what stands around it.
pub(super) fn outside_text(text: &str) -> Markup {
    html! { bdi dir="auto" { (visible(text, false)) } }
}

/// Returns text from outside for a title or an attribute, which cannot be isolated.
pub(super) fn outside_name(text: &str) -> String {
    visible(text, true)
}

/// Replaces control characters and what forces a direction of writing. A `name` has no invisible characters at all.
fn visible(text: &str, is_name: bool) -> String {
    let is_hidden = |c: char| match c {
        '\n' | '\t' => is_name,
        '\u{202d}' | '\u{202e}' => true,
        c => c.is_control() || is_name && terminal::is_invisible(c),
    };
    text.chars().map(|c| if is_hidden(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Returns an id as the last argument of a command in [`own_text`]. The id cannot end the command.
pub(super) fn argument(id: &str) -> String {
    outside_name(&shell::last_argument(id)).replace('`', "\u{fffd}")
}

/// Shows a text of polyhook itself, in which backticks enclose commands and keys.
pub(super) fn own_text(text: &str) -> Markup {
    with_code(text, |code| html! { code { (code) } })
}

/// Shows a text of polyhook itself, with a button that copies each command.
pub(super) fn own_text_with_copy(text: &str) -> Markup {
    with_code(text, command)
}

fn with_code(text: &str, show: impl Fn(&str) -> Markup) -> Markup {
    let parts: Vec<_> = text.split('`').collect();
    html! {
        @for (number, part) in parts.iter().enumerate() {
            // A last backtick without a partner stays.
            @if number % 2 == 0 { (part) } @else if number + 1 < parts.len() { (show(part)) } @else { "`" (part) }
        }
    }
}

/// Returns a command line with a button that copies it.
pub(super) fn command(command: &str) -> Markup {
    html! {
        span class="command" {
            code { (terminal::escape(command)) }
            " "
            button type="button" class="copy" data-copy { "Copy" }
        }
    }
}

/// Returns the beginning of a text.
pub(super) fn beginning(text: &str, max_chars: usize) -> &str {
    text.char_indices().nth(max_chars).map_or(text, |(end, _)| &text[..end])
}

/// Returns a word that stands out, such as a state. `tone` is `good`, `bad`, `warn` or `quiet`.
pub(super) fn badge(tone: &str, text: &str) -> Markup {
    html! { span class={ "badge " (tone) } { (text) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_stays_in_its_place() {
        assert_eq!(
            outside_text("<b>\0\u{202e}x\ny").into_string(),
            "<bdi dir=\"auto\">&lt;b&gt;\u{fffd}\u{fffd}x\ny</bdi>"
        );
        assert_eq!(outside_name("a\u{200f}\nb"), "a\u{fffd}\u{fffd}b");
        assert_eq!((beginning("äöü", 2), beginning("äöü", 3)), ("äö", "äöü"));
        assert_eq!(
            (length(245.9), length(3609.0), length(-1.0)),
            ("4:05".into(), "1:00:09".into(), "0:00".into())
        );
    }

    #[test]
    fn commands_in_a_text_stand_out() {
        let text = "<b>run `polyhook doctor`</b> or `";
        assert_eq!(own_text(text).into_string(), "&lt;b&gt;run <code>polyhook doctor</code>&lt;/b&gt; or `");
        let text =
            own_text_with_copy(&format!("Use `polyhook show {}`.", argument("x` `rm -rf ~"))).into_string();
        assert!(text.contains("<code>polyhook show 'x\u{fffd} \u{fffd}rm -rf ~'</code> <button"), "{text}");
    }

    #[test]
    fn shows_ages_in_two_units() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (240, "4 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
