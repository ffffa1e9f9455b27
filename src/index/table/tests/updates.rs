use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::*;

/// Returns the table of calls with small row groups.
fn small_groups(max_rows: usize) -> Table<CallRow> {
    Table { columns: CALLS.columns, schema: Arc::clone(&CALLS.schema), max_rows }
}

fn update_small(table: &Table<CallRow>, old: Option<&Bytes>, changed: &[&str], new: &[CallRow]) -> Bytes {
    update(table, old, &stamp(), &|id| changed.contains(&id), new, |row| &row.conversation_id).unwrap().into()
}

fn calls(ids: std::ops::Range<usize>) -> Vec<CallRow> {
    ids.map(|id| full_call(&id.to_string())).collect()
}

#[test]
fn an_update_adds_replaces_and_removes() {
    let first = file_of_calls(&[full_call("a"), bare_call("b"), full_call("c")]);
    let replaced = CallRow { revision: 7, ..bare_call("a") };
    let second = update_calls(Some(&first), &stamp(), &|id| id == "b", &[replaced.clone(), full_call("d")])
        .unwrap()
        .into();
    assert_eq!(
        sorted_rows(&second),
        sorted_rows(&file_of_calls(&[replaced, full_call("c"), full_call("d")]))
    );
    let ids: Vec<_> =
        read_calls(&second).unwrap().calls.into_iter().map(|call| call.conversation_id).collect();
    assert_eq!(ids, ["c", "a", "d"]);

    let first = file_of_turns(&[full_turn("a", 1), full_turn("a", 2), full_turn("b", 1), full_turn("c", 1)]);
    let second = update_turns(Some(&first), &stamp(), &|id| id == "c", &[full_turn("a", 3)]).unwrap().into();
    assert_eq!(sorted_rows(&second), sorted_rows(&file_of_turns(&[full_turn("a", 3), full_turn("b", 1)])));
    assert_eq!(read_turns(&second).unwrap().rows, HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]));
}

#[test]
fn a_file_without_rows_is_a_file() {
    let empty = file_of_calls(&[]);
    assert_eq!(read_calls(&empty).unwrap(), CallsSummary { stamp: stamp(), calls: Vec::new() });
    assert_eq!(read_turns(&file_of_turns(&[])).unwrap().rows, HashMap::new());
    let full = update_calls(Some(&empty), &stamp(), &|_| true, &[full_call("a")]).unwrap().into();
    assert_eq!(rows(&full), rows(&file_of_calls(&[full_call("a")])));
    let emptied = update_calls(Some(&full), &stamp(), &|_| true, &[]).unwrap().into();
    assert_eq!((group_sizes(&emptied), rows(&emptied)), (Vec::new(), Vec::new()));
}

#[test]
fn a_summary_has_what_checks_of_a_day_need() {
    let summary = read_calls(&file_of_calls(&[full_call("a")])).unwrap();
    let call = IndexedCall {
        conversation_id: "a".to_owned(),
        stored_at: at("2026-12-01T00:02:01Z"),
        manifest_sha256: "sha256 of a".to_owned(),
        turn_rows: 2,
    };
    assert_eq!(summary.calls, [call]);
}

#[test]
fn untouched_row_groups_are_copied_with_statistics_and_page_indexes() {
    let table = small_groups(10);
    let first = update_small(&table, None, &[], &calls(0..24));
    assert_eq!(group_sizes(&first), [10, 10, 4]);
    let second = update_small(&table, Some(&first), &["3"], &calls(100..101));
    assert_eq!(group_sizes(&second), [9, 10, 5]);
    let chunks = |file: &Bytes, group: usize| {
        let reader = open(file);
        let indexes = reader.metadata().page_index_for_row_group(group);
        let columns = reader.metadata().row_group(group).columns().iter().enumerate();
        let chunks: Vec<_> = columns
            .map(|(column, chunk)| {
                let (start, length) = chunk.byte_range();
                let (start, length) = (usize::try_from(start).unwrap(), usize::try_from(length).unwrap());
                let pages = indexes.page_locations(column).unwrap();
                let pages: Vec<_> =
                    pages.iter().map(|page| page.offset - i64::try_from(start).unwrap()).collect();
                let index = indexes.column_index(column).unwrap();
                (
                    file.slice(start..start + length),
                    chunk.statistics().unwrap().clone(),
                    format!("{index:?} {pages:?}"),
                )
            })
            .collect();
        chunks
    };
    assert_eq!(chunks(&second, 1), chunks(&first, 1));
    assert_eq!(sorted_rows(&second).len(), 24);
}

#[test]
fn many_updates_make_few_row_groups() {
    let table = small_groups(10);
    let mut file = update_small(&table, None, &[], &[]);
    for id in 0..57 {
        file = update_small(&table, Some(&file), &[], &calls(id..id + 1));
    }
    let sizes = group_sizes(&file);
    assert!(sizes.len() <= 12, "{sizes:?}");
    assert_eq!(sorted_rows(&file), sorted_rows(&update_small(&table, None, &[], &calls(0..57))));
}

#[test]
fn row_groups_are_limited_in_bytes() {
    let turn = |number| TurnRow { user_input: Some("x".repeat(1 << 20)), ..full_turn("a", number) };
    let file = file_of_turns(&(0..20).map(turn).collect::<Vec<_>>());
    assert_eq!(group_sizes(&file), [4; 5]);
    let metrics = |count: usize| (0..count).map(|at| (at.to_string(), None)).collect();
    let call = |id: usize| CallRow { metrics: metrics(50_000), ..bare_call(&id.to_string()) };
    let file = file_of_calls(&(0..5).map(call).collect::<Vec<_>>());
    assert_eq!(group_sizes(&file), [2, 2, 1]);
}

#[test]
fn a_file_with_another_stamp_is_not_updated() {
    let file = file_of_calls(&[full_call("a")]);
    for other in [
        Stamp { schema_version: SCHEMA_VERSION + 1, ..stamp() },
        Stamp::new(NumberMode::Plain, None),
        Stamp::new(NumberMode::Hash, Some("one".to_owned())),
    ] {
        let result = update_calls(Some(&file), &other, &|_| true, &[]);
        assert!(matches!(result, Err(TableError::OtherStamp)), "{result:?}");
        let written = update_calls(None, &other, &|_| true, &[]).unwrap().into();
        assert_eq!(read_calls(&written).unwrap().stamp, other);
    }
    let turns = file_of_turns(&[full_turn("a", 1)]);
    let error = update_calls(Some(&turns), &stamp(), &|_| true, &[]).unwrap_err();
    assert!(error.to_string().contains("polyhook index build"), "{error}");
}

#[test]
fn rows_are_removed_from_a_file_of_a_later_version() {
    let later = Stamp {
        schema_version: SCHEMA_VERSION + 1,
        numbers: NumberMode::Hash,
        numbers_key: Some("key".to_owned()),
    };
    let schema = "message calls { required binary conversation_id (STRING); required int64 stored_at (TIMESTAMP(MICROS,true));
        required binary manifest_sha256 (STRING); required int64 turn_rows; optional double later_column; }";
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let schema = Arc::new(parquet::schema::types::SchemaDescriptor::new(Arc::new(schema)));
    let mut records = columns::Columns::new(&schema).unwrap();
    for id in ["a", "b", "c"] {
        records.leaves[0].push(0, &columns::Value::Text(id));
        records.leaves[1].push(0, &columns::Value::Int64(1_000_000));
        records.leaves[2].push(0, &columns::Value::Text("sha256"));
        records.leaves[3].push(0, &columns::Value::Int64(0));
        records.leaves[4].push_absent(0, 0);
        records.rows += 1;
    }
    let mut writer = file::writer(&schema, &later, 0).unwrap();
    records.write(writer.next_row_group().unwrap()).unwrap();
    let file = file::finish(writer).unwrap().into();
    let removed = remove_rows(&file, &|id| id == "b").unwrap().into();
    assert_eq!(rows(&removed).len(), 2);
    assert!(rows(&removed)[1].contains("later_column: null"), "{:?}", rows(&removed));
    let summary = read_calls(&removed).unwrap();
    assert_eq!(summary.stamp, later);
    assert_eq!(
        summary.calls.iter().map(|call| call.conversation_id.as_str()).collect::<Vec<_>>(),
        ["a", "c"]
    );
}

/// An update of some of ten conversations.
#[derive(Debug, Clone)]
struct Step {
    removed: Vec<u8>,
    added: Vec<(u8, bool)>,
}

fn step() -> impl Strategy<Value = Step> {
    let removed = proptest::collection::vec(0u8..40, 0..4);
    let added = proptest::collection::vec((0u8..40, any::<bool>()), 0..12);
    (removed, added).prop_map(|(removed, added)| Step { removed, added })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn any_updates_give_the_rows_of_one_build(steps in proptest::collection::vec(step(), 1..8), max_rows in 1usize..9) {
        let table = small_groups(max_rows);
        let mut expected = BTreeMap::new();
        let mut file = None;
        for (revision, step) in steps.iter().enumerate() {
            let removed: Vec<_> = step.removed.iter().map(u8::to_string).collect();
            let removed: Vec<_> = removed.iter().map(String::as_str).collect();
            expected.retain(|id: &String, _| !removed.contains(&id.as_str()));
            let added: BTreeMap<_, _> = step.added.iter().copied().collect();
            let added: Vec<_> = added
                .into_iter()
                .map(|(id, full)| {
                    let call = if full { full_call(&id.to_string()) } else { bare_call(&id.to_string()) };
                    CallRow { revision: i64::try_from(revision).unwrap(), ..call }
                })
                .collect();
            file = Some(update_small(&table, file.as_ref(), &removed, &added));
            expected.extend(added.into_iter().map(|call| (call.conversation_id.clone(), call)));
        }
        let expected: Vec<_> = expected.into_values().collect();
        prop_assert_eq!(sorted_rows(&file.unwrap()), sorted_rows(&update_small(&table, None, &[], &expected)));
    }
}
