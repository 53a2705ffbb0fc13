//! Where records come from.

use std::fmt;

use async_trait::async_trait;

use crate::{Error, ErrorKind, Page, PageLimits, Partition, Query, RecordId, Start, Timestamp};

/// A store of log records that can be read again and again.
///
/// The source is the queue: logship keeps no copy of a record, so whatever has not been delivered is read again from
/// here. Something that forgets (a socket, a subscriber) is first written to something that does not.
///
/// # Contract
/// 1. [`read`](Source::read) MUST give records strictly after `start`, in the order of their positions, each exactly
///    once while reading on from page to page.
/// 2. The same row MUST have the same [`RecordId`] on every read, in every process, and no other row may have it.
/// 3. A record that the query wants MUST NOT be passed over: [`Page::next`] may only lie behind records that were
///    given or that the query does not want.
/// 4. A page without records MUST NOT be taken for the end: [`PageEnd::CaughtUp`](crate::PageEnd::CaughtUp) says so
///    explicitly. A page that ends with [`PageEnd::More`](crate::PageEnd::More) MUST move [`Page::next`] forward.
/// 5. A page MUST NOT hold more than the limits allow, but one record is always given, however large. Nor may it give
///    or pass records from [`PageLimits::until`] on.
/// 6. An error in the middle of a page MUST be returned as an error, never as a short page.
/// 7. [`read`](Source::read) MUST be safe to drop at any await, and to call from several tasks at once; so MUST
///    [`delete`](Source::delete).
/// 8. [`delete`](Source::delete) MUST delete exactly the records named; one that is gone already is no error. With no
///    names it says whether the source can delete.
/// 9. Where [`arrival_order`](Source::arrival_order) is [`Bounded`](ArrivalOrder::Bounded), positions MUST be in the
///    order of [`LogRecord::timestamp`](crate::LogRecord::timestamp), as far as it is known.
/// 10. After [`horizon`](Source::horizon) has given a time, no record older than that MAY become readable, other than
///     by a writer whose clock is wrong.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// What kind of source this is, as a configuration names it.
    fn kind(&self) -> &'static str;

    /// What makes stored offsets of this source comparable: table and mapping, topic, folder; neither host nor
    /// credentials. One line; kept with the offset, and compared before an offset is used.
    fn fingerprint(&self) -> String;

    /// In which order records become readable. By default [`ArrivalOrder::Total`].
    fn arrival_order(&self) -> ArrivalOrder {
        ArrivalOrder::Total
    }

    /// The partitions there are now. Called again while running, as partitions may appear.
    async fn partitions(&self) -> Result<Vec<Partition>, Error>;

    /// Reads on behind `start`. Returns at once when there is nothing new.
    async fn read(
        &self,
        partition: &Partition,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Result<Page, Error>;

    /// Before which time nothing more can appear, where the source can tell: a database that knows its open
    /// transactions says when the oldest one began. Records from then on wait until it has ended. Asked before a read,
    /// and only for sources whose order of arrival is [`Bounded`](ArrivalOrder::Bounded). By default not known.
    async fn horizon(&self) -> Result<Option<Timestamp>, Error> {
        Ok(None)
    }

    /// Waits until there may be something new. By default never returns, and the engine asks again after its
    /// [`poll_interval`](crate::LogShipperBuilder::poll_interval); a source that is told of new records may be faster.
    async fn changed(&self) {
        std::future::pending::<()>().await;
    }

    /// Whether the source can be reached and looks as configured. Called before the first read of a run.
    async fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Deletes these records and says how many there were. By default unsupported.
    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        let _ = ids;
        Err(Error::new(ErrorKind::Unsupported, "delete", format!("the source {} cannot delete", self.kind())))
    }
}

/// In which order records become readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArrivalOrder {
    /// Nothing ever appears behind a position that has been read: Kafka, Kinesis, files.
    Total,
    /// Records may appear behind a position that has been read: tables ordered by a time which the writer sets.
    Bounded,
}
