use super::*;

#[test]
fn adds_rows() {
    let stamp = Stamp::new(NumberMode::Omit, None);
    let row = CallRow {
        conversation_id: "a".to_owned(),
        metrics: vec![("x".to_owned(), None)],
        ..CallRow::default()
    };
    let file = Bytes::from(update_calls(None, &stamp, &|_| false, std::slice::from_ref(&row)).unwrap());
    assert_eq!(read_calls(&file).unwrap().calls.len(), 1);
    let turn = TurnRow { conversation_id: "a".to_owned(), ..TurnRow::default() };
    let file = Bytes::from(update_turns(None, &stamp, &|_| false, &[turn.clone(), turn]).unwrap());
    assert_eq!(count_turns(&file).unwrap()["a"], 2);
    assert_eq!(count_turns(&Bytes::from(remove_rows(&file, &|_| true).unwrap())).unwrap().len(), 0);
}
