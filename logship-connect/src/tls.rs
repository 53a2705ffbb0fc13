//! TLS by a provider of our own. The process default belongs to the program, which may have none or another one.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::sync::Arc;

use logship_core::{Error, ErrorKind};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::connection::{Connection, TlsVersion};

/// The TLS settings of a connection, with what is in its files now, for these protocols (ALPN).
///
/// # Errors
/// [`ErrorKind::Config`], which names the field or the file.
pub fn config_for(connection: &Connection, protocols: &[&[u8]]) -> Result<ClientConfig, Error> {
    let failed = |error: rustls::Error| {
        Error::new(ErrorKind::Config, "set up TLS", "cannot check certificates").with_source(error)
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = match connection.tls_version_min {
        TlsVersion::V1_2 => &[&TLS13, &TLS12][..],
        TlsVersion::V1_3 => &[&TLS13][..],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(verifier(connection, provider)?);
    let mut config = match (&connection.client_certificate_file, &connection.client_key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates("connection.client_certificate_file", certificate)?;
            builder.with_client_auth_cert(chain, private_key(key)?).map_err(|error| {
                let message = format!("{}: not the key of the client certificate, or of no use", key.display());
                Error::config("connection.client_key_file", message).with_source(error)
            })?
        }
        (Some(_), None) => {
            return Err(Error::config("connection.client_key_file", "a client certificate needs its key"));
        }
        (None, Some(_)) => {
            return Err(Error::config("connection.client_certificate_file", "a client key needs its certificate"));
        }
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

fn verifier(connection: &Connection, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    const FIELD: &str = "connection.ca_file";
    if connection.insecure_skip_verify {
        return Ok(Arc::new(AnyCertificate(provider)));
    }
    let extra = connection.ca_file.as_deref().map(|file| certificates(FIELD, file)).transpose()?;
    if connection.system_roots {
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra.unwrap_or_default(), provider);
        return Ok(Arc::new(verifier.map_err(|error| {
            Error::new(ErrorKind::Config, "set up TLS", "cannot check certificates").with_source(error)
        })?));
    }
    let Some(extra) = extra else {
        return Err(Error::config(FIELD, "without the system's roots there must be a file of others"));
    };
    let mut roots = RootCertStore::empty();
    for certificate in extra {
        let wrong = |error: rustls::Error| Error::config(FIELD, "holds what cannot be trusted").with_source(error);
        roots.add(certificate).map_err(wrong)?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(verifier.map_err(|error| Error::config(FIELD, "holds what cannot be trusted").with_source(error))?)
}

fn certificates(field: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |why: String| Error::config(field, format!("{}: {why}", file.display()));
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() { Err(wrong("holds no PEM certificate".to_owned())) } else { Ok(certificates) }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(file)
        .map_err(|error| Error::config("connection.client_key_file", format!("{}: {error}", file.display())))
}

/// What TLS itself says is wrong, if that is why a request failed.
pub fn fault<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(fault) = error.downcast_ref::<rustls::Error>() {
            return Some(fault);
        }
        // An I/O error does not give what it wraps as its source, but that one's source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(fault) = wrapped.and_then(|wrapped| fault(wrapped)) {
            return Some(fault);
        }
        next = error.source();
    }
    None
}

/// Whether the server ended TLS because of our certificate, or because there is none. With TLS 1.3 it says so only when
/// we have begun to send, and reads nothing of it.
pub fn refuses_us(fault: &rustls::Error) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        DecryptError, UnknownCA, UnsupportedCertificate,
    };
    let rustls::Error::AlertReceived(alert) = fault else { return false };
    matches!(
        alert,
        AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | DecryptError
            | UnknownCA
            | UnsupportedCertificate
    )
}

/// Takes any certificate, for whoever asks for it by name. That the server holds the certificate's key is still
/// checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        text: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(text, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        text: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(text, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
