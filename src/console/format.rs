//! Times, durations, sizes and numbers as every page shows them.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::Timestamp;
use maud::{Markup, html};

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

/// Returns a word that stands out, such as a state. `tone` is `good`, `bad`, `warn` or `quiet`.
pub(super) fn badge(tone: &str, text: &str) -> Markup {
    html! { span class={ "badge " (tone) } { (text) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_ages_in_two_units() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (240, "4 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
