//! Keeps our own credentials out of what a destination says: some repeat the request they refuse, headers and all, and
//! their words are shown in errors and kept in dead letters.

use std::fmt;

use bytes::Bytes;

/// Shorter texts may be words of any answer, and hiding them would change what it says.
const LENGTH_MIN: usize = 10;

/// What is not to be seen in an answer.
#[derive(Clone, Default)]
pub(crate) struct Concealed(Vec<Vec<u8>>);

impl Concealed {
    /// Hides the credentials of a header such as `Basic dXNlcjpwYXNzd29yZA==`, or a part of an address.
    pub(crate) fn add(&mut self, text: &[u8]) {
        let secret = text.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        if secret.len() >= LENGTH_MIN {
            self.0.push(secret.to_vec());
        }
    }

    /// An answer without them.
    pub(crate) fn hide(&self, answer: Bytes) -> Bytes {
        self.0.iter().fold(answer, |answer, secret| {
            let finder = memchr::memmem::Finder::new(secret);
            if finder.find(&answer).is_none() {
                return answer;
            }
            let (mut clean, mut rest) = (Vec::with_capacity(answer.len()), &answer[..]);
            while let Some(at) = finder.find(rest) {
                clean.extend_from_slice(&rest[..at]);
                clean.extend_from_slice(b"***");
                rest = &rest[at + secret.len()..];
            }
            clean.extend_from_slice(rest);
            clean.into()
        })
    }
}

impl fmt::Debug for Concealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_repeats_of_our_credentials_is_hidden() {
        let mut concealed = Concealed::default();
        for secret in ["Basic dXNlcjpwYXNzd29yZA==", "a-long-token", "short"] {
            concealed.add(secret.as_bytes());
        }
        let answer = Bytes::from_static(b"a-long-token: Basic dXNlcjpwYXNzd29yZA== a-long-token short\xff");
        assert_eq!(concealed.hide(answer), &b"***: Basic *** *** short\xff"[..]);
        assert_eq!(concealed.hide(Bytes::from_static(b"plain")), &b"plain"[..]);
    }
}
