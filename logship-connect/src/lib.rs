//! What the exporters, sources and offset stores of [logship](https://docs.rs/logship) share to reach a service over the
//! network: the settings of a connection, TLS by a provider of its own, addresses that hold credentials.

mod address;
mod connection;
pub mod tls;

pub use address::{basic_auth, parse_url, percent_decoded, secret_header};
pub use connection::{Connection, Stamp, TlsVersion};
