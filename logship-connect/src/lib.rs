//! What the exporters, sources and offset stores of [logship](https://docs.rs/logship) share to reach a service over the
//! network: the settings of a connection, TLS by a provider of its own, addresses that hold credentials, and, each behind
//! a feature of its name, the credentials and the object stores of the clouds.

mod address;
#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "azure")]
pub mod azure;
#[cfg(any(feature = "aws", feature = "_objects"))]
mod cause;
mod connection;
#[cfg(feature = "google")]
pub mod google;
#[cfg(feature = "_objects")]
pub mod objects;
mod rotated;
pub mod tls;
#[cfg(any(feature = "azure", feature = "google"))]
pub mod token;

pub use address::{basic_auth, parse_url, percent_decoded, secret_header};
pub use connection::{Connection, Stamp, TlsVersion};
pub use rotated::RotatedClient;
