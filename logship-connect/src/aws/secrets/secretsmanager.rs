//! Secrets Manager.

use aws_sdk_secretsmanager::Client;
use logship_core::{Error, ErrorKind};

use super::{OPERATION, reworded, wrong};
use crate::aws::{Aws, error_code};

/// The current value of a secret. One that was kept as bytes has to be text all the same.
/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html>
pub(super) async fn get(aws: &Aws, id: &str) -> Result<String, Error> {
    let get = Client::new(aws.sdk_config().await?).get_secret_value().secret_id(id);
    let answer = aws.ask(OPERATION, None, || get.clone().send()).await.map_err(refused)?;
    match (answer.secret_string, answer.secret_binary) {
        (Some(text), _) => Ok(text),
        (None, Some(bytes)) => String::from_utf8(bytes.into_inner())
            .map_err(|_| wrong("it is kept as bytes that are no text: keep it as text, or its bytes in base64")),
        (None, None) => {
            Err(Error::new(ErrorKind::Protocol, OPERATION, "the answer holds no value: check the endpoint"))
        }
    }
}

fn refused(said: Error) -> Error {
    match error_code(&said) {
        "ResourceNotFoundException" => reworded(
            &said,
            ErrorKind::NotFound,
            "there is no such secret, or it has no value: check its name and the region",
        ),
        "AccessDeniedException" => reworded(
            &said,
            ErrorKind::Auth,
            "not allowed: the credentials need secretsmanager:GetSecretValue, and kms:Decrypt for a key of one's own",
        ),
        "DecryptionFailure" => {
            reworded(&said, ErrorKind::Auth, "the key that it is encrypted with cannot be used: check the key in KMS")
        }
        "InvalidRequestException" => reworded(
            &said,
            ErrorKind::NotFound,
            "it cannot be read in its present state: was it marked for deletion? Restore it, or name another",
        ),
        "InvalidParameterException" | "ValidationException" => {
            reworded(&said, ErrorKind::Config, "a secret cannot have this name")
        }
        _ => said,
    }
}
