//! Addresses and headers that hold credentials.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::Error;
use reqwest::Url;
use reqwest::header::HeaderValue;

/// The address in this field of the configuration, `http` or `https`, without user and password and fragment, and user
/// and password as a header.
///
/// # Errors
/// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field and does not show the address.
pub fn parse_url(field: &str, text: &str) -> Result<(Url, Option<HeaderValue>), Error> {
    let wrong = |why: &str| Error::config(field, why);
    let mut url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("must begin with http:// or https://"));
    }
    url.set_fragment(None);
    if url.username().is_empty() && url.password().is_none() {
        return Ok((url, None));
    }
    let (username, password) = (percent_decoded(url.username()), percent_decoded(url.password().unwrap_or_default()));
    let auth = basic_auth(field, &username, &password)?;
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    cleared.map_err(|()| wrong("cannot hold a user"))?;
    Ok((url, Some(auth)))
}

/// A header's value that is not shown.
///
/// # Errors
/// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field, if no header can hold it.
pub fn secret_header(field: &str, value: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| Error::config(field, "holds a character that no header can, such as a line break"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The header of basic authentication, which is not shown.
///
/// # Errors
/// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field, if the user name holds a colon.
pub fn basic_auth(field: &str, username: &[u8], password: &[u8]) -> Result<HeaderValue, Error> {
    if username.contains(&b':') {
        return Err(Error::config(field, "the user name holds a colon, which basic authentication cannot carry"));
    }
    let credentials = BASE64.encode([username, b":", password].concat());
    secret_header(field, &format!("Basic {credentials}"))
}

/// A part of an address without its percent signs.
pub fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| *first == b'%' && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[2..] } else { behind };
    }
    bytes
}
