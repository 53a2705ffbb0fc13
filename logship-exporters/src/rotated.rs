//! Credentials that are read anew when they are no longer taken.

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use logship_core::{Error, ErrorKind};

/// What lets us in, and which of it did not. Several requests may have been under way with credentials that were
/// replaced: when one of them has found the new ones, the others have no reason to stop. So what is read anew is held
/// against what was refused, not against what is now in use.
pub(crate) struct Rotated<T>(RwLock<State<T>>);

struct State<T> {
    current: T,
    /// The last that was not let in.
    refused: Option<T>,
}

impl<T: Clone + PartialEq> Rotated<T> {
    pub(crate) fn new(current: T) -> Self {
        Rotated(RwLock::new(State { current, refused: None }))
    }

    /// What to send.
    pub(crate) fn value(&self) -> T {
        self.read().current.clone()
    }

    /// This was sent and not let in.
    pub(crate) fn refuse(&self, value: T) {
        self.write().refused = Some(value);
    }

    /// Uses this from now on; an error if it is what was not let in.
    pub(crate) fn renew(&self, fresh: T, operation: &'static str) -> Result<(), Error> {
        let mut state = self.write();
        if *state.refused.as_ref().unwrap_or(&state.current) == fresh {
            let message = "the credentials are still the ones that were not let in";
            return Err(Error::new(ErrorKind::Auth, operation, message));
        }
        state.current = fresh;
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Rotated<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
