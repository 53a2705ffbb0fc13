//! Another service account's tokens, for whoever may ask for them.

use std::fmt;

use logship_core::{BuildContext, Error, ErrorKind, Secret, Timestamp, async_trait};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Url};
use serde::Deserialize;

use super::TIMEOUT;
use crate::token::{AccessToken, TokenProvider, Tokens};
use crate::{Connection, RotatedClient, parse_url, secret_header};

const OPERATION: &str = "ask Google for a token of another service account";

/// Who gives the tokens out.
const ENDPOINT: &str = "https://iamcredentials.googleapis.com";

/// Asks for tokens of a service account with tokens of our own.
/// <https://docs.cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken>
pub struct Impersonation {
    own: Tokens,
    url: Url,
    client: RotatedClient,
}

/// What is answered.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    access_token: String,
    expire_time: String,
}

impl Impersonation {
    /// What our own token has to be for.
    pub const SCOPE: &'static str = "https://www.googleapis.com/auth/cloud-platform";

    /// Asks for tokens of `account`, its address or its number, with our own ones, which are for
    /// [`SCOPE`](Impersonation::SCOPE). We need the role Service Account Token Creator on it. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an account that cannot be one, which names the field `impersonated_service_account`, and
    /// for a connection that cannot be.
    pub fn new(own: Tokens, account: &str, connection: &Connection, context: &BuildContext) -> Result<Self, Error> {
        Self::at(ENDPOINT, own, account, connection, context)
    }

    /// The same, at another address than Google's own, such as a private one.
    ///
    /// # Errors
    /// Those of [`new`](Impersonation::new).
    pub fn at(
        endpoint: &str,
        own: Tokens,
        account: &str,
        connection: &Connection,
        context: &BuildContext,
    ) -> Result<Self, Error> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@.-_".contains(&byte);
        if account.is_empty() || !account.bytes().all(is_plain) {
            let message = "not a service account, such as `logs@my-project.iam.gserviceaccount.com`";
            return Err(Error::config("impersonated_service_account", message));
        }
        let (mut url, _) = parse_url("endpoint", endpoint)?;
        url.set_path(&format!("/v1/projects/-/serviceAccounts/{account}:generateAccessToken"));
        Ok(Impersonation { own, url, client: RotatedClient::new(OPERATION, connection, context)? })
    }

    async fn ask(&self, scope: &str, token: &Secret) -> Result<AccessToken, Error> {
        let scopes: Vec<&str> = scope.split_ascii_whitespace().collect();
        let mut request = Request::new(Method::POST, self.url.clone());
        let value = secret_header("credentials", &format!("Bearer {}", token.expose()))?;
        request.headers_mut().insert(AUTHORIZATION, value);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(serde_json::json!({ "scope": scopes }).to_string().into());
        let answer = self.client.client().execute(request).await.map_err(no_answer)?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.map_err(no_answer)?;
        if status != 200 {
            let (kind, message) = match status {
                429 | 500..600 => (ErrorKind::Unavailable, "not given now"),
                _ => (ErrorKind::Auth, "refused: check the role Service Account Token Creator on the account"),
            };
            if status == 401 {
                self.own.refuse(token);
            }
            let error = Error::new(kind, OPERATION, message).with("status", status);
            return Err(error.with("answer", Error::excerpt(&body)));
        }
        let unread = || Error::new(ErrorKind::Protocol, OPERATION, "the answer is not a token");
        // What is wrong with it might quote it.
        let given: Given = serde_json::from_slice(&body).map_err(|_| unread())?;
        let end = Timestamp::parse(&given.expire_time).ok_or_else(unread)?;
        Ok(AccessToken::new(given.access_token, end.since(Timestamp::now())))
    }
}

fn no_answer(error: reqwest::Error) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, "no answer").with_source(error.without_url())
}

#[async_trait]
impl TokenProvider for Impersonation {
    async fn token(&self, scope: &str) -> Result<AccessToken, Error> {
        let ask = async { self.ask(scope, &self.own.token().await?).await };
        let in_time = tokio::time::timeout(TIMEOUT, ask).await;
        in_time.map_err(|_| Error::new(ErrorKind::Unavailable, OPERATION, "no answer in time"))?
    }
}

impl fmt::Debug for Impersonation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Impersonation").field("account", &self.url.path()).finish_non_exhaustive()
    }
}
