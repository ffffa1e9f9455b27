use super::*;
use crate::index::table::update::Update;

/// Returns a file of turns with two row groups.
fn two_groups() -> Bytes {
    let mut update = Update::new(&TURNS.schema, &stamp(), 3, 0).unwrap();
    update.add(&TURNS, &[1, 2, 3, 4, 5].map(|number| full_turn("a", number))).unwrap();
    update.finish().unwrap().into()
}

/// Calls each function that reads a file of turns, and returns the errors.
fn read_all(file: &Bytes) -> Vec<Option<TableError>> {
    vec![
        read_turns(file).err(),
        read_calls(file).err(),
        update_turns(Some(file), &stamp(), &|_| false, &[full_turn("b", 1)]).err(),
        remove_rows(file, &|_| false).err(),
        remove_rows(file, &|_| true).err(),
    ]
}

fn assert_damaged(file: Vec<u8>, damage: &str) {
    for error in read_all(&file.into()) {
        assert!(matches!(error, Some(TableError::Damaged(_))), "{damage}: {error:?}");
    }
}

#[test]
fn every_changed_byte_and_every_truncation_is_noticed() {
    let file = two_groups();
    for place in (0..file.len()).step_by(19) {
        let mut changed = file.to_vec();
        changed[place] ^= 1 << (place % 8);
        assert_damaged(changed, &format!("byte {place}"));
        assert_damaged(file[..place].to_vec(), &format!("{place} bytes"));
    }
    assert_damaged([&file[..], b"x"].concat(), "a byte more");
    assert_damaged(b"PAR1".to_vec(), "a start");
    let error = read_turns(&Bytes::from_static(b"{}")).unwrap_err();
    assert!(
        error.to_string().contains("damaged") && error.to_string().contains("`polyhook index build`"),
        "{error}"
    );
}

/// A program that writes damaged files with a right checksum gets an error, too, and not a panic.
#[test]
fn a_forged_file_does_not_panic() {
    let file = two_groups();
    let mut errors = 0;
    for _ in 0..150 {
        let mut forged = file.to_vec();
        for _ in 0..fastrand::usize(1..4) {
            let place = fastrand::usize(..forged.len());
            forged[place] = fastrand::u8(..);
        }
        let Some(place) = file::checksum_place(&forged) else { continue };
        let checksum = file::checksum(&forged, place);
        forged[place..place + checksum.len()].copy_from_slice(checksum.as_bytes());
        let forged = forged.into();
        errors += read_all(&forged).into_iter().flatten().count();
    }
    assert!(errors > 20, "{errors}");
}
