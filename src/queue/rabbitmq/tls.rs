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

/// Builds the connector for `amqps://` URLs.
pub(super) fn connector(config: &QueueConfig) -> Result<RustlsConnector, OpenError> {
    let mut trust = RustlsConnectorConfig::default();
    match trust.clone().with_native_certs() {
        Ok(with_system) => trust = with_system,
        Err(_) if config.ca_file.is_some() => {}
        Err(error) => {
            return Err(OpenError::Tls(format!(
                "this machine has no certificate authorities ({error}): install its `ca-certificates` or set queue.ca_file"
            )));
        }
    }
    if let Some(path) = &config.ca_file {
        trust.add_parsable_certificates(authorities(path)?);
    }
    let connector = match (&config.client_cert_file, &config.client_key_file) {
        (None, None) => trust.connector_with_no_client_auth(),
        (Some(cert), Some(key)) => {
            trust.connector_with_single_cert(certificates(cert, "client_cert_file")?, private_key(key)?)
        }
        _ => {
            return Err(OpenError::Tls(
                "queue.client_cert_file and queue.client_key_file go together: set both or neither"
                    .to_owned(),
            ));
        }
    };
    connector.map_err(|error| {
        OpenError::Tls(format!(
            "the client certificate cannot be used ({error}): queue.client_key_file must hold the key that belongs to the first certificate in queue.client_cert_file"
        ))
    })
}

/// Reads certificate authorities. Returns an error if one of them cannot be a root; rustls would skip it silently.
fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let certificates = certificates(path, "ca_file")?;
    let (_, unusable) = RootCertStore::empty().add_parsable_certificates(certificates.iter().cloned());
    if unusable > 0 {
        return Err(OpenError::Tls(format!(
            "queue.ca_file: {unusable} certificate(s) in {} cannot be read as a certificate authority",
            path.display()
        )));
    }
    Ok(certificates)
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let pem = read(path, key)?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| {
            OpenError::Tls(format!("queue.{key}: {} is not valid PEM: {error}", path.display()))
        })?;
    if certificates.is_empty() {
        return Err(OpenError::Tls(format!(
            "queue.{key}: {} holds no certificate (a PEM block that begins with BEGIN CERTIFICATE)",
            path.display()
        )));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, OpenError> {
    let pem = read(path, "client_key_file")?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        OpenError::Tls(format!(
            "queue.client_key_file: {} holds no unencrypted private key in PEM (BEGIN PRIVATE KEY)",
            path.display()
        ))
    })
}

fn read(path: &Path, key: &'static str) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    bounded_file::read_bytes(path).map_err(|source| OpenError::File { key, path: path.to_owned(), source })
}
