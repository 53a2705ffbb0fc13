//! Checks a request's AWS Signature Version 4, by the steps of
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use std::fmt::Write;

use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit, Mac};
use logship_core::{Secret, Timestamp};
use sha2::{Digest, Sha256};

use super::super::stand::Call;

/// Who may sign, and for which region.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Signer {
    /// The id of the access key.
    pub access_key_id: String,
    /// The secret of the access key.
    pub secret_access_key: Secret,
    /// The token of temporary credentials.
    pub session_token: Option<Secret>,
    /// The region, such as `eu-west-1`.
    pub region: String,
}

impl Signer {
    /// This key in this region.
    pub fn new(access_key_id: &str, secret_access_key: &str, region: &str) -> Self {
        Signer {
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.into(),
            session_token: None,
            region: region.to_owned(),
        }
    }

    /// With the token of temporary credentials.
    #[must_use]
    pub fn session_token(mut self, token: &str) -> Self {
        self.session_token = Some(token.into());
        self
    }
}

const MISMATCH: &str = "The request signature we calculated does not match the signature you provided. Check your AWS \
                        Secret Access Key and signing method. Consult the service documentation for details.";

/// How far the clocks may be apart.
const SKEW_SECS: u64 = 5 * 60;

/// Whether a request was signed by this signer for this service; `Err` is what AWS says of it.
pub(super) fn verify(call: &Call, signer: &Signer, service: &str, now: Timestamp) -> Result<(), String> {
    let header = |name: &str| call.header(name);
    let missing = || "Missing Authentication Token".to_owned();
    let given = header("authorization").and_then(|text| text.strip_prefix("AWS4-HMAC-SHA256 ")).ok_or_else(missing)?;
    let part = |name: &str| given.split(", ").find_map(|part| part.strip_prefix(name)).ok_or_else(missing);
    let (credential, names, signature) = (part("Credential=")?, part("SignedHeaders=")?, part("Signature=")?);
    let time = header("x-amz-date").ok_or_else(missing)?;
    let date = time.get(..8).ok_or_else(missing)?;
    let invalid = "The security token included in the request is invalid.";
    let (key_id, scope) = credential.split_once('/').ok_or_else(missing)?;
    if key_id != signer.access_key_id {
        return Err(invalid.to_owned());
    }
    if scope != format!("{date}/{}/{service}/aws4_request", signer.region) {
        return Err(format!("Credential should be scoped to a valid region and to the service '{service}'."));
    }
    check_time(time, now)?;
    let signed: Vec<&str> = names.split(';').collect();
    let token = signer.session_token.as_ref().map(Secret::expose);
    if header("x-amz-security-token") != token {
        return Err(
            if token.is_some() { "The security token included in the request is expired" } else { invalid }.to_owned()
        );
    }
    let hash = hex(&Sha256::digest(&call.wire));
    let mut wanted = vec!["host", "x-amz-date"];
    wanted.extend(token.map(|_| "x-amz-security-token"));
    // "You must include the following headers: x-amz-content-sha256."
    // <https://docs.aws.amazon.com/opensearch-service/latest/developerguide/serverless-clients.html#serverless-signing>
    wanted.extend((service == "aoss").then_some("x-amz-content-sha256"));
    let is_wrong_hash = header("x-amz-content-sha256").is_some_and(|given| given != hash);
    if is_wrong_hash || !signed.is_sorted() || wanted.iter().any(|name| !signed.contains(name)) {
        return Err(MISMATCH.to_owned());
    }
    // It is set on the way, so nobody signs it for a collection.
    if service == "aoss" && signed.contains(&"content-length") {
        return Err(MISMATCH.to_owned());
    }
    let canonical = format!(
        "{}\n{}\n{}\n{}\n{names}\n{hash}",
        call.method,
        encoded(&call.path, true),
        canonical_query(&call.query),
        canonical_headers(&call.headers, &signed),
    );
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let first = format!("AWS4{}", signer.secret_access_key.expose());
    let key =
        [date, &signer.region, service, "aws4_request"].iter().fold(first.into_bytes(), |key, part| mac(&key, part));
    match hex(&mac(&key, &text)) == signature {
        true => Ok(()),
        false => Err(MISMATCH.to_owned()),
    }
}

fn check_time(time: &str, now: Timestamp) -> Result<(), String> {
    let digits = |from: usize, to: usize| time.get(from..to).unwrap_or_default();
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        digits(0, 4),
        digits(4, 6),
        digits(6, 8),
        digits(9, 11),
        digits(11, 13),
        digits(13, 15)
    );
    let signed = Timestamp::parse(&text).ok_or("Date must be in ISO-8601 'basic format'")?;
    match now.since(signed).max(signed.since(now)).as_secs() > SKEW_SECS {
        true => Err(format!("Signature expired: {time} is now earlier than {now}")),
        false => Ok(()),
    }
}

fn canonical_query(pairs: &[(String, String)]) -> String {
    let mut pairs: Vec<(String, String)> =
        pairs.iter().map(|(name, value)| (encoded(name, false), encoded(value, false))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// One line each, with a line feed behind the last.
fn canonical_headers(headers: &HeaderMap, names: &[&str]) -> String {
    names.iter().fold(String::new(), |mut lines, name| {
        let values = headers.get_all(*name).iter().filter_map(|value| value.to_str().ok());
        let values: Vec<String> = values.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let _ = writeln!(lines, "{name}:{}", values.join(","));
        lines
    })
}

/// With percent signs for all but letters, digits and `-._~`; of a path that was encoded before, once more.
fn encoded(text: &str, is_path: bool) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if is_path => out.push('/'),
            _ => drop(write!(out, "%{byte:02X}")),
        }
        out
    })
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    // A key of any length will do.
    Hmac::<Sha256>::new_from_slice(key).map_or_else(
        |_| Vec::new(),
        |mut mac| {
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        },
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// The example of <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-examples.html> for the key.
    #[test]
    fn the_signing_key_is_that_of_the_documents() {
        let parts = ["20120215", "us-east-1", "iam", "aws4_request"];
        let first = b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_vec();
        let key = parts.iter().fold(first, |key, part| mac(&key, part));
        assert_eq!(hex(&key), "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d");
    }

    /// The worked example of <https://docs.aws.amazon.com/general/latest/gr/sigv4-signed-request-examples.html>.
    #[test]
    fn the_signature_is_that_of_the_documents() {
        let signer = Signer::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "us-east-1");
        let signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        let authorization = |signature: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
                 SignedHeaders=content-type;host;x-amz-date, Signature={signature}"
            )
        };
        let call = |signature: &str, version: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                ("host", "iam.amazonaws.com"),
                ("x-amz-date", "20150830T123600Z"),
                ("authorization", &authorization(signature)),
            ] {
                headers.insert(name, value.parse().unwrap());
            }
            let query = [("Action", "ListUsers"), ("Version", version)];
            let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            Call { method: "GET".to_owned(), path: "/".to_owned(), query, headers, wire: Bytes::new() }
        };
        let now = Timestamp::parse("2015-08-30T12:40:00Z").unwrap();
        assert_eq!(verify(&call(signature, "2010-05-08"), &signer, "iam", now), Ok(()));
        assert_eq!(verify(&call(signature, "2010-05-09"), &signer, "iam", now), Err(MISMATCH.to_owned()));
        assert_eq!(
            verify(&call(&signature.replace('5', "6"), "2010-05-08"), &signer, "iam", now),
            Err(MISMATCH.to_owned())
        );
        let late = now.saturating_add(std::time::Duration::from_secs(600));
        assert!(verify(&call(signature, "2010-05-08"), &signer, "iam", late).unwrap_err().contains("expired"));
    }
}
