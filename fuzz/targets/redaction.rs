//! Redaction: a secret that stands in a text of anything is never left, whatever stands before and behind it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use logship::{Redaction, Transform};

static REDACTION: LazyLock<Redaction> = LazyLock::new(Redaction::builtin);

/// Secrets, and how they stand in texts.
const PLANTED: &[(&str, &str)] = &[
    ("QzXwVuTsRqPoNmLk", "Authorization: Bearer QzXwVuTsRqPoNmLk"),
    ("dXNlcjpRelh3VnVUc1JxUG8=", "authorization=[Basic dXNlcjpRelh3VnVUc1JxUG8=]"),
    ("QzXwVuTsRqPoNmLk", "postgres://app:QzXwVuTsRqPoNmLk@db.internal:5432/logs"),
    ("AKIAQZXWVUTSRQPONMLK", "signing with AKIAQZXWVUTSRQPONMLK."),
    ("QzXwVuTsRqPoNmLkQzXwVuTsRqPoNmLkQzXwVuTs", "aws_secret_access_key = QzXwVuTsRqPoNmLkQzXwVuTsRqPoNmLkQzXwVuTs"),
    ("QzXwVuTsRqPoNmLk", "-----BEGIN RSA PRIVATE KEY-----\nQzXwVuTsRqPoNmLk\n-----END RSA PRIVATE KEY-----"),
    ("eyJzdWIiOiJRelh3In0", "token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJRelh3In0.QzXwVuTsRqPoNmLkQzXw"),
    ("4111111111111111", "charged 4111111111111111 twice"),
    ("378282246310005", "card 378282246310005"),
    ("QzXwVuTsRqPoNmLk", "{\"user\":\"u\",\"password\":\"QzXwVuTsRqPoNmLk\"}"),
    (
        "ghp_QzXwVuTsRqPoNmLkQzXwVuTsRqPoNmLkQzXw",
        "remote: https://ghp_QzXwVuTsRqPoNmLkQzXwVuTsRqPoNmLkQzXw@github.com/x",
    ),
    ("sk_live_QzXwVuTsRqPoNmLkQzXw", "Stripe said no to sk_live_QzXwVuTsRqPoNmLkQzXw"),
];

fuzz_target!(|data: &[u8]| {
    let mut bytes = Unstructured::new(data);
    let Ok((secret, said)) = bytes.choose(PLANTED) else { return };
    let (Ok(before), Ok(behind)) = (bytes.arbitrary::<&str>(), bytes.arbitrary::<&str>()) else { return };
    let text = format!("{before}\n{said}\n{behind}");
    // Where the text around it says the same, or is as good as a part of it, there is nothing to find.
    if !before.contains(secret) && !behind.contains(secret) {
        let redacted = REDACTION.text(&text);
        assert!(!redacted.contains(secret), "{text:?} became {redacted:?}");
    }
    if let Ok(mut record) = logship_fuzz::record(&mut bytes) {
        let id = record.id.clone();
        record.attributes.push(("note".into(), text.into()));
        REDACTION.apply(&mut record);
        assert_eq!(record.id, id);
    }
});
