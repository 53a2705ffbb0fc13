//! What the exporters, sources and offset stores of [logship](https://docs.rs/logship) share to reach a service over the
//! network: the settings of a connection, TLS by a provider of its own, addresses that hold credentials.

mod address;
#[cfg(feature = "aws")]
pub mod aws;
mod connection;
mod rotated;
pub mod tls;

pub use address::{basic_auth, parse_url, percent_decoded, secret_header};
pub use connection::{Connection, Stamp, TlsVersion};
pub use rotated::RotatedClient;
