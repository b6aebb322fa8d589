//! TLS by rustls, from the files that the web configuration names.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

use super::web_config::{ClientAuth, Tls, Version, WebConfigError};

/// The server's side of TLS. `folder`: what relative paths are relative to.
pub fn server(tls: &Tls, folder: &Path) -> Result<ServerConfig, WebConfigError> {
    let cert_file = folder.join(&tls.cert_file);
    let key_file = folder.join(&tls.key_file);
    let certificates = certificates(&cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&key_file).map_err(|err| wrong(&key_file, &err))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(tls))
        .map_err(|err| wrong(&cert_file, &err))?;
    let builder = match (tls.client_auth_type, &tls.client_ca_file) {
        (ClientAuth::NoClientCert, None) => builder.with_no_client_auth(),
        (ClientAuth::NoClientCert, Some(file)) => {
            return Err(tls_error(
                folder.join(file),
                "client_ca_file without a client_auth_type that verifies: RequireAndVerifyClientCert"
                    .to_owned(),
            ));
        }
        (_, None) => {
            return Err(tls_error(
                cert_file,
                "client_auth_type needs client_ca_file: who signs the clients' certificates".to_owned(),
            ));
        }
        (auth, Some(file)) => {
            builder.with_client_cert_verifier(verifier(auth, &folder.join(file), provider)?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|err| wrong(&cert_file, &err))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// SHA-256 as a Content-Security-Policy writes it.
pub fn sha256_base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    let hash = ring::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .map(|suite| suite.common.hash_provider.hash(bytes));
    let hash = hash.as_ref().map_or(&[][..], AsRef::as_ref);
    base64::engine::general_purpose::STANDARD.encode(hash)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, WebConfigError> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|err| wrong(file, &err))
}

fn versions(tls: &Tls) -> Vec<&'static SupportedProtocolVersion> {
    let min = tls.min_version.unwrap_or(Version::TLS12);
    let max = tls.max_version.unwrap_or(Version::TLS13);
    [(Version::TLS12, &TLS12), (Version::TLS13, &TLS13)]
        .into_iter()
        .filter(|(version, _)| (min..=max).contains(version))
        .map(|(_, version)| version)
        .collect()
}

fn verifier(
    auth: ClientAuth,
    file: &Path,
    provider: Arc<tokio_rustls::rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, WebConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|err| wrong(file, &err))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match auth {
        ClientAuth::VerifyClientCertIfGiven => builder.allow_unauthenticated(),
        _ => builder,
    };
    builder.build().map_err(|err| wrong(file, &err))
}

fn wrong(file: &Path, err: &dyn std::fmt::Display) -> WebConfigError {
    tls_error(file.to_owned(), err.to_string())
}

fn tls_error(file: PathBuf, problem: String) -> WebConfigError {
    WebConfigError::Tls(file, problem)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_hash_is_that_of_fips_180() {
        assert_eq!(
            super::sha256_base64(b"abc"),
            "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
        );
    }
}
