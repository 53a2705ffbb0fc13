//! What JSON does not write as it is.

use wide::u8x16;

/// Where the first byte is that JSON escapes in a string: a quote, a backslash or a control character.
#[inline]
pub fn find_json_escape(bytes: &[u8]) -> Option<usize> {
    let (blocks, rest) = bytes.as_chunks::<16>();
    for (number, block) in blocks.iter().enumerate() {
        let found = escapes_of_block(*block);
        if found != 0 {
            return Some(number * 16 + found.trailing_zeros() as usize);
        }
    }
    let passed = blocks.len() * 16;
    // The last sixteen bytes again, of which the first are passed over, where there are as many.
    let found = match bytes.last_chunk::<16>() {
        Some(_) if rest.is_empty() => 0,
        Some(last) => escapes_of_block(*last) >> (16 - rest.len()),
        None => return find_escape_in_few(rest),
    };
    (found != 0).then(|| passed + found.trailing_zeros() as usize)
}

/// A bit for each byte that is to be escaped.
#[inline]
fn escapes_of_block(block: [u8; 16]) -> u32 {
    let block = u8x16::from(block);
    let is_control = block.min(u8x16::splat(0x1f)).simd_eq(block);
    (is_control | block.simd_eq(u8x16::splat(b'"')) | block.simd_eq(u8x16::splat(b'\\'))).to_bitmask()
}

/// The same in fewer than sixteen bytes.
fn find_escape_in_few(bytes: &[u8]) -> Option<usize> {
    let len = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        // Two words that overlap.
        return first_escape(*first).or_else(|| Some(first_escape(*last)? + len - 8));
    }
    if let (Some(&[a, b, c, d]), Some(&[w, x, y, z])) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        // Two halves of a word, which overlap.
        let found = first_escape([a, b, c, d, w, x, y, z])?;
        return Some(if found < 4 { found } else { found + len - 8 });
    }
    // The bytes there are, with spaces behind them.
    let mut word = [b' '; 8];
    word.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    first_escape(word)
}

/// Where the first byte is that is to be escaped.
#[inline]
fn first_escape(word: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 0x80;
    let word = u64::from_le_bytes(word);
    // The high bit of each byte that is zero, perhaps of some behind the first of them, and of none before it.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let controls = word.wrapping_sub(ONES * 0x20) & !word;
    let found = (controls | zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')))) & HIGHS;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn escapes_are_found_wherever_they_are(mut bytes in prop::collection::vec(0x20_u8.., 0..70), at in 0..70_usize, byte in 0_u8..) {
            bytes.iter_mut().filter(|byte| matches!(byte, b'"' | b'\\')).for_each(|byte| *byte = b' ');
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let expected = bytes.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\');
            prop_assert_eq!(find_json_escape(&bytes), expected);
        }

        #[test]
        fn the_first_of_several_escapes_is_found(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            let expected = bytes.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\');
            prop_assert_eq!(find_json_escape(&bytes), expected);
        }
    }
}
