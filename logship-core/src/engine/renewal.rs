//! New credentials, for an exporter that is not let in any more.

use crate::{Error, Exporter, SecretProvider};

/// Asks for secrets anew, then has the exporter read its own again. Another lane's secret may be what is not to be had, so
/// that counts only if nothing has changed for this one.
pub(super) async fn renew(exporter: &dyn Exporter, secrets: &dyn SecretProvider) -> Result<(), Error> {
    let renewed = secrets.renew().await;
    exporter.refresh().await.map_err(|error| renewed.err().unwrap_or(error))
}
