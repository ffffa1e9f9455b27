//! Configuration: accepted and rejected forms, credentials, and an unavailable store.

use super::*;

#[tokio::test]
async fn rejected_credentials_are_errors_without_the_secret() {
    let server = Seaweed::shared().await;
    let right = server.config("denied");
    let wrong_secret = Secret::new("certainly not the right one");
    for (config, code) in [
        (
            ArchiveConfig { secret_access_key: Some(wrong_secret.clone()), ..right.clone() },
            "SignatureDoesNotMatch",
        ),
        (ArchiveConfig { access_key_id: Some("nobody".to_owned()), ..right.clone() }, "InvalidAccessKeyId"),
    ] {
        let archive = Archive::open(&config, Clock::System).unwrap();
        let error = archive.check().await.unwrap_err();
        assert!(matches!(error, ArchiveError::Denied(_)), "{error:?}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("credentials") && text.contains(code), "{text}");
        assert!(!text.contains(wrong_secret.expose()), "{text}");
        let location = location("denied");
        let error =
            commit(&archive, &location, &draft(1, AudioStatus::Absent), "{}", None).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Denied(_)), "{error:?}");
    }
}

#[tokio::test]
async fn reads_the_secret_key_from_a_file() {
    let server = Seaweed::shared().await;
    let right = server.config("key-file");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", right.secret_access_key.as_ref().unwrap().expose())).unwrap();
    let config = ArchiveConfig {
        secret_access_key: None,
        secret_access_key_file: Some(file.path().to_owned()),
        ..right
    };
    Archive::open(&config, Clock::System).unwrap().check().await.unwrap();
}

/// Opening does not contact the server.
#[tokio::test]
async fn an_unavailable_store_is_an_error_in_bounded_time() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let [port] = ports::free();
    let config = ArchiveConfig {
        url: "s3://bucket".to_owned(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        access_key_id: Some("a".to_owned()),
        secret_access_key: Some(Secret::new("b")),
        allow_http: true,
        ..ArchiveConfig::default()
    };
    let archive = Archive::open(&config, Clock::System).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(45), archive.check()).await.unwrap();
    assert_eq!(answer.unwrap_err().label(), "store");
}

#[test]
fn accepts_every_form_of_a_folder_url() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("with space").display().to_string();
    for url in [format!("file:{path}"), format!("file://{}", path.replace(' ', "%20"))] {
        let config = ArchiveConfig { url, ..ArchiveConfig::default() };
        let archive = Archive::open(&config, Clock::System).unwrap();
        let url = archive.object_url(&location("a"), MANIFEST).unwrap();
        assert!(url.starts_with("file:///") && url.contains("with%20space"), "{url}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn rejects_invalid_configurations() {
    let config = |url: &str| ArchiveConfig { url: url.to_owned(), ..ArchiveConfig::default() };
    for (config, hint) in [
        (config("polyhook-data"), "file:FOLDER"),
        (config("file:"), "does not name a folder"),
        (config("file://host/share"), "file:///FOLDER"),
        (config("ftp://host/a"), "not one of"),
        (config("s3:///prefix"), "does not name a bucket"),
        (config("s3://key:secret@bucket/"), "set the keys"),
        (ArchiveConfig { endpoint: Some("http://a".to_owned()), ..config("s3://b") }, "allow_http"),
        (ArchiveConfig { access_key_id: Some("a".to_owned()), ..config("s3://b") }, "must be set together"),
        (
            ArchiveConfig { secret_access_key_file: Some("/nonexistent/key".into()), ..config("s3://b") },
            "/nonexistent/key",
        ),
        (
            ArchiveConfig { service_account_file: Some("/nonexistent/gcp".into()), ..config("gs://b") },
            "nonexistent",
        ),
    ] {
        let error = Archive::open(&config, Clock::System).unwrap_err();
        assert_eq!(error.label(), "config", "{error}");
        assert!(error.to_string().contains(hint), "{error}");
        assert!(!error.to_string().contains("secret@"), "{error}");
    }
}

/// Google and Azure are not available here, so only the URLs are checked.
#[test]
fn accepts_google_and_azure_urls() {
    let azure = ArchiveConfig {
        url: "az://container/calls".to_owned(),
        access_key_id: Some("account".to_owned()),
        secret_access_key: Some(Secret::new("c2VjcmV0")),
        ..ArchiveConfig::default()
    };
    let google = ArchiveConfig { url: "gs://bucket/calls".to_owned(), ..ArchiveConfig::default() };
    for (config, start) in
        [(azure, "az://container/calls/account_id="), (google, "gs://bucket/calls/account_id=")]
    {
        let archive = Archive::open(&config, Clock::System).unwrap();
        let url = archive.object_url(&location("a"), MANIFEST).unwrap();
        assert!(url.starts_with(start), "{url}");
    }
}
