//! What an offset store keeps of one key, for stores that keep it in one piece.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Lease, OffsetKey, Offsets, OffsetsDelta, Timestamp};

/// All that an [`OffsetStore`](crate::OffsetStore) keeps of one key, in one text: the offsets of its lanes, the epoch
/// of its newest lease, and who holds that until when.
///
/// For stores that can replace a text under a name and nothing else may come between: a table of two columns, a bucket
/// with conditional writes, a key-value store. Such a store reads the text, makes the change here, which is refused
/// where the contract says so, and writes the text back. Each method is one of the trait's.
///
/// ```
/// use std::time::Duration;
/// use logship_core::{OffsetDocument, OffsetKey, OffsetsDelta, Timestamp};
///
/// let (key, now) = (OffsetKey::new("LogShipper-state")?, Timestamp::now());
/// let mut document = OffsetDocument::read(&key, None)?;
/// let lease = document.acquire("worker-7", Duration::from_secs(30), now)?;
/// assert!(document.acquire("worker-8", Duration::from_secs(30), now).is_err());
/// document.commit(&lease, &OffsetsDelta::default())?;
/// let text = document.write()?;
/// assert_eq!(OffsetDocument::read(&key, Some(&text))?.offsets(), document.offsets());
/// # Ok::<(), logship_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffsetDocument {
    version: u32,
    key: OffsetKey,
    epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<Holder>,
    offsets: Offsets,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Holder {
    owner: String,
    expires: Timestamp,
}

/// The version of the text's form.
const VERSION: u32 = 1;

impl OffsetDocument {
    /// What is stored of a key; without a text, what is kept of a key that nobody has used.
    ///
    /// # Errors
    /// [`ErrorKind::State`] when the text cannot be read, has a newer form, or belongs to another key.
    pub fn read(key: &OffsetKey, stored: Option<&str>) -> Result<Self, Error> {
        let Some(text) = stored else {
            let (key, offsets) = (key.clone(), Offsets::default());
            return Ok(OffsetDocument { version: VERSION, key, epoch: 0, holder: None, offsets });
        };
        let unreadable = |message: String| Err(Error::new(ErrorKind::State, "read offsets", message).with("key", key));
        match serde_json::from_str::<OffsetDocument>(text) {
            Ok(document) if document.version != VERSION => {
                unreadable(format!("they are of version {}, written by a newer program", document.version))
            }
            Ok(document) if document.key != *key => unreadable(format!("they belong to the key `{}`", document.key)),
            Ok(document) => Ok(document),
            Err(error) => unreadable("what is stored cannot be read; put back a backup, or reset the key".to_owned())
                .map_err(|unreadable| unreadable.with_source(error)),
        }
    }

    /// The text to store.
    ///
    /// # Errors
    /// [`ErrorKind::Unexpected`], which does not happen with offsets that the engine made.
    pub fn write(&self) -> Result<String, Error> {
        let failed = |error| {
            Error::new(ErrorKind::Unexpected, "write offsets", "they cannot be written as JSON").with_source(error)
        };
        serde_json::to_string_pretty(self).map_err(failed)
    }

    /// How far each lane has come.
    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// Takes the lease, by the store's time.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while somebody else holds it.
    pub fn acquire(&mut self, owner: &str, ttl: Duration, now: Timestamp) -> Result<Lease, Error> {
        self.require_free("acquire lease", now)?;
        self.epoch += 1;
        self.holder = Some(Holder { owner: owner.to_owned(), expires: now.saturating_add(ttl) });
        Ok(Lease { key: self.key.clone(), epoch: self.epoch })
    }

    /// Makes the lease last for `ttl` from now.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] when it is lost.
    pub fn renew(&mut self, lease: &Lease, ttl: Duration, now: Timestamp) -> Result<(), Error> {
        self.require_held("renew lease", lease)?.expires = now.saturating_add(ttl);
        Ok(())
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// None: to give back what is lost changes nothing.
    pub fn release(&mut self, lease: &Lease) -> Result<(), Error> {
        if self.require_held("release lease", lease).is_ok() {
            self.holder = None;
        }
        Ok(())
    }

    /// Takes over what a commit says.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] when the lease is lost.
    pub fn commit(&mut self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        self.require_held("commit offsets", lease)?;
        self.offsets.apply(delta);
        Ok(())
    }

    /// Forgets the offsets of a lane, or of all.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while somebody holds the lease.
    pub fn reset(&mut self, lane: Option<&str>, now: Timestamp) -> Result<(), Error> {
        self.require_free("reset offsets", now)?;
        // A holder whose lease expired must not put back what was forgotten.
        self.epoch += 1;
        self.holder = None;
        match lane {
            Some(lane) => drop(self.offsets.lanes.remove(lane)),
            None => self.offsets = Offsets::default(),
        }
        Ok(())
    }

    fn require_free(&self, operation: &'static str, now: Timestamp) -> Result<(), Error> {
        match &self.holder {
            Some(holder) if holder.expires > now => {
                let (key, owner) = (&self.key, &holder.owner);
                let message = format!("the offsets of `{key}` are held by {owner}; wait until it is done, or stop it");
                Err(Error::new(ErrorKind::Busy, operation, message))
            }
            _ => Ok(()),
        }
    }

    fn require_held(&mut self, operation: &'static str, lease: &Lease) -> Result<&mut Holder, Error> {
        match &mut self.holder {
            Some(holder) if self.epoch == lease.epoch && self.key == lease.key => Ok(holder),
            _ => {
                let key = &lease.key;
                let message =
                    format!("the lease of the offsets of `{key}` is lost: it was given back or somebody newer took it");
                Err(Error::new(ErrorKind::Fenced, operation, message).with("epoch", lease.epoch))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> OffsetKey {
        OffsetKey::new("k").unwrap()
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_says_why() {
        let text = OffsetDocument::read(&key(), None).unwrap().write().unwrap();
        let other = OffsetKey::new("other").unwrap();
        for (key, text, why) in [
            (key(), "{".to_owned(), "backup"),
            (key(), text.replace("\"version\": 1", "\"version\": 2"), "newer program"),
            (other, text.clone(), "belong to the key `k`"),
        ] {
            let error = OffsetDocument::read(&key, Some(&text)).unwrap_err();
            assert!(error.kind() == ErrorKind::State && error.to_string().contains(why), "{error}");
        }
        assert_eq!(OffsetDocument::read(&key(), Some(&text)).unwrap().write().unwrap(), text);
    }

    #[test]
    fn an_expired_lease_that_nobody_took_can_still_be_renewed() {
        let (mut document, ttl) = (OffsetDocument::read(&key(), None).unwrap(), Duration::from_secs(30));
        let lease = document.acquire("a", ttl, Timestamp::from_secs(0)).unwrap();
        document.renew(&lease, ttl, Timestamp::from_secs(40)).unwrap();
        assert_eq!(document.acquire("b", ttl, Timestamp::from_secs(69)).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(document.acquire("b", ttl, Timestamp::from_secs(70)).unwrap().epoch, lease.epoch + 1);
        assert_eq!(document.renew(&lease, ttl, Timestamp::from_secs(71)).unwrap_err().kind(), ErrorKind::Fenced);
    }
}
