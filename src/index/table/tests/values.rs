use super::*;

/// Texts that have broken a reader or a terminal somewhere.
pub(super) const HOSTILE: [&str; 8] = [
    "",
    "nul \0 inside",
    "\u{202e}right to left",
    "😀 e\u{301}",
    "00000000-0000-4000-8000-000000000000",
    "0012",
    "NaN",
    "'; drop table calls --",
];

#[test]
fn hostile_texts_survive_a_file_and_an_update() {
    let turns = (1..).zip(HOSTILE).map(|(number, text)| TurnRow {
        user_input: Some(text.to_owned()),
        intents: vec![text.to_owned(), text.to_owned()],
        ..full_turn(text, number)
    });
    let file = file_of_turns(&turns.collect::<Vec<_>>());
    let updated = update_turns(Some(&file), &stamp(), &|_| false, &[full_turn("other", 1)]).unwrap().into();
    let counts = read_turns(&updated).unwrap().rows;
    for text in HOSTILE {
        assert_eq!(counts[text], 1, "{text:?}");
    }
    assert_eq!(rows(&updated)[..HOSTILE.len()], rows(&file));
}

#[test]
fn numbers_that_are_not_finite_are_null() {
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let call = CallRow { score: Some(number), audio_seconds: Some(number), ..bare_call("a") };
        assert_eq!(rows(&file_of_calls(&[call])), rows(&file_of_calls(&[bare_call("a")])));
    }
}

#[test]
fn times_outside_the_years_of_common_readers_are_null_or_clamped() {
    for (time, clamped) in
        [(Timestamp::MIN, "0001-01-01T00:00:00Z"), (Timestamp::MAX, "9999-12-30T00:00:00Z")]
    {
        let call = CallRow { started_at: time, ended_at: Some(time), ..bare_call("a") };
        let expected = CallRow { started_at: at(clamped), ..bare_call("a") };
        assert_eq!(rows(&file_of_calls(&[call])), rows(&file_of_calls(&[expected])));
    }
}

#[test]
fn long_texts_do_not_grow_the_footer_and_the_page_indexes() {
    let turn = |length| TurnRow {
        user_input: Some("long ".repeat(length)),
        entities: Some("[1]".repeat(length)),
        ..full_turn("a", 1)
    };
    let footer = |file: &Bytes| {
        let data: i64 = open(file)
            .metadata()
            .row_groups()
            .iter()
            .map(parquet::file::metadata::RowGroupMetaData::compressed_size)
            .sum();
        file.len() - usize::try_from(data).unwrap()
    };
    let (short, long) = (footer(&file_of_turns(&[turn(100)])), footer(&file_of_turns(&[turn(200_000)])));
    assert!(long < short + 1_000, "{long} bytes, and {short} with short texts");
}

#[test]
fn many_metrics_make_one_map() {
    let metrics: Vec<_> =
        (0..5_000).map(|at| (format!("metric {at}"), (at % 2 == 0).then(|| at.to_string()))).collect();
    let file = file_of_calls(&[CallRow { metrics, ..full_call("a") }]);
    let row =
        rows(&update_calls(Some(&file), &stamp(), &|_| false, &[full_call("b")]).unwrap().into()).remove(0);
    assert!(row.contains(r#""metric 4998" -> "4998", "metric 4999" -> null"#), "{}", &row[row.len() - 300..]);
}
