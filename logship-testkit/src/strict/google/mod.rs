//! Who gives out Google's tokens, for the stand-ins of its services: a service account shows a text that it has signed.
//! <https://developers.google.com/identity/protocols/oauth2/service-account#httprest>

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use logship_core::Timestamp;
use ring::rsa::KeyPair;
use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value, json};

use super::stand::{Call, Reply};
use super::wire::parse_query;

/// Of nobody: made for tests.
const PRIVATE_KEY: &str = include_str!("service_account.pem");
/// The account that there is.
const ACCOUNT: &str = "logs@acme.iam.gserviceaccount.com";
/// How long a token is good for, and the longest that a signed text may be.
const LASTS: i64 = 3_600;
/// How far clocks may be apart.
const SKEW: i64 = 300;

/// The key of the service account, as the console gives it out; `token_uri` is where it asks for tokens.
pub fn service_account_key(project: &str, token_uri: &str) -> String {
    json!({
        "type": "service_account", "project_id": project, "private_key_id": "1", "private_key": PRIVATE_KEY,
        "client_email": ACCOUNT, "client_id": "1", "token_uri": token_uri,
    })
    .to_string()
}

/// The tokens that were given out and are still good.
#[derive(Debug, Default)]
pub(super) struct GoogleTokens {
    given: usize,
    good: BTreeSet<String>,
}

impl GoogleTokens {
    /// How many were given out.
    pub(super) fn given(&self) -> usize {
        self.given
    }

    /// None of them is good any longer.
    pub(super) fn expire(&mut self) {
        self.good.clear();
    }

    /// Whether a request shows one that is good.
    pub(super) fn lets_in(&self, call: &Call) -> bool {
        let token = call.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        token.is_some_and(|token| self.good.contains(token))
    }

    /// Answers who asks for a token for one of these scopes, at this address.
    pub(super) fn give(&mut self, call: &Call, token_uri: &str, scopes: &[&str]) -> Reply {
        match claims(call).and_then(|claims| check(&claims, token_uri, scopes)) {
            Ok(()) => {
                self.given += 1;
                let token = format!("ya29.{}", self.given);
                self.good.insert(token.clone());
                Reply::new(200, json!({"access_token": token, "expires_in": LASTS - 1, "token_type": "Bearer"}))
            }
            Err((error, why)) => Reply::new(400, json!({"error": error, "error_description": why})),
        }
    }
}

type Refusal = (&'static str, &'static str);

/// What is said in the signed text of a request, if it is signed by the account.
fn claims(call: &Call) -> Result<Value, Refusal> {
    let form = parse_query(&String::from_utf8_lossy(&call.wire));
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    if field("grant_type") != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return Err(("unsupported_grant_type", "Invalid grant_type"));
    }
    let unread = ("invalid_grant", "Bad Request");
    let assertion = field("assertion").ok_or(unread)?;
    let (signed, signature) = assertion.rsplit_once('.').ok_or(unread)?;
    let (header, claims) = signed.split_once('.').ok_or(unread)?;
    let read = |part: &str| serde_json::from_slice::<Value>(&decoded(part)?).ok();
    let (header, claims) = (read(header).ok_or(unread)?, read(claims).ok_or(unread)?);
    if header["alg"] != "RS256" || header["typ"] != "JWT" {
        return Err(unread);
    }
    let signature = decoded(signature).ok_or(unread)?;
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public_key().ok_or(unread)?);
    match key.verify(signed.as_bytes(), &signature) {
        Ok(()) => Ok(claims),
        Err(_) => Err(("invalid_grant", "Invalid JWT Signature.")),
    }
}

fn check(claims: &Value, token_uri: &str, scopes: &[&str]) -> Result<(), Refusal> {
    let now = Timestamp::now().as_millis() / 1_000;
    let (Some(from), Some(to)) = (claims["iat"].as_i64(), claims["exp"].as_i64()) else {
        return Err(("invalid_grant", "Invalid JWT: iat and exp are required"));
    };
    if from > now + SKEW || to < now || to - from > LASTS {
        return Err(("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes)"));
    }
    if claims["iss"] != ACCOUNT {
        return Err(("invalid_grant", "Invalid grant: account not found"));
    }
    if claims["aud"] != token_uri {
        return Err(("invalid_grant", "Invalid JWT: Failed audience check."));
    }
    let asked = claims["scope"].as_str().unwrap_or_default();
    match asked.split(' ').any(|scope| scopes.contains(&scope)) {
        true => Ok(()),
        false => Err(("invalid_scope", "Invalid OAuth scope or ID token audience provided.")),
    }
}

/// Base64 for addresses, with or without what fills it up.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    URL_SAFE.decode(format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4))).ok()
}

fn public_key() -> Option<Vec<u8>> {
    let text: String = PRIVATE_KEY.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = KeyPair::from_pkcs8(&STANDARD.decode(text).ok()?).ok()?;
    Some(key.public_key().as_ref().to_vec())
}
