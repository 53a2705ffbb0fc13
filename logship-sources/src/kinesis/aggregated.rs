//! Records that Kinesis' Producer Library has put together into one
//! (<https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md>).

use std::ops::RangeInclusive;

use bytes::Bytes;
use md5::{Digest, Md5};
use prost::Message;

/// What such a record begins with.
const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
/// What it ends with: the MD5 digest of what is between.
const DIGEST_BYTES: usize = 16;

#[derive(Clone, PartialEq, Message)]
struct AggregatedRecord {
    #[prost(string, repeated, tag = "1")]
    partition_keys: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    explicit_hash_keys: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    records: Vec<UserRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct UserRecord {
    #[prost(uint64, tag = "1")]
    partition_key_index: u64,
    #[prost(uint64, optional, tag = "2")]
    explicit_hash_key_index: Option<u64>,
    #[prost(bytes = "bytes", tag = "3")]
    data: Bytes,
}

/// The hash keys that a shard takes.
pub(super) type HashKeys = RangeInclusive<u128>;

/// What was put together in this record, each with its number in it; nothing if it is a record like any other.
///
/// What belongs to another shard is left out: the library sends that again itself when it learns that a shard has been
/// split.
pub(super) fn disaggregated(data: &Bytes, shard: Option<&HashKeys>) -> Option<Vec<(u32, Bytes)>> {
    let body_end = data.len().checked_sub(DIGEST_BYTES).filter(|end| *end > MAGIC.len())?;
    if !data.starts_with(&MAGIC) {
        return None;
    }
    let body = data.slice(MAGIC.len()..body_end);
    if Md5::digest(&body)[..] != data[body_end..] {
        return None;
    }
    let all = AggregatedRecord::decode(body).ok()?;
    let is_ours = |record: &UserRecord| {
        let (Some(shard), Some(key)) = (shard, hash_key(&all, record)) else { return true };
        shard.contains(&key)
    };
    let numbered = (0..).zip(&all.records);
    Some(numbered.filter(|(_, record)| is_ours(record)).map(|(number, record)| (number, record.data.clone())).collect())
}

/// Which shard a record belongs to.
fn hash_key(all: &AggregatedRecord, record: &UserRecord) -> Option<u128> {
    if let Some(index) = record.explicit_hash_key_index {
        return all.explicit_hash_keys.get(usize::try_from(index).ok()?)?.parse().ok();
    }
    let key = all.partition_keys.get(usize::try_from(record.partition_key_index).ok()?)?;
    Some(u128::from_be_bytes(Md5::digest(key.as_bytes()).into()))
}

#[cfg(test)]
pub(super) fn aggregated(records: &[(&str, &str)]) -> Vec<u8> {
    let all = AggregatedRecord {
        partition_keys: records.iter().map(|(key, _)| (*key).to_owned()).collect(),
        explicit_hash_keys: Vec::new(),
        records: (0..)
            .zip(records)
            .map(|(index, (_, data))| UserRecord {
                partition_key_index: index,
                explicit_hash_key_index: None,
                data: Bytes::copy_from_slice(data.as_bytes()),
            })
            .collect(),
    };
    let body = all.encode_to_vec();
    [&MAGIC[..], &body, &Md5::digest(&body)[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_that_were_put_together_come_apart_in_their_order() {
        let data = Bytes::from(aggregated(&[("a", "one"), ("b", ""), ("a", "three")]));
        let expected = [(0, Bytes::from("one")), (1, Bytes::new()), (2, Bytes::from("three"))];
        assert_eq!(disaggregated(&data, None).unwrap(), expected);
    }

    /// A shard was split, and the producer did not know yet.
    #[test]
    fn what_belongs_to_another_shard_is_left_out_and_numbers_stay() {
        // The digests of the keys `a` and `b` begin with 0c and 92.
        let data = Bytes::from(aggregated(&[("a", "one"), ("b", "two")]));
        let half = u128::MAX / 2;
        assert_eq!(disaggregated(&data, Some(&(0..=half))).unwrap(), [(0, Bytes::from("one"))]);
        assert_eq!(disaggregated(&data, Some(&(half + 1..=u128::MAX))).unwrap(), [(1, Bytes::from("two"))]);
    }

    /// As the library's own readers have it.
    #[test]
    fn a_wrong_digest_makes_it_a_record_like_any_other() {
        let mut data = aggregated(&[("a", "one")]);
        *data.last_mut().unwrap() ^= 1;
        assert_eq!(disaggregated(&Bytes::from(data), None), None);
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>, is_signed: bool) {
            let data = if is_signed {
                [&MAGIC[..], &bytes, &Md5::digest(&bytes)[..]].concat()
            } else {
                [&MAGIC[..], &bytes].concat()
            };
            let _ = disaggregated(&Bytes::from(data), Some(&(0..=u128::MAX)));
        }
    }
}
