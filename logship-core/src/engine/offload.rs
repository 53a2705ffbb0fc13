//! Where work that keeps a processor busy is done.

use crate::{Error, ErrorKind};

/// Where encoding and packing run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CpuWork {
    /// On tokio's blocking pool, so that the threads which drive connections stay free.
    #[default]
    BlockingPool,
    /// In the task that asks for it: for simulations, which must not depend on threads, and for hosts whose runtime
    /// is theirs alone.
    Inline,
}

impl CpuWork {
    pub(crate) async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        match self {
            CpuWork::Inline => Ok(work()),
            CpuWork::BlockingPool => tokio::task::spawn_blocking(work).await.map_err(|error| {
                Error::new(ErrorKind::Unexpected, "encode", "the encoder panicked").with_source(error)
            }),
        }
    }
}
