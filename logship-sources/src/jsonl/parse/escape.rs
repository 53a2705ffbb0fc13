//! What stands behind a backslash in a string.

use super::{Fault, NO_END, Reader};

impl Reader<'_, '_> {
    /// The character that stands behind a backslash. Half of a surrogate pair is no character and is replaced.
    pub(super) fn escape(&mut self) -> Result<char, Fault> {
        Ok(match self.take().ok_or(NO_END)? {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            b'u' => {
                let first = self.hex()?;
                let behind = self.at;
                if (0xd800..0xdc00).contains(&first) && self.next_is(b'\\') && self.next_is(b'u') {
                    let second = self.hex()?;
                    if (0xdc00..0xe000).contains(&second) {
                        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    // What follows is a character of its own.
                    self.at = behind;
                }
                self.at = self.at.min(behind);
                char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return Err("an escape is unknown"),
        })
    }

    fn hex(&mut self) -> Result<u32, Fault> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.take().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or("an escape is unknown")?;
        }
        Ok(code)
    }
}
