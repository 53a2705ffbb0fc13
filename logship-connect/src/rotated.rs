//! A client that follows its files.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use logship_core::{BuildContext, Error};
use reqwest::Client;
use tokio::time::Instant;

use crate::connection::{Connection, Stamp};

/// How often files of certificates are looked at. Whoever replaces one lets the old one be good for longer than that.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A client which is made anew when a file that it was made of has changed: looked at once a minute, and after
/// [`look_soon`](RotatedClient::look_soon). While a file cannot be read the last client stays in use.
pub struct RotatedClient {
    /// What it is made for, for errors.
    operation: &'static str,
    connection: Connection,
    context: BuildContext,
    speaks: Speaks,
    current: Mutex<Current>,
}

/// What the client speaks.
#[derive(Clone, Copy)]
enum Speaks {
    Http,
    Grpc { is_plain: bool },
}

impl Speaks {
    fn client(self, operation: &'static str, connection: &Connection, context: &BuildContext) -> Result<Client, Error> {
        match self {
            Speaks::Http => connection.client(operation, context),
            Speaks::Grpc { is_plain } => connection.grpc_client(operation, context, is_plain),
        }
    }
}

struct Current {
    client: Client,
    /// The files it was made of.
    stamps: Vec<Stamp>,
    /// When these are looked at again.
    look_at: Instant,
}

impl RotatedClient {
    /// Makes the first client.
    ///
    /// # Errors
    /// Those of [`Connection::client`].
    pub fn new(operation: &'static str, connection: &Connection, context: &BuildContext) -> Result<Self, Error> {
        RotatedClient::that_speaks(Speaks::Http, operation, connection, context)
    }

    /// The same for gRPC. `is_plain` is whether it goes without TLS.
    ///
    /// # Errors
    /// Those of [`Connection::grpc_client`].
    pub fn grpc(
        operation: &'static str,
        connection: &Connection,
        context: &BuildContext,
        is_plain: bool,
    ) -> Result<Self, Error> {
        RotatedClient::that_speaks(Speaks::Grpc { is_plain }, operation, connection, context)
    }

    fn that_speaks(
        speaks: Speaks,
        operation: &'static str,
        connection: &Connection,
        context: &BuildContext,
    ) -> Result<Self, Error> {
        // Before the files are read, so that what changes meanwhile is seen as changed.
        let stamps = connection.stamps();
        let client = speaks.client(operation, connection, context)?;
        let current = Mutex::new(Current { client, stamps, look_at: Instant::now() + LOOK_EVERY });
        let (connection, context) = (connection.clone(), context.clone());
        Ok(RotatedClient { operation, connection, context, speaks, current })
    }

    /// The client of now. Cheap to clone.
    pub fn client(&self) -> Client {
        let mut current = self.current();
        if current.stamps.is_empty() || Instant::now() < current.look_at {
            return current.client.clone();
        }
        current.look_at = Instant::now() + LOOK_EVERY;
        let stamps = self.connection.stamps();
        if stamps != current.stamps {
            match self.speaks.client(self.operation, &self.connection, &self.context) {
                Ok(client) => (current.client, current.stamps) = (client, stamps),
                // Half of what is replaced together may not be there yet.
                Err(error) => {
                    tracing::warn!(%error, "certificates have changed and cannot be used: the last ones stay")
                }
            }
        }
        current.client.clone()
    }

    /// Looks at the files when the next request is sent.
    pub fn look_soon(&self) {
        self.current().look_at = Instant::now();
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RotatedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotatedClient").field("operation", &self.operation).finish_non_exhaustive()
    }
}
