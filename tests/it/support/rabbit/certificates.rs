//! Certificates for the TLS port of a node.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Writes `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key`, and `other-ca.pem`, an authority that signed
/// none of them.
pub(super) fn write_certificates(folder: &Path) {
    let authority = || {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", fastrand::u64(..)));
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (signing, other) = (authority(), authority());
    let write = |name: &str, content: String| fs::write(folder.join(name), content).unwrap();
    write("ca.pem", signing.as_ref().pem());
    write("other-ca.pem", other.as_ref().pem());
    for (name, subject) in [("server", "localhost"), ("client", "polyhook")] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([subject.to_owned()]).unwrap();
        write(&format!("{name}.pem"), params.signed_by(&key, &signing).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}
