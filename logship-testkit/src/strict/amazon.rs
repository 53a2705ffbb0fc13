//! What stand-ins for services of AWS have in common: AWS JSON 1.1, who signs, and how a service refuses.

use serde_json::{Value, json};

use super::stand::{Call, Reply};

/// What is answered in place of what was asked for: the code and the words.
pub(super) type Refusal = (&'static str, String);

pub(super) fn refuse<T>(code: &'static str, words: impl Into<String>) -> Result<T, Refusal> {
    Err((code, words.into()))
}

/// What a call asks for, and with which words; turns away who does not sign for this service, or not with this key.
pub(super) fn asked(
    call: &Call,
    service: &str,
    target: &str,
    key: Option<&String>,
) -> Result<(String, Value), Refusal> {
    let Some(authorization) = call.header("authorization") else {
        return refuse("MissingAuthenticationTokenException", "Missing Authentication Token");
    };
    let credential = authorization
        .strip_prefix("AWS4-HMAC-SHA256 ")
        .and_then(|rest| rest.split(',').find_map(|part| part.trim().strip_prefix("Credential=")).map(str::to_owned));
    let credential = credential.unwrap_or_default();
    let parts = credential.split('/').collect::<Vec<_>>();
    let [used, _, _, scope, "aws4_request"] = parts[..] else {
        return refuse("IncompleteSignatureException", "Credential should be scoped to a service");
    };
    if scope != service {
        return refuse("IncompleteSignatureException", format!("Credential should be scoped to service {service}"));
    }
    if key.is_some_and(|known| known != used) {
        return refuse("UnrecognizedClientException", "The security token included in the request is invalid.");
    }
    if call.method != "POST" || call.media_type() != "application/x-amz-json-1.1" {
        return refuse("UnknownOperationException", "");
    }
    let action = call.header("x-amz-target").and_then(|named| named.strip_prefix(target)).unwrap_or_default();
    match serde_json::from_slice(&call.wire) {
        Ok(request) => Ok((action.to_owned(), request)),
        Err(_) => refuse("SerializationException", "the body is not JSON"),
    }
}

pub(super) fn reply(result: Result<Value, Refusal>) -> Reply {
    let (status, body) = match result {
        Ok(body) => (200, body),
        Err((code, words)) => {
            let status = if code == "ServiceUnavailableException" { 500 } else { 400 };
            (status, json!({"__type": code, "message": words}))
        }
    };
    Reply { content_type: "application/x-amz-json-1.1", ..Reply::new(status, body) }
}

/// What AWS says instead of these statuses, mostly under a 400. `busy` is the service's own word for 429.
pub(super) fn failure(status: u16, busy: &'static str) -> Reply {
    let (code, words) = match status {
        401 => ("ExpiredTokenException", "The security token included in the request is expired"),
        403 => ("AccessDeniedException", "User is not authorized to perform this action"),
        404 => ("ResourceNotFoundException", "What is asked for does not exist."),
        429 => (busy, "Rate exceeded"),
        400 => ("InvalidParameterException", "failed on request"),
        _ => ("ServiceUnavailableException", "The service cannot complete the request."),
    };
    let refused = reply(refuse(code, words));
    if status >= 500 { Reply { status, ..refused } } else { refused }
}
