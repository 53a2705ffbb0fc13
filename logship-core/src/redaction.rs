//! Keeps secrets out of everything that leaves.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use regex::{Regex, RegexSet};
use serde::Deserialize;
use sha2::Sha256;

use crate::{BuildContext, Error, LogRecord, Resource, Secret, SecretRef, Text, Transform, Value};

/// Finds secrets in records, by the names of fields and by what they look like, and puts something harmless in their
/// place. Looks at the body, at attributes however deep, at the resource and at the severity's text; not at ids.
///
/// ```
/// use logship_core::{Redact, Redaction};
///
/// let redaction = Redaction::builtin().field("*password*", Redact::Mask)?.pattern("order-[0-9]+", Redact::Drop)?;
/// assert_eq!(redaction.text("Authorization: Bearer abcdef0123456789"), "Authorization: ***");
/// # Ok::<(), logship_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Redaction {
    fields: Vec<FieldRule>,
    patterns: Vec<Pattern>,
    /// All patterns at once: a text in which none of them occurs is read once, and left as it is.
    any: RegexSet,
    key: Option<Secret>,
}

/// What a configuration says of a [`Redaction`].
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RedactionConfig {
    /// Masks what [`Redaction::builtin`] finds. Default true.
    pub builtin: bool,
    /// Masks addresses of electronic mail. Default false.
    pub emails: bool,
    /// Fields by name, in any case; `*` stands for anything. What each becomes: `mask`, `hash` or `drop`.
    pub fields: Vec<(String, Redact)>,
    /// Regular expressions, and what their finds become.
    pub patterns: Vec<(String, Redact)>,
    /// With what hashes are keyed.
    pub hash_key: Option<SecretRef>,
}

impl Default for RedactionConfig {
    fn default() -> Self {
        RedactionConfig { builtin: true, emails: false, fields: Vec::new(), patterns: Vec::new(), hash_key: None }
    }
}

/// What is put in the place of a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Redact {
    /// `***`
    #[default]
    Mask,
    /// `#` and sixteen hexadecimal digits of an HMAC-SHA-256 with the redaction's key: the same secret has the same
    /// digits, so that records can be found by it. Masks where there is no key.
    Hash,
    /// Nothing: a field is left out, a text is closed over the gap.
    Drop,
}

#[derive(Clone, Debug)]
struct FieldRule {
    name: Regex,
    redact: Redact,
}

#[derive(Clone, Debug)]
struct Pattern {
    regex: Regex,
    redact: Redact,
    /// What is found is only meant if this holds.
    check: Check,
}

/// A secret in a text, and what becomes of it.
struct Found {
    secret: Range<usize>,
    redact: Redact,
}

/// How often a text in which there was a secret is looked at again, at most.
const ROUNDS_MAX: usize = 4;

/// What is found and is none may hold the beginning of one, as the digits before a card's number do. In longer finds,
/// which only look like a whole, it is not looked for: that would take the square of their length.
const SEARCHED_AGAIN_MAX: usize = 64;

impl Pattern {
    /// Finds the secrets in a text.
    fn find(&self, text: &str, mut found: impl FnMut(Range<usize>)) {
        let mut at = 0;
        while let Some(captures) = self.regex.captures_at(text, at) {
            let Some(whole) = captures.get(0) else { return };
            let secret = captures.name("secret").unwrap_or(whole);
            let is_secret = !secret.is_empty() && !is_replaced(secret.as_str()) && (self.check)(secret.as_str());
            if is_secret {
                found(secret.range());
            }
            let again = !is_secret && whole.len() <= SEARCHED_AGAIN_MAX;
            at = if again || whole.is_empty() { text.ceil_char_boundary(whole.start() + 1) } else { whole.end() };
            if at > text.len() || whole.start() == text.len() {
                return;
            }
        }
    }
}

/// Whether what was found is one.
type Check = fn(&str) -> bool;

/// What secrets look like. Where a pattern has a group named `secret`, only that is replaced.
const BUILTIN: &[(&str, Check)] = &[
    // Authorization headers: <https://www.rfc-editor.org/rfc/rfc6750#section-2.1>, <https://www.rfc-editor.org/rfc/rfc7617>.
    (r"(?i)\b(?:bearer|apikey|splunk)\s+[a-z0-9\-._~+/]{8,}=*", always),
    (r"(?i)\bbasic\s+(?P<secret>[a-z0-9+/]{6,}={0,2})", is_base64_of_pair),
    // The password in a URL: <https://www.rfc-editor.org/rfc/rfc3986#section-3.2.1>.
    (r#"(?i)\b[a-z][a-z0-9+.\-]{1,30}://[^\s/:@"']{0,256}:(?P<secret>[^\s/"']{1,512})@"#, always),
    // AWS: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids>.
    (r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", always),
    (r#"(?i)\b(?:aws_?)?secret_?(?:access_?)?key["']?\s*[:=]\s*["']?(?P<secret>[a-z0-9/+]{40})\b"#, always),
    // PEM: <https://www.rfc-editor.org/rfc/rfc7468>. One that is cut off is as secret.
    (r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\z)", always),
    // JSON web tokens: the first part is `{"` in base64.
    (r"\beyJ[A-Za-z0-9_\-]{5,}\.[A-Za-z0-9_\-]{5,}(?:\.[A-Za-z0-9_\-]*)?", always),
    // Tokens that name their issuer: GitHub, GitLab, Slack, Stripe, Google.
    (r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{60,}|glpat-[\w\-]{20,}|xox[abeoprs]-[A-Za-z0-9\-]{10,})", always),
    (r"\b(?:[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|AIza[\w\-]{35})", always),
    // What says itself that it is one.
    (
        r#"(?i)(?:password|passwd|pwd|passphrase|secret|token|api[_\-]?key|access[_\-]?key|client[_\-]?secret)["']?\s*[=:]\s*["']?(?P<secret>[^\s"',;&}\])]{3,})"#,
        is_no_word_of_ours,
    ),
    // Numbers of payment cards: <https://www.iso.org/standard/70484.html>.
    (r"\b[2-6]\d{3}(?:[ \-]?\d{4}){2}[ \-]?\d{1,7}\b|\b3\d{3}[ \-]?\d{6}[ \-]?\d{5}\b", is_card),
];

const EMAIL: &str = r"(?i)\b[a-z0-9._%+\-]{1,64}@[a-z0-9.\-]{1,253}\.[a-z]{2,24}\b";

fn always(_: &str) -> bool {
    true
}

/// `user:password`, as a basic header has it; the word `basic` stands in texts, too.
fn is_base64_of_pair(text: &str) -> bool {
    use base64::Engine;
    let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
    engine
        .decode(text.trim_end_matches('='))
        .is_ok_and(|bytes| bytes.contains(&b':') && std::str::from_utf8(&bytes).is_ok())
}

/// Values that say that there is none.
fn is_no_word_of_ours(text: &str) -> bool {
    const NONE: [&str; 7] = ["null", "none", "nil", "true", "false", "<nil>", "undefined"];
    !NONE.iter().any(|none| none.eq_ignore_ascii_case(text))
}

/// What stands in the place of a secret: passwords may begin like it.
fn is_replaced(text: &str) -> bool {
    let is_hex = |digits: &str| digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    text == "***" || text.strip_prefix('#').is_some_and(is_hex)
}

/// Thirteen to nineteen digits whose Luhn sum is a multiple of ten.
fn is_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|character| character.to_digit(10)).collect();
    let doubled = |digit: u32| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let sum: u32 =
        digits.iter().rev().enumerate().map(|(at, digit)| if at % 2 == 1 { doubled(*digit) } else { *digit }).sum();
    (13..=19).contains(&digits.len()) && sum.is_multiple_of(10) && digits.iter().any(|digit| *digit != digits[0])
}

impl Redaction {
    /// Finds nothing, until it is told what.
    pub fn none() -> Self {
        Redaction { fields: Vec::new(), patterns: Vec::new(), any: RegexSet::empty(), key: None }
    }

    /// Masks what looks like a secret: bearer and basic headers, passwords in URLs, keys of AWS, private keys, JSON web
    /// tokens, tokens of well-known issuers, `password=` and the like, numbers of payment cards that pass the Luhn
    /// check; and the fields `password`, `secret`, `token`, `authorization`, `api_key` and their like.
    pub fn builtin() -> Self {
        let names = r"(?i)^(?:.*[._\-])?(?:password|passwd|pwd|passphrase|secret|token|authorization|api[_\-]?key|access[_\-]?key|client[_\-]?secret|private[_\-]?key|credentials?)$";
        let patterns = BUILTIN.iter().filter_map(|(pattern, check)| {
            Some(Pattern { regex: Regex::new(pattern).ok()?, redact: Redact::Mask, check: *check })
        });
        let fields = Regex::new(names).ok().map(|name| FieldRule { name, redact: Redact::Mask });
        let mut redaction =
            Redaction { fields: fields.into_iter().collect(), patterns: patterns.collect(), ..Redaction::none() };
        redaction.gather();
        redaction
    }

    /// As a configuration says.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a pattern that cannot be read or a key that is not there.
    pub fn new(config: RedactionConfig, context: &BuildContext) -> Result<Self, Error> {
        let mut redaction = if config.builtin { Redaction::builtin() } else { Redaction::none() };
        for (name, redact) in &config.fields {
            redaction = redaction.field(name, *redact)?;
        }
        for (pattern, redact) in &config.patterns {
            redaction = redaction.pattern(pattern, *redact)?;
        }
        if config.emails {
            redaction = redaction.emails(Redact::Mask);
        }
        let hashes = config.fields.iter().chain(&config.patterns).any(|(_, redact)| *redact == Redact::Hash);
        match config.hash_key {
            Some(key) => Ok(redaction.hash_key(context.secret("redaction.hash_key", &key)?)),
            None if hashes => Err(Error::config("redaction.hash_key", "`hash` needs a key")),
            None => Ok(redaction),
        }
    }

    /// Finds fields of this name, in any case; `*` stands for anything.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for an empty name.
    pub fn field(mut self, name: &str, redact: Redact) -> Result<Self, Error> {
        if name.is_empty() {
            return Err(Error::config("redaction.fields", "a field's name must not be empty"));
        }
        let pattern = format!("(?is)^{}$", regex::escape(name).replace(r"\*", ".*"));
        let name = Regex::new(&pattern).map_err(|error| Error::config("redaction.fields", error.to_string()))?;
        self.fields.push(FieldRule { name, redact });
        Ok(self)
    }

    /// Finds texts that match this regular expression (<https://docs.rs/regex/latest/regex/#syntax>); where it has a
    /// group named `secret`, only that is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for one that cannot be read, or finds the empty text.
    pub fn pattern(mut self, pattern: &str, redact: Redact) -> Result<Self, Error> {
        let regex = Regex::new(pattern).map_err(|error| Error::config("redaction.patterns", error.to_string()))?;
        if regex.is_match("") {
            return Err(Error::config(
                "redaction.patterns",
                format!("`{pattern}` finds the empty text, which is everywhere"),
            ));
        }
        self.patterns.push(Pattern { regex, redact, check: always });
        self.gather();
        Ok(self)
    }

    /// Finds addresses of electronic mail as well.
    #[must_use]
    pub fn emails(mut self, redact: Redact) -> Self {
        self.patterns.extend(Regex::new(EMAIL).ok().map(|regex| Pattern { regex, redact, check: always }));
        self.gather();
        self
    }

    /// With what [`Redact::Hash`] is keyed.
    #[must_use]
    pub fn hash_key(mut self, key: Secret) -> Self {
        self.key = Some(key);
        self
    }

    fn gather(&mut self) {
        let patterns = self.patterns.iter().map(|pattern| pattern.regex.as_str());
        // Each of them was read before. Should all of them together be too large, each is looked for by itself.
        self.any = RegexSet::new(patterns).unwrap_or_else(|_| RegexSet::empty());
    }

    /// A text without its secrets.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut clean = self.text_once(text);
        // What was put in the place of a secret may make one of what stands beside it.
        for _ in 0..ROUNDS_MAX {
            let Cow::Owned(before) = &clean else { break };
            let Cow::Owned(after) = self.text_once(before) else { break };
            clean = Cow::Owned(after);
        }
        clean
    }

    fn text_once<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.any.len() == self.patterns.len() && !self.any.is_match(text) {
            return Cow::Borrowed(text);
        }
        // Every pattern looks at the text as it was: what one of them replaces could be what tells another of a secret.
        let mut found: Vec<Found> = Vec::new();
        for pattern in &self.patterns {
            pattern.find(text, |secret| found.push(Found { secret, redact: pattern.redact }));
        }
        found.sort_by_key(|found| found.secret.start);
        found.dedup_by(|next, kept| {
            let both_masked = next.redact == Redact::Mask && kept.redact == Redact::Mask;
            let is_one = next.secret.start < kept.secret.end + usize::from(both_masked);
            if is_one {
                kept.secret.end = kept.secret.end.max(next.secret.end);
            }
            is_one
        });
        let (mut clean, mut at) = (String::new(), 0);
        for Found { secret, redact } in found {
            clean.push_str(&text[at..secret.start]);
            at = secret.end;
            clean.push_str(&self.instead(&text[secret], redact));
        }
        clean.push_str(&text[at..]);
        // What was found and is none leaves the text as it was.
        if clean == text { Cow::Borrowed(text) } else { Cow::Owned(clean) }
    }

    /// What is put in the place of a secret.
    fn instead(&self, secret: &str, redact: Redact) -> String {
        match (redact, &self.key) {
            (Redact::Drop, _) => String::new(),
            (Redact::Hash, Some(key)) => match Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()) {
                Ok(mut mac) => {
                    mac.update(secret.as_bytes());
                    let digest = mac.finalize().into_bytes();
                    digest.iter().take(8).fold("#".to_owned(), |text, byte| format!("{text}{byte:02x}"))
                }
                Err(_) => "***".to_owned(),
            },
            _ => "***".to_owned(),
        }
    }

    /// Redacts the values of these names. `false` if there was nothing to redact.
    fn entries(&self, entries: &mut Vec<(Text, Value)>, names_are_data: bool) -> bool {
        let mut changed = false;
        entries.retain_mut(|(name, value)| {
            let rule = self.fields.iter().find(|rule| rule.name.is_match(name));
            match rule.map(|rule| rule.redact) {
                Some(Redact::Drop) => {
                    changed = true;
                    return false;
                }
                Some(redact) if *value != Value::Null => {
                    let text = self.instead(&serde_json::to_string(value).unwrap_or_default(), redact);
                    // What was redacted before stays as it is.
                    if !value.as_str().is_some_and(is_replaced) {
                        *value = text.into();
                        changed = true;
                    }
                }
                _ => changed |= self.value(value),
            }
            if names_are_data && let Cow::Owned(text) = self.text(name) {
                *name = text.into();
                changed = true;
            }
            true
        });
        changed
    }

    fn value(&self, value: &mut Value) -> bool {
        match value {
            Value::Null | Value::Bool(_) | Value::Double(_) => false,
            // A number may be one of a card.
            Value::Int(number) => {
                let Cow::Owned(redacted) = self.text(itoa::Buffer::new().format(*number)) else { return false };
                *value = redacted.into();
                true
            }
            Value::String(text) => {
                let Cow::Owned(redacted) = self.text(text) else { return false };
                *text = redacted.into();
                true
            }
            Value::Bytes(bytes) => {
                let Ok(text) = std::str::from_utf8(bytes) else { return false };
                let Cow::Owned(redacted) = self.text(text) else { return false };
                *bytes = redacted.into_bytes().into();
                true
            }
            Value::Array(values) => values.iter_mut().fold(false, |changed, value| self.value(value) | changed),
            Value::Map(entries) => self.entries(entries, true),
        }
    }
}

impl Transform for Redaction {
    fn apply(&self, record: &mut LogRecord) {
        self.value(&mut record.body);
        self.entries(&mut record.attributes, false);
        if let Some(text) = &mut record.severity_text
            && let Cow::Owned(redacted) = self.text(text)
        {
            *text = redacted.into();
        }
        let mut resource = record.resource.attributes.clone();
        if self.entries(&mut resource, false) {
            record.resource = Arc::new(Resource { attributes: resource });
        }
    }
}

#[cfg(test)]
mod tests;
