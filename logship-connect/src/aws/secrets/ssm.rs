//! The Parameter Store of Systems Manager.

use aws_sdk_ssm::Client;
use logship_core::{Error, ErrorKind};

use super::{OPERATION, reworded};
use crate::aws::{Aws, error_code};

/// The value of a parameter, decrypted if it is a `SecureString`. A `StringList` is its words with commas between them.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameter.html>
pub(super) async fn get(aws: &Aws, name: &str) -> Result<String, Error> {
    let get = Client::new(aws.sdk_config().await?).get_parameter().name(name).with_decryption(true);
    let asked = aws.ask(OPERATION, None, || get.clone().send()).await;
    let value = asked.map_err(refused)?.parameter.and_then(|parameter| parameter.value);
    value.ok_or_else(|| Error::new(ErrorKind::Protocol, OPERATION, "the answer holds no value: check the endpoint"))
}

fn refused(said: Error) -> Error {
    match error_code(&said) {
        "ParameterNotFound" | "ParameterVersionNotFound" => reworded(
            &said,
            ErrorKind::NotFound,
            "there is no such parameter: check its name, its version and the region",
        ),
        "AccessDeniedException" => reworded(
            &said,
            ErrorKind::Auth,
            "not allowed: the credentials need ssm:GetParameter, and kms:Decrypt for a key of one's own",
        ),
        "InvalidKeyId" => {
            reworded(&said, ErrorKind::Auth, "the key that it is encrypted with cannot be used: check the key in KMS")
        }
        "ValidationException" => reworded(&said, ErrorKind::Config, "a parameter cannot have this name"),
        _ => said,
    }
}
