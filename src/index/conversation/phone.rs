//! Recognition of phone numbers.

use crate::{secret::trimmed, terminal};

/// URL schemes of which every address is a phone number.
const PHONE_SCHEMES: [&str; 5] = ["tel", "sip", "sips", "callto", "phone"];
/// The digits of a phone number, without an extension.
const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;
/// The maximum digits of an extension.
const MAX_EXTENSION_DIGITS: usize = 6;
/// A longer text is not an address.
pub(super) const MAX_ADDRESS_BYTES: usize = 320;

/// Returns a number in the form that is hashed: without a scheme, without the host and parameters of a SIP address, without
/// white space, dashes, dots and parentheses, and in lower case.
pub(super) fn normalize(number: &str) -> String {
    let mut number = in_brackets(trimmed(number));
    if let Some((_, rest)) = split_scheme(number).filter(|(scheme, _)| is_phone_scheme(scheme)) {
        number = rest.split(['@', ';', '?']).next().unwrap_or_default();
    }
    let is_noise = |c: char| {
        c.is_whitespace() || is_dash(c) || matches!(c, '.' | '(' | ')') || terminal::is_invisible(c)
    };
    number.chars().filter(|c| !is_noise(*c)).flat_map(char::to_lowercase).collect()
}

/// Returns true if a text as a whole is a phone number or the address of a phone. Dates and decimal numbers are not.
pub(super) fn is_phone(text: &str) -> bool {
    if text.len() > MAX_ADDRESS_BYTES {
        return false;
    }
    let text = in_brackets(trimmed(text));
    if let Some((scheme, rest)) = split_scheme(text) {
        let address = trimmed(rest);
        let user = address.split(['@', ';', '?']).next().unwrap_or_default();
        let is_address = !address.is_empty() && !address.contains(char::is_whitespace);
        return is_phone_scheme(scheme) && is_address || is_number(user);
    }
    is_number(text.split_once('@').map_or(text, |(user, _)| user))
}

/// Returns true if a text consists of the digits of a phone number and separators, and possibly a plus sign.
fn is_number(text: &str) -> bool {
    let text = without_extension(text);
    let mut digits = 0;
    for c in text.chars() {
        match c {
            _ if c.is_numeric() => digits += 1,
            '+' if digits == 0 => {}
            '.' | '(' | ')' | '/' | '*' | '#' => {}
            _ if is_dash(c) && !text.starts_with(c) => {}
            _ if c.is_whitespace() || terminal::is_invisible(c) => {}
            _ => return false,
        }
    }
    DIGITS.contains(&digits) && !is_date(text) && !is_decimal(text)
}

/// Removes an extension such as ` x12` or ` ext. 12`.
fn without_extension(text: &str) -> &str {
    let Some((number, extension)) = text.split_once(['x', 'X', 'e', 'E']) else { return text };
    let digits = extension.trim_start_matches(['x', 'X', 't', 'T', '.', ' ']);
    let is_extension = !number.contains('.') || number.starts_with('+');
    let is_extension = is_extension && (1..=MAX_EXTENSION_DIGITS).contains(&digits.len());
    if is_extension && digits.bytes().all(|c| c.is_ascii_digit()) { trimmed(number) } else { text }
}

/// Returns true if a text has the form of a date with four digits of the year at one end.
fn is_date(text: &str) -> bool {
    let Some(separator) = text.chars().find(|c| matches!(c, '-' | '.' | '/')) else { return false };
    let parts: Vec<&str> = text.split(separator).collect();
    let [first, middle, last] = parts[..] else { return false };
    let number = |part: &str, length: usize| part.parse::<u32>().ok().filter(|_| part.len() == length);
    let (year, other) = if first.len() == 4 { (first, last) } else { (last, first) };
    number(year, 4).is_some_and(|year| (1900..2200).contains(&year))
        && [middle, other].iter().all(|part| number(part, 2).is_some_and(|number| (1..=31).contains(&number)))
}

/// Returns true if a text is a decimal number, such as `3.882713`. A local number such as `555.0100` is not.
fn is_decimal(text: &str) -> bool {
    let Some((whole, fraction)) = text.split_once('.') else { return false };
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    let is_local_number = whole.len() == 3 && fraction.len() == 4;
    is_digits(whole) && is_digits(fraction) && (whole == "0" || !whole.starts_with('0')) && !is_local_number
}

/// Returns the address in `Name <address>`, or the whole text.
fn in_brackets(text: &str) -> &str {
    let inner = text.strip_suffix('>').and_then(|text| text.split_once('<'));
    inner.map_or(text, |(_, address)| trimmed(address))
}

fn split_scheme(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|c| c.is_ascii_alphabetic() || c == b'-')
    })
}

fn is_phone_scheme(scheme: &str) -> bool {
    PHONE_SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme))
}

fn is_dash(c: char) -> bool {
    matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_numbers_and_addresses_as_a_whole() {
        for text in [
            "+15550100123",
            "5550100",
            " +1 (555) 010-0123\n",
            "00 49 30/1234567",
            "+1.555.010.0123",
            "555.0100",
            "0664.1234567",
            "(+44) 7700 900123",
            "\u{202a}+44\u{a0}7700\u{2011}900123\u{202c}",
            "\u{665}\u{665}\u{665}\u{660}\u{661}\u{660}\u{660}",
            "+1 555 0100 x12",
            "+1 555 0100 ext. 12",
            "tel:+15550100",
            "TEL: 555-0100",
            "sip:caller@10.0.0.1:5060;transport=udp",
            "sips:5550100@example.com",
            "<sip:+15550100@example.com>",
            "\"A Caller\" <sip:+15550100@example.com>",
            "whatsapp:+15550100123",
            "15550100123@s.whatsapp.net",
            "20260603",
        ] {
            assert!(is_phone(text), "{text:?}");
        }
    }

    #[test]
    fn leaves_other_texts() {
        for text in [
            "",
            "+",
            "73",
            "555010",
            "1234567890123456",
            "2026-06-03",
            "03.06.2026",
            "2026-06-03T13:18:06.370000+00:00",
            "13:18:06",
            "Wed, 03 Jun 2026 13:18:09 GMT",
            "3.882713",
            "0.12345678",
            "-1234567",
            "1.234567e5",
            "call 5550100",
            "019e8d9e-8e30-7899-9e61-3d950c4101b2",
            "CA1234567890",
            "tel: see the website",
            "sip:",
            "caller@example.com",
            "https://example.com/5550100",
            "Billing team",
        ] {
            assert!(!is_phone(text), "{text:?}");
        }
    }

    #[test]
    fn forms_of_one_number_are_normalized_to_one() {
        for text in ["+15550100", "+1 555-01.00", "(+1)5550100", "tel:+1-555-0100;ext=7", "<sip:+15550100@h>"]
        {
            assert_eq!(normalize(text), "+15550100", "{text}");
        }
        assert_eq!(normalize(" Anonymous "), "anonymous");
    }
}
