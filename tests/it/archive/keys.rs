//! Keys: identifiers that try to leave their folder.

use super::*;

const HOSTILE_IDS: [&str; 41] = [
    "",
    ".",
    "..",
    "...",
    "../",
    "../../../../escape",
    "/etc/passwd",
    "%",
    "%2f",
    "%2F",
    "%252f",
    "/",
    "a/b",
    "a%2Fb",
    "a%2fb",
    "a\\b",
    "\0",
    "\n",
    "a\r\nb",
    "a b",
    "a+b",
    "a#1",
    "a?b",
    "a&b=c",
    "~",
    "a~b",
    "a!b",
    "a:b",
    "*",
    "\"",
    "<",
    "é",
    "e\u{301}",
    "日本語",
    "🦜",
    "ID",
    "id",
    "a.",
    "a",
    ".a",
    "conversation.json",
];

pub(super) async fn hostile_ids_stay_in_their_folders(fixture: ArchiveFixture) {
    let long = "x".repeat(4096);
    let longer = format!("{long}/../..");
    let hostile = HOSTILE_IDS.into_iter().chain([long.as_str(), longer.as_str()]);
    let draft = draft(1, AudioStatus::NotApplicable);
    let mut expected = Vec::new();
    for id in hostile.clone() {
        let location = Location::new(id, "p", id, STARTED_AT.parse().unwrap());
        let manifest = expect_written(commit(&fixture.archive, &location, &draft, id, None).await.unwrap());
        assert_eq!((manifest.revision, manifest.conversation_id.as_str()), (1, id));
        for name in [CONVERSATION, MANIFEST] {
            expected.push(format!("{}{}/{name}", fixture.prefix, location.folder()));
        }
    }
    for id in hostile {
        let location = Location::new(id, "p", id, STARTED_AT.parse().unwrap());
        let stored = fixture.archive.read(&location).await.unwrap().unwrap();
        assert_eq!(stored.manifest.conversation_id, id);
        assert_eq!(fixture.bytes(&location, CONVERSATION).await, id.as_bytes());
    }
    expected.sort();
    if let Some(root) = &fixture.root {
        // The file names are exactly the keys, and there are no other files.
        let outside = root.parent().unwrap().parent().unwrap();
        let mut found: Vec<_> = files(outside)
            .into_iter()
            .filter(|path| !path.to_string_lossy().contains("/.polyhook/"))
            .map(|path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        assert_eq!(found, expected);
    } else {
        let found: Vec<_> = fixture.objects().await.into_keys().collect();
        assert_eq!(found, expected);
    }
}
