//! Stand-ins for a run that only says what it would do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Capabilities, Chunk, Encoding, Error, ErrorKind, Exporter, Lease, Limits, OffsetKey, OffsetStore, OffsetsDelta,
    Outcome,
};

/// Offsets that nobody else sees, and that are gone afterwards.
#[derive(Debug)]
pub(crate) struct Offsets(crate::Offsets);

impl Offsets {
    pub(crate) fn new(offsets: crate::Offsets) -> Self {
        Offsets(offsets)
    }
}

#[async_trait]
impl OffsetStore for Offsets {
    fn kind(&self) -> &'static str {
        "rehearsal"
    }

    async fn acquire(&self, key: &OffsetKey, _owner: &str, _ttl: Duration) -> Result<Lease, Error> {
        Ok(Lease { key: key.clone(), epoch: 0 })
    }

    async fn renew(&self, _lease: &Lease, _ttl: Duration) -> Result<(), Error> {
        Ok(())
    }

    async fn release(&self, _lease: &Lease) -> Result<(), Error> {
        Ok(())
    }

    async fn load(&self, _key: &OffsetKey) -> Result<crate::Offsets, Error> {
        Ok(self.0.clone())
    }

    /// The run itself knows what it has committed, and nobody asks after it.
    async fn commit(&self, _lease: &Lease, _delta: &OffsetsDelta) -> Result<(), Error> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        Ok(Vec::new())
    }

    async fn reset(&self, _key: &OffsetKey, _lane: Option<&str>) -> Result<(), Error> {
        Err(Error::new(ErrorKind::Unsupported, "reset", "a plan has nothing to reset"))
    }
}

/// Looks like an exporter to the engine, and sends nothing.
pub(crate) struct Destination {
    kind: &'static str,
    limits: Limits,
    capabilities: Capabilities,
    encoding: Option<Arc<dyn Encoding>>,
}

impl Destination {
    pub(crate) fn of(exporter: &Arc<dyn Exporter>) -> Self {
        Destination {
            kind: exporter.kind(),
            limits: exporter.limits(),
            capabilities: exporter.capabilities(),
            encoding: exporter.encoding(),
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({})", self.kind)
    }
}

#[async_trait]
impl Exporter for Destination {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        self.encoding.clone()
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        Ok(Outcome::all_accepted(chunk.len()))
    }
}
