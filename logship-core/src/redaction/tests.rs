use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;
use crate::{Cursor, ErrorKind, Partition, RecordId, Timestamp};

fn record() -> LogRecord {
    LogRecord::new(RecordId::new(Partition::new("logs"), Cursor::number(1)), Timestamp::from_secs(0))
}

/// Random text of these characters.
fn text(rng: &mut fastrand::Rng, characters: &str, length: usize) -> String {
    let characters: Vec<char> = characters.chars().collect();
    (0..length).map(|_| characters[rng.usize(0..characters.len())]).collect()
}

const WORD: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A number of this many digits that passes the Luhn check.
fn card(rng: &mut fastrand::Rng, begin: &str, digits: usize) -> String {
    let mut number = begin.to_owned() + &text(rng, "0123456789", digits - begin.len() - 1);
    let check = (0..10).find(|check| is_card(&format!("{number}{check}"))).unwrap();
    number.push_str(&check.to_string());
    number
}

/// A secret of one of the kinds, and a text in which it stands as it does in logs.
fn planted(rng: &mut fastrand::Rng, kind: usize) -> (String, String) {
    let secret = text(rng, WORD, 24);
    match kind {
        0 => (secret.clone(), format!("GET /x HTTP/1.1\nAuthorization: Bearer {secret}\nAccept: */*")),
        1 => {
            let pair = STANDARD.encode(format!("user:{secret}"));
            (pair.clone(), format!("authorization=[Basic {pair}]"))
        }
        2 => (secret.clone(), format!("cannot connect to postgres://app:{secret}@db.internal:5432/logs?sslmode=off")),
        3 => {
            let id = format!("AKIA{}", text(rng, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16));
            (id.clone(), format!("signing with {id}."))
        }
        4 => {
            let key = text(rng, WORD, 40);
            (key.clone(), format!("[default]\naws_secret_access_key = {key}\nregion = eu-west-1"))
        }
        5 => {
            let body = text(rng, WORD, 64);
            let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----");
            (body, format!("loaded\n{pem}\ndone"))
        }
        6 => {
            let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
            let claims = part(&format!("{{\"sub\":\"{secret}\"}}"));
            let token = format!("{}.{claims}.{}", part("{\"alg\":\"HS256\"}"), text(rng, WORD, 43));
            (claims, format!("token accepted: {token}"))
        }
        7 => {
            let number = card(rng, "4", 16);
            (number.clone(), format!("charged {number} twice"))
        }
        8 => {
            let number = card(rng, "5", 16);
            let spaced = format!("{} {} {} {}", &number[..4], &number[4..8], &number[8..12], &number[12..]);
            (spaced.clone(), format!("card: {spaced}"))
        }
        9 => (secret.clone(), format!("{{\"user\":\"u\",\"password\":\"{secret}\"}}")),
        10 => (secret.clone(), format!("curl -d client_secret={secret}&grant=x")),
        11 => {
            let token = format!("ghp_{}", text(rng, WORD, 36));
            (token.clone(), format!("remote: https://{token}@github.com/x"))
        }
        _ => {
            let key = format!("sk_live_{}", text(rng, WORD, 24));
            (key.clone(), format!("Stripe said no to {key}"))
        }
    }
}

/// Goal: P12. Method: 300 secrets of every kind, each in every place that a record has.
#[test]
fn p12_of_three_hundred_planted_secrets_none_is_left() {
    let redaction = Redaction::builtin();
    let mut rng = fastrand::Rng::with_seed(300);
    for number in 0..300 {
        let (secret, said) = planted(&mut rng, number % 13);
        let mut record = record();
        record.body = said.as_str().into();
        record.severity_text = Some(said.as_str().into());
        record.attributes = vec![
            ("plain".into(), said.as_str().into()),
            ("nested".into(), Value::Map(vec![(said.as_str().into(), Value::Array(vec![said.as_str().into()]))])),
            ("bytes".into(), Value::Bytes(said.clone().into_bytes().into())),
            ("api_key".into(), secret.as_str().into()),
            ("db.password".into(), Value::Array(vec![secret.as_str().into()])),
        ];
        record.resource = Arc::new(Resource { attributes: vec![("command".into(), said.as_str().into())] });
        let before = record.clone();
        redaction.apply(&mut record);
        let shown = format!("{record:?}") + &serde_json::to_string(&record).unwrap();
        let bytes = match record.attribute("bytes") {
            Some(Value::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        };
        assert!(!shown.contains(&secret) && !bytes.contains(&secret), "kind {}: {said}\nleft {shown}", number % 13);
        assert_eq!((&record.id, record.timestamp), (&before.id, before.timestamp));
        let once = record.clone();
        redaction.apply(&mut record);
        assert_eq!(record, once, "a second time changes nothing");
    }
}

/// Goal: what is no secret stays. Method: what logs are full of.
#[test]
fn what_is_no_secret_stays_as_it_is() {
    let redaction = Redaction::builtin();
    for text in [
        "2026-11-20T08:30:00.123456Z started in 1532 ms",
        "550e8400-e29b-41d4-a716-446655440000",
        "order 4111 1111 1111 1112 shipped",
        "sequence 1795163400123456789 of 0000000000000000",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "https://example.com:8443/path?x=1#frag and mailto:someone@example.com",
        "token is missing, password: null, secret=none",
        "basic information about bearer bonds",
        "no private key was found; public key: -----BEGIN PUBLIC KEY-----",
        "at com.company.Task.run(Task.java:42)",
        "",
    ] {
        assert!(matches!(redaction.text(text), Cow::Borrowed(_)), "{text} became {}", redaction.text(text));
    }
    let mut record = record();
    record.attributes = vec![("tokens".into(), 7.into()), ("attempt".into(), 1_795_163_400i64.into())];
    let before = record.clone();
    redaction.apply(&mut record);
    assert_eq!(record, before);
    assert!(Arc::ptr_eq(&record.resource, &before.resource), "a resource without secrets is shared on");
}

/// Goal: P12. Method: what one pattern finds, or nearly finds, is a part of what tells another of a secret.
#[test]
fn p12_what_stands_before_a_secret_does_not_hide_it() {
    let redaction = Redaction::builtin();
    for (text, secret) in [
        ("Bearer postgres://app:hunter2hunter@db", "hunter2hunter"),
        ("bearer\npassword12: password=hunter2hunter", "hunter2hunter"),
        ("password=#hunter2 and token: ***hunter2", "hunter2"),
        ("in 2026 378282246310005", "378282246310005"),
        ("4111-2026 4111 1111 1111 1111", "1111 1111"),
    ] {
        assert!(!redaction.text(text).contains(secret), "{text} became {}", redaction.text(text));
    }
    let mut named = record();
    named.attributes = vec![("password".into(), "#hunter2".into()), ("token".into(), "#0123456789abcdef".into())];
    redaction.apply(&mut named);
    assert_eq!(named.attributes[0].1, "***".into());
    assert_eq!(named.attributes[1].1, "#0123456789abcdef".into(), "what was hashed before stays");
    // Much that is nearly a secret takes no longer than its length.
    let much = "token=#0123456789abcdef ".repeat(40_000) + " password=hunter2hunter";
    assert!(!redaction.text(&much).contains("hunter2"));
}

#[test]
fn secrets_are_masked_hashed_or_dropped_as_asked() {
    let key = Secret::new("k");
    let redaction = Redaction::none()
        .pattern(r"user=(?P<secret>\w+)", Redact::Hash)
        .unwrap()
        .pattern(r" \[debug\]", Redact::Drop)
        .unwrap()
        .field("card*", Redact::Drop)
        .unwrap()
        .field("Pin", Redact::Mask)
        .unwrap()
        .emails(Redact::Mask)
        .hash_key(key);
    let text = redaction.text("user=ada [debug] wrote to ada@example.com as user=ada, not user=bob").into_owned();
    let hashes: Vec<&str> = text.split("user=").skip(1).map(|rest| &rest[..17]).collect();
    assert!(hashes[0].starts_with('#') && hashes[0] == hashes[1] && hashes[0] != hashes[2], "{text}");
    assert!(!text.contains("debug") && text.contains("wrote to *** as"), "{text}");
    let mut record = record();
    record.attributes = vec![("CardNumber".into(), 1.into()), ("pin".into(), 1234.into()), ("pins".into(), 3.into())];
    redaction.apply(&mut record);
    assert_eq!(record.attributes, [("pin".into(), "***".into()), ("pins".into(), 3.into())]);
}

#[test]
fn a_rule_that_cannot_be_is_refused_and_a_key_never_shows() {
    for wrong in [
        Redaction::none().pattern("(", Redact::Mask),
        Redaction::none().pattern("x*", Redact::Mask),
        Redaction::none().field("", Redact::Mask),
    ] {
        assert_eq!(wrong.unwrap_err().kind(), ErrorKind::Config);
    }
    assert!(!format!("{:?}", Redaction::none().hash_key(Secret::new("hunter2"))).contains("hunter2"));
}

proptest! {
    #[test]
    fn redacting_twice_is_redacting_once(text in "(\\PC|[ =:@/.\"\n]|password=|Bearer |://){0,40}") {
        static BUILTIN: LazyLock<Redaction> = LazyLock::new(Redaction::builtin);
        let redaction = &*BUILTIN;
        let once = redaction.text(&text).into_owned();
        prop_assert_eq!(redaction.text(&once).into_owned(), once);
    }
}
