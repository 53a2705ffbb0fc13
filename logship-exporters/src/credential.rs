//! The one secret header that lets us in.

use std::fmt;

use logship_core::{BuildContext, Error, SecretRef};
use reqwest::Request;
use reqwest::header::{HeaderName, HeaderValue};

use crate::delivery::{Answer, Delivery, secret_value};
use crate::rotated::Rotated;

/// A key or token and the header that carries it. It is read anew when it is no longer taken: files and environments
/// change when credentials are rotated.
pub(crate) struct Credential {
    header: HeaderName,
    /// What stands before it in the header.
    scheme: &'static str,
    /// Where it stands in the configuration.
    field: &'static str,
    reference: SecretRef,
    context: BuildContext,
    value: Rotated<HeaderValue>,
}

impl Credential {
    pub(crate) fn new(
        header: &'static str,
        scheme: &'static str,
        field: &'static str,
        reference: SecretRef,
        context: &BuildContext,
    ) -> Result<Self, Error> {
        let value = Rotated::new(read(scheme, field, &reference, context)?);
        let header = HeaderName::from_static(header);
        Ok(Credential { header, scheme, field, reference, context: context.clone(), value })
    }

    /// Sends a request with it. By 401 as well as 403 an answer says that it was not let in.
    pub(crate) async fn send(&self, delivery: &Delivery, mut request: Request) -> Result<Answer, Error> {
        let value = self.value.value();
        request.headers_mut().insert(&self.header, value.clone());
        let answer = delivery.send(request).await?;
        if matches!(answer.status, 401 | 403) {
            self.value.refuse(value);
        }
        Ok(answer)
    }

    /// Reads it anew; an error if it is still the one that was not taken.
    pub(crate) fn refresh(&self, operation: &'static str) -> Result<(), Error> {
        let fresh = read(self.scheme, self.field, &self.reference, &self.context)?;
        self.value.renew(fresh, operation).map_err(|error| error.with("field", self.field))
    }
}

fn read(scheme: &str, field: &str, reference: &SecretRef, context: &BuildContext) -> Result<HeaderValue, Error> {
    let secret = context.secret(field, reference)?;
    if secret.expose().is_empty() {
        return Err(Error::config(field, "is empty"));
    }
    secret_value(field, &format!("{scheme}{}", secret.expose()))
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("field", &self.field).field("reference", &self.reference).finish()
    }
}

#[cfg(test)]
mod tests {
    use logship_core::ErrorKind;

    use super::*;

    #[test]
    fn what_one_request_found_is_good_for_the_others_too() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old").unwrap();
        let reference = SecretRef::File(file.path().to_owned());
        let key = Credential::new("api-key", "", "key", reference, &BuildContext::default()).unwrap();
        assert!(key.refresh("test").is_err());
        let old = key.value.value();
        std::fs::write(file.path(), "new").unwrap();
        // Two were under way with the old one.
        for _ in 0..2 {
            key.value.refuse(old.clone());
            key.refresh("test").unwrap();
            assert_eq!(key.value.value(), "new");
        }
        key.value.refuse(key.value.value());
        let error = key.refresh("test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth);
    }
}
