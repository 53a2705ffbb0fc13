//! What is between `object_store` and our client.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use logship_core::{BuildContext, Error, async_trait};
use object_store::RetryConfig;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, DATE, HeaderMap, RETRY_AFTER};

use super::failure::Refusal;
use crate::{Connection, RotatedClient};

/// How much of a refusal is read: `object_store` itself has no limit.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Shorter texts may be words of any answer.
const SECRET_LENGTH_MIN: usize = 10;

/// Hands our client to `object_store`, keeps what an answer says of a refusal, and the time on the server's clock.
#[derive(Clone, Debug)]
pub struct Wire {
    client: Arc<RotatedClient>,
    /// By how many milliseconds the server's clock is ahead of ours.
    ahead_ms: Arc<AtomicI64>,
}

impl Wire {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field or the file.
    pub fn new(operation: &'static str, connection: &Connection, context: &BuildContext) -> Result<Self, Error> {
        Ok(Wire { client: Arc::new(RotatedClient::new(operation, connection, context)?), ahead_ms: Arc::default() })
    }

    /// The time on the server's clock, as it last told it: up to a second and the time of an answer behind. Ours before
    /// the first answer.
    pub fn server_time(&self) -> SystemTime {
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        let (now, by) = (SystemTime::now(), Duration::from_millis(ahead.unsigned_abs()));
        if ahead < 0 { now.checked_sub(by) } else { now.checked_add(by) }.unwrap_or(now)
    }

    fn set_clock(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        if let Some(date) = date {
            let millis = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
            self.ahead_ms.store(millis(date) - millis(SystemTime::now()), Ordering::Relaxed);
        }
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let secrets = secrets_of(&request);
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let response = HttpService::call(&self.client.client(), request).await.inspect_err(|error| {
            if error.kind() == HttpErrorKind::Connect {
                self.client.look_soon();
            }
        })?;
        self.set_clock(response.headers());
        let status = response.status();
        // What a store's own rules are about.
        let is_theirs = matches!(
            status,
            StatusCode::NOT_MODIFIED | StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED
        );
        if status.is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let mut text = Vec::new();
        let mut stream = body.bytes_stream();
        while text.len() < REFUSAL_BYTES_MAX
            && let Some(Ok(part)) = futures::StreamExt::next(&mut stream).await
        {
            text.extend_from_slice(&part[..part.len().min(REFUSAL_BYTES_MAX - text.len())]);
        }
        let text = hide(&String::from_utf8_lossy(&text), &secrets);
        if is_theirs {
            return Ok(HttpResponse::from_parts(parts, text.into()));
        }
        let header = |name: &str| Some(parts.headers.get(name)?.to_str().ok()?.to_owned());
        // Azure says it in a header, the others in XML.
        let code = header("x-ms-error-code").or_else(|| element(&text, "Code"));
        let said = element(&text, "Message").unwrap_or_else(|| text.trim().to_owned());
        let refusal = Refusal {
            host,
            status: status.as_u16(),
            code,
            said: Error::excerpt(said.as_bytes()),
            region: header("x-amz-bucket-region"),
            // All three send seconds, where they send anything.
            retry_after: header(RETRY_AFTER.as_str()).and_then(|secs| secs.parse().ok()).map(Duration::from_secs),
        };
        Err(HttpError::new(HttpErrorKind::Unknown, refusal))
    }
}

/// Never repeats, as the engine does.
pub(super) fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// What no answer may repeat: what lets us in, in a header or in the query.
fn secrets_of(request: &HttpRequest) -> Vec<String> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = request.headers().get("x-amz-security-token").and_then(|value| value.to_str().ok());
    let query = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("sig="));
    let decoded = query.clone().map(|sig| String::from_utf8_lossy(&crate::percent_decoded(sig)).into_owned());
    let words = header.split([' ', '=', ':']).chain(token).chain(query).map(str::to_owned).chain(decoded);
    words.filter(|word| word.len() >= SECRET_LENGTH_MIN).collect()
}

fn hide(text: &str, secrets: &[String]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

/// The text of the first XML element of this name.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, behind) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = behind.split_once(&format!("</{name}>"))?;
    Some(text.to_owned())
}
