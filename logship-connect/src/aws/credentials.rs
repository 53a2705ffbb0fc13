//! One cache of credentials for all who sign with them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use logship_core::{BuildContext, Error, ErrorKind, SecretRef};
use tokio::sync::Mutex;

/// How long before their end credentials are asked for anew; requests under way with the old ones still succeed.
const AHEAD: Duration = Duration::from_secs(5 * 60);

/// After how long credentials without an end are looked at again: files and environments change.
const LOOK_EVERY: Duration = Duration::from_secs(15 * 60);

/// Keeps credentials until shortly before they end. The lock is held while they are asked for, so that one task asks
/// and the others wait for its answer.
#[derive(Debug)]
pub(super) struct Cached {
    provider: SharedCredentialsProvider,
    current: Mutex<Option<Held>>,
    /// The last that are known not to have been let in.
    refused: Mutex<Option<Credentials>>,
    /// How often they were loaded.
    loads: AtomicU64,
}

#[derive(Debug)]
struct Held {
    credentials: Credentials,
    /// When they are asked for anew.
    until: SystemTime,
}

impl Cached {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Cached { provider, current: Mutex::new(None), refused: Mutex::new(None), loads: AtomicU64::new(0) }
    }

    async fn credentials(&self, now: SystemTime) -> provider::Result {
        let mut current = self.current.lock().await;
        if let Some(held) = current.as_ref().filter(|held| now < held.until) {
            return Ok(held.credentials.clone());
        }
        match self.load(now).await {
            Ok(held) => Ok(current.insert(held).credentials.clone()),
            // They are good to their end, whatever keeps us from new ones.
            Err(error) => match current.as_ref().filter(|held| held.credentials.expiry().is_none_or(|end| now < end)) {
                Some(held) => {
                    tracing::warn!(%error, "cannot renew the credentials of AWS: the last ones stay");
                    Ok(held.credentials.clone())
                }
                None => Err(error),
            },
        }
    }

    /// Asks anew, unless another call has done so since this one began.
    pub(super) async fn refresh(&self) -> Result<(), Error> {
        let before = self.loads.load(Ordering::Acquire);
        let mut current = self.current.lock().await;
        if self.loads.load(Ordering::Acquire) != before {
            return Ok(());
        }
        let held = self.load(SystemTime::now()).await.map_err(|error| no_credentials(&error))?;
        let refused = self.refused.lock().await;
        let last = refused.as_ref().or(current.as_ref().map(|last| &last.credentials));
        let is_same = last.is_some_and(|last| is_same(last, &held.credentials));
        *current = Some(held);
        if is_same {
            let message = "the credentials are still the ones that were not let in";
            return Err(Error::new(ErrorKind::Auth, "refresh credentials", message));
        }
        Ok(())
    }

    /// These were sent and not let in.
    pub(super) async fn refuse(&self, credentials: Credentials) {
        *self.refused.lock().await = Some(credentials);
    }

    async fn load(&self, now: SystemTime) -> Result<Held, CredentialsError> {
        let credentials = self.provider.provide_credentials().await?;
        self.loads.fetch_add(1, Ordering::AcqRel);
        let until = match credentials.expiry() {
            // A session shorter than that is used for half of its time.
            Some(end) => {
                let left = end.duration_since(now).unwrap_or_default();
                now + left.checked_sub(AHEAD).unwrap_or_default().max(left / 2)
            }
            None => now + LOOK_EVERY,
        };
        Ok(Held { credentials, until })
    }
}

impl ProvideCredentials for Cached {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials(SystemTime::now()))
    }
}

fn is_same(one: &Credentials, other: &Credentials) -> bool {
    let parts = |credentials: &Credentials| {
        let token = credentials.session_token().map(str::to_owned);
        (credentials.access_key_id().to_owned(), credentials.secret_access_key().to_owned(), token)
    };
    parts(one) == parts(other)
}

/// What it means that no credentials are to be had.
pub(crate) fn no_credentials(error: &CredentialsError) -> Error {
    let (kind, message) = match error {
        CredentialsError::CredentialsNotLoaded(_) => (
            ErrorKind::Auth,
            "there are no credentials of AWS: give them in `aws.credentials`, or set up the machine's",
        ),
        CredentialsError::InvalidConfiguration(_) => {
            (ErrorKind::Config, "the credentials of AWS are set up wrongly: check `aws.credentials` and the profile")
        }
        CredentialsError::ProviderTimedOut(_) => (ErrorKind::Timeout, "no credentials of AWS in time"),
        _ => (ErrorKind::Auth, "cannot get credentials of AWS"),
    };
    let certainty = logship_core::Certainty::NotDelivered;
    let mut failed = Error::new(kind, "get credentials", message).certainty_is(certainty);
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        // The innermost cause is what helps; the texts around it repeat each other.
        if cause.source().is_none() {
            failed = failed.with("cause", Error::excerpt(cause.to_string().as_bytes()));
        }
        next = cause.source();
    }
    failed
}

/// Keys that the configuration names. They are read each time they are asked for: whoever rotates them changes a file.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    access_key_id: SecretRef,
    secret_access_key: SecretRef,
    session_token: Option<SecretRef>,
    context: BuildContext,
}

impl Keys {
    pub(super) fn new(id: &SecretRef, key: &SecretRef, token: Option<&SecretRef>, context: &BuildContext) -> Self {
        Keys {
            access_key_id: id.clone(),
            secret_access_key: key.clone(),
            session_token: token.cloned(),
            context: context.clone(),
        }
    }

    pub(super) fn read(&self) -> Result<Credentials, Error> {
        let secret = |name: &str, reference: &SecretRef| {
            let field = format!("aws.credentials.static.{name}");
            let secret = self.context.secret(&field, reference)?;
            if secret.expose().is_empty() { Err(Error::config(&field, "is empty")) } else { Ok(secret) }
        };
        let id = secret("access_key_id", &self.access_key_id)?;
        let key = secret("secret_access_key", &self.secret_access_key)?;
        let token = self.session_token.as_ref().map(|token| secret("session_token", token)).transpose()?;
        let token = token.map(|token| token.expose().to_owned());
        Ok(Credentials::new(id.expose(), key.expose(), token, None, "logship"))
    }
}

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.read().map_err(CredentialsError::invalid_configuration))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex as StdMutex;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Gives what it is told to give, one after another, and lets others run before it does.
    #[derive(Clone, Debug, Default)]
    struct Script(Arc<StdMutex<Vec<provider::Result>>>);

    impl Script {
        fn next(&self, answers: impl IntoIterator<Item = provider::Result>) {
            let mut all: Vec<_> = answers.into_iter().collect();
            all.reverse();
            *self.0.lock().unwrap() = all;
        }

        fn left(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    impl ProvideCredentials for Script {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                tokio::task::yield_now().await;
                self.0.lock().unwrap().pop().unwrap()
            })
        }
    }

    fn key(id: &str, end: Option<SystemTime>) -> provider::Result {
        Ok(Credentials::new(id, "secret", None, end, "test"))
    }

    fn cached(answers: impl IntoIterator<Item = provider::Result>) -> (Arc<Cached>, Script) {
        let script = Script::default();
        script.next(answers);
        (Arc::new(Cached::new(SharedCredentialsProvider::new(script.clone()))), script)
    }

    async fn id(cached: &Cached, now: SystemTime) -> String {
        cached.credentials(now).await.unwrap().access_key_id().to_owned()
    }

    #[tokio::test]
    async fn credentials_are_renewed_ahead_of_their_end() {
        let now = SystemTime::now();
        let (cached, script) = cached([key("one", Some(now + HOUR)), key("two", Some(now + 2 * HOUR))]);
        assert_eq!(id(&cached, now).await, "one");
        assert_eq!(id(&cached, now + HOUR - AHEAD - Duration::from_secs(1)).await, "one");
        assert_eq!(id(&cached, now + HOUR - AHEAD).await, "two");
        assert_eq!(script.left(), 0);
    }

    #[tokio::test]
    async fn one_task_asks_and_all_get_the_answer() {
        let now = SystemTime::now();
        let (cached, script) = cached([key("one", Some(now + HOUR)), key("two", Some(now + HOUR))]);
        let all = futures::future::join_all((0..8).map(|_| id(&cached, now))).await;
        assert_eq!(all, ["one"; 8]);
        let refreshed = futures::future::join_all((0..8).map(|_| cached.refresh())).await;
        assert!(refreshed.iter().all(Result::is_ok));
        assert_eq!((id(&cached, now).await.as_str(), script.left()), ("two", 0));
    }

    #[tokio::test]
    async fn what_cannot_be_renewed_is_used_to_its_end() {
        let now = SystemTime::now();
        let gone = || Err(CredentialsError::provider_error("no answer"));
        let (cached, _) = cached([key("one", Some(now + HOUR)), gone(), gone()]);
        assert_eq!(id(&cached, now).await, "one");
        assert_eq!(id(&cached, now + HOUR - AHEAD).await, "one");
        assert!(cached.credentials(now + HOUR).await.is_err());
    }

    #[tokio::test]
    async fn the_same_again_is_no_refresh() {
        let (cached, _) = cached([key("one", None), key("one", None), key("two", None)]);
        assert_eq!(id(&cached, SystemTime::now()).await, "one");
        assert_eq!(cached.refresh().await.unwrap_err().kind(), ErrorKind::Auth);
        cached.refresh().await.unwrap();
    }

    #[tokio::test]
    async fn the_same_again_is_a_refresh_if_others_were_refused() {
        let (cached, _) = cached([key("one", None), key("two", None), key("two", None), key("two", None)]);
        let one = cached.credentials(SystemTime::now()).await.unwrap();
        // Two requests were under way.
        cached.refuse(one.clone()).await;
        cached.refresh().await.unwrap();
        cached.refuse(one).await;
        cached.refresh().await.unwrap();
        cached.refuse(key("two", None).unwrap()).await;
        assert_eq!(cached.refresh().await.unwrap_err().kind(), ErrorKind::Auth);
    }

    #[tokio::test]
    async fn p12_keys_are_read_anew_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2").unwrap();
        let keys = Keys::new(&"AKID".into(), &SecretRef::File(file.path().into()), None, &BuildContext::default());
        assert_eq!(keys.read().unwrap().secret_access_key(), "hunter2");
        let cached = Cached::new(SharedCredentialsProvider::new(keys.clone()));
        assert!(cached.credentials(SystemTime::now()).await.is_ok());
        std::fs::write(file.path(), "hunter3").unwrap();
        cached.refresh().await.unwrap();
        assert_eq!(cached.credentials(SystemTime::now()).await.unwrap().secret_access_key(), "hunter3");
        assert!(!format!("{cached:?} {keys:?}").contains("hunter"));
        std::fs::write(file.path(), "").unwrap();
        let error = keys.read().unwrap_err().to_string();
        assert!(error.contains("aws.credentials.static.secret_access_key"), "{error}");
    }
}
