//! Requests that show a token.

use logship_connect::token::Tokens;
use logship_core::Error;
use reqwest::Request;
use reqwest::header::AUTHORIZATION;

use crate::delivery::{Answer, Delivery, secret_value};

/// Sends a request with the token of now. One that is not let in is forgotten, so that the next request has another.
pub(crate) async fn send(delivery: &Delivery, tokens: &Tokens, mut request: Request) -> Result<Answer, Error> {
    let token = tokens.token().await?;
    let value = secret_value("credentials", &format!("Bearer {}", token.expose()))?;
    request.headers_mut().insert(AUTHORIZATION, value);
    let answer = delivery.send(request).await?;
    if answer.status == 401 {
        tokens.refuse(&token);
    }
    Ok(answer)
}
