//! `amqps://`: the trusted authorities and the client certificate.
//!
//! The connector is built once, when the queue is opened, so that a missing or unusable file fails the start of the
//! process instead of a later reconnect. lapin's own way builds it on every connect, and fails on a machine without system
//! authorities even if `queue.ca_file` is set.

use std::path::Path;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use zeroize::Zeroizing;

use super::error::OpenError;
use crate::{bounded_file, queue::QueueConfig};

/// Builds the connector for `amqps://` URLs. Returns all errors at once.
pub(super) fn connector(config: &QueueConfig) -> Result<RustlsConnector, Vec<OpenError>> {
    let mut errors = Vec::new();
    let mut trust = RustlsConnectorConfig::default();
    match trust.clone().with_native_certs() {
        Ok(with_system) => trust = with_system,
        Err(_) if config.ca_file.is_some() => {}
        Err(error) => errors.push(OpenError::tls(
            "queue.ca_file",
            format!(
                "this machine has no certificate authorities ({error}): install its `ca-certificates` or set this key"
            ),
        )),
    }
    match config.ca_file.as_deref().map(authorities).transpose() {
        Ok(authorities) => trust.add_parsable_certificates(authorities.unwrap_or_default()),
        Err(error) => errors.push(error),
    }
    let cert = config.client_cert_file.as_deref().map(|path| certificates(path, "queue.client_cert_file"));
    let key = config.client_key_file.as_deref().map(private_key);
    let connector = match (cert, key) {
        (None, None) => trust.connector_with_no_client_auth(),
        (Some(Ok(cert)), Some(Ok(key))) => trust.connector_with_single_cert(cert, key),
        (cert, key) => {
            if cert.is_some() != key.is_some() {
                let key = if cert.is_some() { "queue.client_cert_file" } else { "queue.client_key_file" };
                let message =
                    "queue.client_cert_file and queue.client_key_file go together: set both or neither";
                errors.push(OpenError::tls(key, message));
            }
            errors.extend(cert.and_then(Result::err).into_iter().chain(key.and_then(Result::err)));
            return Err(errors);
        }
    };
    match connector {
        Ok(connector) if errors.is_empty() => Ok(connector),
        Ok(_) => Err(errors),
        Err(error) => {
            errors.push(OpenError::tls(
                "queue.client_key_file",
                format!(
                    "the client certificate cannot be used ({error}): this must hold the key that belongs to the first certificate in queue.client_cert_file"
                ),
            ));
            Err(errors)
        }
    }
}

/// Reads certificate authorities. Returns an error if one of them cannot be a root; rustls would skip it silently.
fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let certificates = certificates(path, "queue.ca_file")?;
    let (_, unusable) = RootCertStore::empty().add_parsable_certificates(certificates.iter().cloned());
    if unusable > 0 {
        let message = format!(
            "{unusable} certificate(s) in {} cannot be read as a certificate authority",
            path.display()
        );
        return Err(OpenError::tls("queue.ca_file", message));
    }
    Ok(certificates)
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let pem = read(path, key)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| OpenError::tls(key, format!("{} is not valid PEM: {error}", path.display())))?;
    if certificates.is_empty() {
        let message = format!(
            "{} holds no certificate (a PEM block that begins with BEGIN CERTIFICATE)",
            path.display()
        );
        return Err(OpenError::tls(key, message));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, OpenError> {
    const KEY: &str = "queue.client_key_file";
    let pem = read(path, KEY)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let message =
            format!("{} holds no unencrypted private key in PEM (BEGIN PRIVATE KEY)", path.display());
        OpenError::tls(KEY, message)
    })
}

fn read(path: &Path, key: &'static str) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    bounded_file::read_bytes(path).map_err(|source| OpenError::File { key, path: path.to_owned(), source })
}
