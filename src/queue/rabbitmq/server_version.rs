//! The version of a broker, as the first frame of an AMQP connection states it (`connection.start`, AMQP 0-9-1, section 4.2.3).

use lapin::types::{AMQPValue, FieldTable, parsing::parse_field_table};

/// The bytes with which a client begins.
pub(super) const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// Type, channel and length of a frame.
pub(super) const FRAME_HEADER_BYTES: usize = 7;
/// Class, method, and the two bytes of the protocol's version.
const START_BYTES: usize = 6;
/// The class and the method of `connection.start`.
const START: [u8; 4] = [0, 10, 0, 10];
/// A longer first frame does not come from a broker.
const MAX_PAYLOAD_BYTES: usize = 64 << 10;
/// The longest version that is shown.
const MAX_VERSION_BYTES: usize = 40;

/// Returns the length of the payload of a method frame.
pub(super) fn payload_length(header: [u8; FRAME_HEADER_BYTES]) -> Option<usize> {
    let [1, _, _, length @ ..] = header else { return None };
    usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| *length <= MAX_PAYLOAD_BYTES)
}

/// Returns product and version of a broker from the payload of its first frame.
pub(super) fn parse(payload: &[u8]) -> Option<String> {
    let properties = payload.strip_prefix(&START)?.get(START_BYTES - START.len()..)?;
    let (_, properties) = parse_field_table(properties).ok()?;
    let (product, version) = (text(&properties, "product")?, text(&properties, "version")?);
    Some(format!("{product} {version}"))
}

fn text(properties: &FieldTable, name: &str) -> Option<String> {
    let Some(AMQPValue::LongString(text)) = properties.inner().get(name) else { return None };
    let text = String::from_utf8_lossy(text.as_bytes());
    Some(text[..text.floor_char_boundary(MAX_VERSION_BYTES)].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with one long string for each pair.
    fn start(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut table = Vec::new();
        for (name, value) in pairs {
            table.push(u8::try_from(name.len()).unwrap());
            table.extend(name.bytes());
            table.push(b'S');
            table.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            table.extend(value.bytes());
        }
        let length = u32::try_from(table.len()).unwrap().to_be_bytes();
        [&START[..], &[0, 9], &length, &table, b"\0\0\0\x05PLAIN\0\0\0\x05en_US"].concat()
    }

    #[test]
    fn reads_product_and_version_of_the_first_frame() {
        let payload = start(&[("version", "4.0.5"), ("product", "RabbitMQ"), ("platform", "Erlang/OTP 27")]);
        assert_eq!(parse(&payload).as_deref(), Some("RabbitMQ 4.0.5"));
        assert_eq!(parse(&start(&[("product", "RabbitMQ")])), None);
        for end in 0..payload.len() - 18 {
            assert_eq!(parse(&payload[..end]), None, "{end}");
        }
        assert_eq!(parse(b"HTTP/1.1 400 Bad Request"), None);
    }

    #[test]
    fn accepts_only_a_short_method_frame() {
        assert_eq!(payload_length([1, 0, 0, 0, 0, 1, 2]), Some(258));
        assert_eq!(payload_length([1, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(payload_length(*b"HTTP/1."), None);
    }
}
