//! What a lane has shipped of the stretch in which records may still appear.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Cursor, Timestamp};

/// The stretch of a partition in front of a lane's cursor in which records may still appear, and which of its records
/// the lane has shipped. Kept with the cursor for sources whose order of arrival is
/// [`Bounded`](crate::ArrivalOrder::Bounded).
///
/// The lane reads the stretch again from time to time: what is in it and not in `seen` is late, and is shipped. A
/// record is kept as six bytes of a hash of its position, so that of a million late records three in a billion would
/// be taken for one that was shipped. There are at most [`Window::IDS_MAX`]; beyond that the oldest are forgotten, and
/// records that appear in that part of the stretch are left to a reconciliation.
///
/// A shipper that [deletes](crate::LogShipperBuilder::delete_shipped) what it has shipped keeps every record here, of any
/// source, until it is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Where the stretch begins: nothing appears any more at or before this position. Without one it begins where the
    /// lane did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<Cursor>,
    /// How many late records were shipped since the window was opened.
    #[serde(default)]
    pub late: u64,
    /// What was shipped, in the order in which it was.
    pub seen: Vec<Seen>,
}

/// Records that were shipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The last of their positions.
    pub to: Cursor,
    /// The time of the last one.
    pub time: Timestamp,
    /// What they are known by.
    pub ids: SeenIds,
}

/// Hashes of positions, six bytes each; as text in base64.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SeenIds(Vec<u8>);

const ID_BYTES: usize = 6;

/// Neighbouring entries are joined up to this many ids, so that a lane which ships a few records at a time does not
/// keep an entry for each time.
const JOINED_IDS_MAX: usize = 256;

impl Window {
    /// The most records that are kept: 6 MB in memory, 8 MB as text.
    pub const IDS_MAX: usize = 1_000_000;

    /// Takes up what was shipped.
    pub(crate) fn note(&mut self, seen: Seen, late: u64) {
        self.late += late;
        match self.seen.last_mut() {
            Some(last) if last.to <= seen.to && last.ids.len() + seen.ids.len() <= JOINED_IDS_MAX => {
                last.to = seen.to;
                last.time = last.time.max(seen.time);
                last.ids.0.extend_from_slice(&seen.ids.0);
            }
            _ => self.seen.push(seen),
        }
    }

    /// Nothing older than this appears any more: forgets what the stretch loses by that, unless it is kept until it has
    /// been deleted from the source.
    pub(crate) fn settle(&mut self, before: Timestamp, keep: bool) {
        let settled = self.seen.iter().take_while(|seen| seen.time < before);
        if let Some(end) = settled.map(|seen| &seen.to).max().cloned() {
            if !keep {
                self.seen.retain(|seen| seen.to > end);
            }
            self.after = self.after.take().max(Some(end));
        }
    }

    /// What was shipped up to here has been deleted from the source.
    pub(crate) fn was_deleted(&mut self, to: &Cursor) {
        self.seen.retain(|seen| seen.to > *to);
    }

    /// Whether it holds anything behind which records may still appear.
    pub(crate) fn is_open(&self) -> bool {
        self.seen.iter().rev().any(|seen| self.after.as_ref().is_none_or(|after| seen.to > *after))
    }

    /// Forgets the oldest records until there are no more than this. `false` if there was nothing to forget.
    pub(crate) fn keep_within(&mut self, ids_max: usize) -> bool {
        let mut ids: usize = self.ids_count();
        let mut forgotten = 0;
        for seen in &self.seen {
            if ids <= ids_max {
                break;
            }
            ids -= seen.ids.len();
            forgotten += 1;
            self.after = self.after.take().max(Some(seen.to.clone()));
        }
        self.seen.drain(..forgotten);
        forgotten > 0
    }

    /// How many records are kept.
    pub(crate) fn ids_count(&self) -> usize {
        self.seen.iter().map(|seen| seen.ids.len()).sum()
    }

    /// What all kept records are known by.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.seen.iter().flat_map(|seen| seen.ids.iter())
    }
}

impl SeenIds {
    /// What a position is known by: 48 bits, the same on every machine and in every version.
    pub fn id_of(position: &Cursor) -> u64 {
        // FNV-1a (<https://datatracker.ietf.org/doc/draft-eastlake-fnv/>), and the last step of MurmurHash3
        // (<https://github.com/aappleby/smhasher/blob/master/src/MurmurHash3.cpp>), without which positions that
        // differ in their last digit would differ in few bits.
        const PRIME: u64 = 0x0100_0000_01b3;
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in position.as_number().to_le_bytes().iter().chain(position.as_text().as_bytes()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (hash ^ (hash >> 33)) >> 16
    }

    /// Adds one.
    pub fn push(&mut self, id: u64) {
        self.0.extend_from_slice(&id.to_le_bytes()[..ID_BYTES]);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len() / ID_BYTES
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.chunks_exact(ID_BYTES).map(|id| {
            let mut bytes = [0; 8];
            bytes[..ID_BYTES].copy_from_slice(id);
            u64::from_le_bytes(bytes)
        })
    }
}

impl FromIterator<u64> for SeenIds {
    fn from_iter<I: IntoIterator<Item = u64>>(ids: I) -> Self {
        let mut seen = SeenIds::default();
        ids.into_iter().for_each(|id| seen.push(id));
        seen
    }
}

impl fmt::Debug for SeenIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ids", self.len())
    }
}

impl Serialize for SeenIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for SeenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = BASE64.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)?;
        match bytes.len() % ID_BYTES {
            0 => Ok(SeenIds(bytes)),
            _ => Err(serde::de::Error::custom("the ids of shipped records are cut off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn seen(numbers: std::ops::Range<i64>) -> Seen {
        let to = Cursor::number(numbers.end - 1);
        let time = Timestamp::from_secs(numbers.end - 1);
        Seen { to, time, ids: numbers.map(|number| SeenIds::id_of(&Cursor::number(number))).collect() }
    }

    #[test]
    fn neighbours_have_other_ids() {
        let positions =
            (0..200_000).flat_map(|number| [Cursor::number(number), Cursor::new(1, format!("k{number}").into())]);
        let ids: HashSet<u64> = positions.map(|position| SeenIds::id_of(&position)).collect();
        assert_eq!(ids.len(), 400_000);
        assert!(ids.iter().all(|id| *id < 1 << 48));
        // Stored ids outlive the program that made them.
        assert_eq!(SeenIds::id_of(&Cursor::new(7, "k".into())), SeenIds::id_of(&Cursor::new(7, "k".into())));
    }

    #[test]
    fn a_window_is_text_and_reads_back() {
        let mut window = Window { after: Some(Cursor::number(9)), ..Window::default() };
        window.note(seen(10..13), 1);
        let text = serde_json::to_string(&window).unwrap();
        assert!(
            text.starts_with(r#"{"after":"00000000000000000009","late":1,"seen":[{"to":"00000000000000000012""#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Window>(&text).unwrap(), window);
        assert!(serde_json::from_str::<SeenIds>("\"AAAA\"").is_err());
    }

    #[test]
    fn p4_a_window_forgets_only_what_nothing_can_join_any_more() {
        let mut window = Window::default();
        window.note(seen(0..300), 0);
        window.note(seen(300..600), 0);
        window.note(seen(100..101), 1);
        window.settle(Timestamp::from_secs(299), false);
        assert_eq!((window.after.clone(), window.ids_count()), (None, 601));
        window.settle(Timestamp::from_secs(300), false);
        // The late record lies in front of the new beginning, too.
        assert_eq!((window.after.clone(), window.ids_count()), (Some(Cursor::number(299)), 300));
        window.settle(Timestamp::from_secs(1_000), false);
        assert_eq!((window.after, window.seen.len(), window.late), (Some(Cursor::number(599)), 0, 1));
    }

    #[test]
    fn p7_a_window_keeps_what_is_not_deleted_yet() {
        let mut window = Window::default();
        window.note(seen(0..300), 0);
        window.note(seen(300..600), 0);
        window.settle(Timestamp::from_secs(400), true);
        assert_eq!(
            (window.after.clone(), window.ids_count(), window.is_open()),
            (Some(Cursor::number(299)), 600, true)
        );
        window.settle(Timestamp::from_secs(1_000), true);
        assert_eq!(
            (window.after.clone(), window.ids_count(), window.is_open()),
            (Some(Cursor::number(599)), 600, false)
        );
        window.was_deleted(&Cursor::number(299));
        assert_eq!((window.after.clone(), window.ids_count()), (Some(Cursor::number(599)), 300));
    }

    #[test]
    fn a_window_is_bounded() {
        let mut window = Window::default();
        (0..5).for_each(|part| window.note(seen(part * 300..(part + 1) * 300), 0));
        assert!(!window.keep_within(1_500));
        assert!(window.keep_within(1_000));
        assert_eq!(
            (window.after, window.seen.iter().map(|seen| seen.ids.len()).sum::<usize>()),
            (Some(Cursor::number(599)), 900)
        );
    }
}
