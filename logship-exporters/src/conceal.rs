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
            // The longest come first: of one that holds another no part is left over.
            let at = self.0.partition_point(|other| other.len() >= secret.len());
            self.0.insert(at, secret.to_vec());
        }
    }

    /// An answer without them, as long as before: a binary answer says how long its texts are.
    pub(crate) fn hide(&self, answer: Bytes) -> Bytes {
        self.0.iter().fold(answer, |answer, secret| {
            let finder = memchr::memmem::Finder::new(secret);
            if finder.find(&answer).is_none() {
                return answer;
            }
            let mut clean = answer.to_vec();
            let mut from = 0;
            while let Some(at) = finder.find(&clean[from..]) {
                let end = from + at + secret.len();
                clean[from + at..end].fill(b'*');
                from = end;
            }
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
        let stars = |text: &str| "*".repeat(text.len());
        let (basic, token) = (stars("dXNlcjpwYXNzd29yZA=="), stars("a-long-token"));
        let hidden = [format!("{token}: Basic {basic} {token} short").as_bytes(), b"\xff"].concat();
        assert_eq!(concealed.hide(answer), &hidden[..]);
        assert_eq!(concealed.hide(Bytes::from_static(b"plain")), &b"plain"[..]);
    }

    #[test]
    fn of_a_secret_within_another_no_part_is_left_over() {
        let mut concealed = Concealed::default();
        concealed.add(b"tenant-token");
        concealed.add(b"acme:tenant-token:rest");
        let answer = Bytes::from_static(b"<acme:tenant-token:rest> <tenant-token>");
        assert_eq!(concealed.hide(answer), &b"<**********************> <************>"[..]);
    }
}
