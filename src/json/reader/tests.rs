use std::io::BufReader;

use proptest::prelude::*;

use super::*;

/// Reads an object with the members `id` (a scalar), `list` (scalars) and `inner` (an object with an `id`), and
/// shows what it found.
fn members<R: BufRead>(reader: &mut JsonReader<R>, found: &mut Vec<String>) -> io::Result<()> {
    let name = |name: &str| ["id", "list", "inner"].into_iter().find(|known| *known == name);
    reader.object(name, |reader, key| match (key, reader.peek()?) {
        ("list", Some(b'[')) => reader.array(|reader| {
            found.push(format!("item {:?}", reader.scalar()?));
            Ok(())
        }),
        ("inner", Some(b'{')) => members(reader, found),
        _ => {
            found.push(format!("{key} {:?}", reader.scalar()?));
            Ok(())
        }
    })
}

fn read(input: impl BufRead) -> (Vec<String>, bool) {
    let mut reader = JsonReader::new(input);
    let mut found = Vec::new();
    if reader.peek().unwrap() == Some(b'{') {
        members(&mut reader, &mut found).unwrap();
    }
    let whole = reader.is_closed() && reader.is_well_formed();
    (found, whole)
}

fn id(json: impl AsRef<[u8]>) -> Option<String> {
    let mut reader = JsonReader::new(json.as_ref());
    let mut id = None;
    let name = |name: &str| (name == "id").then_some(());
    assert_eq!(reader.peek().unwrap(), Some(b'{'));
    reader
        .object(name, |reader, ()| {
            id = reader.scalar()?.any_text().or(id.take());
            Ok(())
        })
        .unwrap();
    id
}

#[test]
fn finds_a_name_in_what_is_nearly_json() {
    for json in [
        r#"{"id":"C1"}"#,
        r#"{"x":NaN,"y":[-Infinity,Infinity,nan],"id":"C1"}"#,
        r#"{"x":{"a":[NaN,],},"id":"C1",}"#,
        r#"{,,"x":[,1,,],,"id":"C1",,}"#,
        r#"{"x":,"id":"C1","y":}"#,
        r#"{"x":1 "id":"C1" "y":2}"#,
        r"{'x':None,'y':'it\'s','id':'C1'}",
        r#"{x:undefined,id:"C1"}"#,
        r#"{"x":"he said "no" twice","id":"C1","y":"5" of wood"}"#,
        r#"{"x":"\ud800 \udc00 \q \u12","id":"C1"}"#,
        r#"{"x":1e999,"y":123456789012345678901234567890123456789012345678901234567890,"z":0x1F,"id":"C1"}"#,
        r#"{"id":"wrong","id":"C1","id":null}"#,
        "{\"x\":\"a\nb\tc\0\",\0\"id\":\"C1\"}",
        "\u{feff}\u{feff} {\"id\":\"C1\"}\u{feff}",
        r#"{"id":"C1"}{"id":"C2"} and <html>"#,
        r#"{"id":"\u0043\u0031"}"#,
        r#"{"x":{"y":[{"z":1}},"id":"C1"}"#,
    ] {
        assert_eq!(id(json).as_deref(), Some("C1"), "{json}");
    }
    assert_eq!(id(b"{\"x\":\"\xff\xc3\",\"\xff\":1,\"id\":\"C1\"}").as_deref(), Some("C1"));
    let deep = format!("{{\"x\":{}{},\"id\":\"C1\"}}", "[{\"a\":".repeat(300_000), "}]".repeat(300_000));
    assert_eq!(id(deep).as_deref(), Some("C1"));
}

#[test]
fn notices_that_something_may_be_lost() {
    for (json, expected) in [
        (r#"{"id":1,"list":[1,NaN,],"x":"a" }"#, true),
        (r#"{"id":1,"list":[1,2"#, false),
        (r#"{"id":1"#, false),
        (r#"{"id":1,"x"}"#, false),
        (r#"{"list":[1}"#, false),
        (r#"{"list":[1]]}"#, false),
        (r#"{"id":1,{"x":2}}"#, false),
    ] {
        assert_eq!(read(json.as_bytes()).1, expected, "{json}");
    }
}

#[test]
fn a_wrong_bracket_does_not_hide_later_elements() {
    let items = |json: &str| read(json.as_bytes()).0;
    let all = ["item Number(\"1\")", "item Number(\"2\")", "id Number(\"3\")"];
    for json in [r#"{"list":[1,2],"id":3}"#, r#"{"list":[1},2],"id":3}"#, r#"{"list":[1,2}],"id":3}"#] {
        assert_eq!(items(json), all, "{json}");
    }
    // The objects in the list are elements, even if one of them is not closed.
    let mut ids = Vec::new();
    let mut reader = JsonReader::new(&br#"[{"id":1,"x":[},{"id":2,{"id":3,"x":{"y":[1}},{"id":4}]"#[..]);
    reader.array(|reader| members(reader, &mut ids)).unwrap();
    assert_eq!(ids.len(), 4, "{ids:?}");
    assert!(reader.is_closed() && !reader.is_well_formed());
}

#[test]
fn tells_empty_values_from_others() {
    for (json, has_content) in [
        ("null", false),
        ("\"\"", false),
        ("{ }", false),
        ("[\n]", false),
        ("", false),
        ("0", true),
        ("[null]", true),
        (r#"{"a":{}}"#, true),
        ("\"x\"", true),
    ] {
        assert_eq!(JsonReader::new(json.as_bytes()).has_content().unwrap(), has_content, "{json}");
    }
}

proptest! {
    #[test]
    fn the_size_of_reads_makes_no_difference(
        pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"", "'", "\\", "\\u", "d83d", "\\ude00", " ", "\n", "\u{feff}", "id",
                "\"id\":", "\"list\":[", "\"inner\":{", "NaN", "-1.5", "null", "x", "\u{fc}",
            ]),
            0..60,
        ),
        size in 1_usize..9,
    ) {
        let json = format!("{{{}", pieces.concat());
        let whole = read(json.as_bytes());
        prop_assert_eq!(&whole, &read(BufReader::with_capacity(size, json.as_bytes())), "{}", json);
    }

    #[test]
    fn reads_valid_json_as_serde_does(noise in ".{0,30}", id in ".{0,20}", number in any::<f64>()) {
        let json = serde_json::json!({
            "x": { noise.clone(): [noise, number, { "id": 1 }] },
            "id": id,
            "list": [number, null, true, noise],
        });
        for text in [json.to_string(), serde_json::to_string_pretty(&json).unwrap()] {
            let (found, whole) = read(text.as_bytes());
            prop_assert!(whole, "{}", text);
            prop_assert!(found.contains(&format!("id {:?}", Scalar::Text(id.clone()))), "{:?}", found);
            prop_assert!(found.contains(&format!("item {:?}", Scalar::Text(noise.clone()))), "{:?}", found);
            prop_assert_eq!(found.len(), 5);
        }
    }
}
