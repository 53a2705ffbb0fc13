//! Stores of objects: S3, Google Cloud Storage, Azure Blob Storage, as exporters and offset stores reach them.
//!
//! The crate `object_store` speaks to them, through our own client, and never repeats a request by itself.

#[cfg(feature = "azure_blob")]
mod azure_blob;
mod failure;
#[cfg(feature = "gcs")]
mod gcs;
#[cfg(feature = "s3")]
mod s3;
mod wire;

use std::fmt;
use std::sync::Arc;

use logship_core::{Error, async_trait};
pub use object_store;
use object_store::ObjectStore;
use object_store::path::Path;

#[cfg(feature = "azure_blob")]
pub use self::azure_blob::{AzureBlobConfig, AzureContainer};
pub use self::failure::{failure, is_bucket_missing};
#[cfg(feature = "gcs")]
pub use self::gcs::{GcsBucket, GcsConfig};
#[cfg(feature = "s3")]
pub use self::s3::{S3Bucket, S3Config};
pub use self::wire::Wire;

/// A bucket or a container, and what lets us in.
#[async_trait]
pub trait Bucket: fmt::Debug + Send + Sync {
    /// What can be done with it. The first call may have to find out where it is.
    ///
    /// # Errors
    /// Where it cannot be found, or nobody says who we are.
    async fn store(&self) -> Result<Arc<dyn ObjectStore>, Error>;

    /// Gets new credentials, after a failure that advised it.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`](logship_core::ErrorKind::Auth) where there are none, or none but those that were refused.
    async fn refresh(&self) -> Result<(), Error>;

    /// The address of an object, for people and for whoever reads it next.
    fn uri(&self, key: &Path) -> String;
}

/// Reads the key of an object, or the first part of keys.
///
/// # Errors
/// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field, for what one of the clouds would
/// not take, or keep as it is.
pub fn parse_path(field: &str, text: &str) -> Result<Path, Error> {
    Path::parse(text).map_err(|_| {
        let message = format!(
            "`{}` cannot be part of a key: use letters, digits, `-`, `_`, `.` and single slashes between names",
            text.escape_debug()
        );
        Error::config(field, message)
    })
}
