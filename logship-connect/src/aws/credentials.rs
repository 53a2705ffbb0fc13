//! One cache of credentials for all who sign with them.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_types::error::metadata::ErrorMetadata;
use logship_core::{BuildContext, Certainty, Error, ErrorKind, SecretRef};
use tokio::sync::Mutex;

use super::failure::kind_of;
use crate::cause::find;

/// How long before their end credentials are asked for anew; requests under way with the old ones still succeed.
const AHEAD: Duration = Duration::from_secs(5 * 60);

/// After how long credentials without an end are looked at again: files and environments change.
const LOOK_EVERY: Duration = Duration::from_secs(15 * 60);

/// How long asking for credentials may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// When whoever did not give new credentials is asked again, while the last ones are still good.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// How long a request may be under way with credentials that were replaced meanwhile.
const UNDER_WAY: Duration = Duration::from_secs(60);

/// Keeps credentials as long as they are good. They are asked for anew ahead of their end, by one task at a time, while
/// the others go on with the last ones.
#[derive(Debug)]
pub(super) struct Cached {
    provider: SharedCredentialsProvider,
    kept: RwLock<Option<Kept>>,
    /// Held by whoever asks for new ones.
    turn: Mutex<()>,
    /// How often they were loaded.
    loads: AtomicU64,
}

#[derive(Clone, Debug)]
struct Kept {
    credentials: Credentials,
    renew_at: SystemTime,
    /// When they took the place of others that were not let in.
    replaced_at: Option<SystemTime>,
}

impl Kept {
    fn is_good(&self, now: SystemTime) -> bool {
        self.credentials.expiry().is_none_or(|end| now < end)
    }
}

impl Cached {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Cached { provider, kept: RwLock::default(), turn: Mutex::default(), loads: AtomicU64::new(0) }
    }

    async fn credentials(&self, now: SystemTime) -> provider::Result {
        let good = |kept: &Kept| kept.is_good(now);
        match self.kept().filter(good) {
            Some(kept) if now < kept.renew_at => Ok(kept.credentials),
            Some(kept) => {
                let Ok(_turn) = self.turn.try_lock() else { return Ok(kept.credentials) };
                self.keep(Kept { renew_at: now + ASK_AGAIN, ..kept.clone() });
                match self.load(now).await {
                    Ok(fresh) => Ok(fresh.credentials),
                    // They are good to their end, whatever keeps us from new ones.
                    Err(error) => {
                        tracing::warn!(%error, "cannot renew the credentials of AWS: the last ones stay");
                        Ok(kept.credentials)
                    }
                }
            }
            None => {
                let _turn = self.turn.lock().await;
                match self.kept().filter(good) {
                    Some(kept) => Ok(kept.credentials),
                    None => Ok(self.load(now).await?.credentials),
                }
            }
        }
    }

    /// Asks anew, unless another call has done so since this one began.
    pub(super) async fn refresh(&self, now: SystemTime) -> Result<(), Error> {
        let before = self.loads.load(Ordering::Acquire);
        let _turn = self.turn.lock().await;
        if self.loads.load(Ordering::Acquire) != before {
            return Ok(());
        }
        let last = self.kept();
        let fresh = self.load(now).await.map_err(|error| no_credentials(&error))?;
        let Some(last) = last else { return Ok(()) };
        if !is_same(&last.credentials, &fresh.credentials) {
            self.keep(Kept { replaced_at: Some(now), ..fresh });
            return Ok(());
        }
        // Several requests may have been under way with credentials that one of them had replaced: what was not let in
        // now may have been the old ones.
        if last.replaced_at.is_some_and(|at| now < at + UNDER_WAY) {
            self.keep(Kept { replaced_at: last.replaced_at, ..fresh });
            return Ok(());
        }
        let message = "the credentials are still the ones that were not let in";
        Err(Error::new(ErrorKind::Auth, "refresh credentials", message))
    }

    async fn load(&self, now: SystemTime) -> Result<Kept, CredentialsError> {
        let asked = tokio::time::timeout(PATIENCE, self.provider.provide_credentials()).await;
        let credentials = match asked.map_err(|_| CredentialsError::provider_timed_out(PATIENCE))? {
            // Whoever gave some before and seems not to be there is out of reach for now: the chain cannot tell.
            Err(CredentialsError::CredentialsNotLoaded(error)) if self.kept().is_some() => {
                return Err(CredentialsError::provider_error(
                    CredentialsError::CredentialsNotLoaded(error).to_string(),
                ));
            }
            answer => answer?,
        };
        self.loads.fetch_add(1, Ordering::AcqRel);
        let renew_at = match credentials.expiry() {
            // A session shorter than that is used for half of its time.
            Some(end) => {
                let left = end.duration_since(now).unwrap_or_default();
                now + left.checked_sub(AHEAD).unwrap_or_default().max(left / 2)
            }
            None => now + LOOK_EVERY,
        };
        let kept = Kept { credentials, renew_at, replaced_at: None };
        self.keep(kept.clone());
        Ok(kept)
    }

    fn kept(&self) -> Option<Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, kept: Kept) {
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Some(kept);
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
    if let Some(inner) = error.source().and_then(find::<CredentialsError>) {
        // Of those that a role is assumed with.
        return no_credentials(inner);
    }
    let refused = error.source().and_then(find::<ErrorMetadata>);
    let (kind, message) = match error {
        CredentialsError::CredentialsNotLoaded(_) => (
            ErrorKind::Auth,
            "there are no credentials of AWS: give them in `aws.credentials`, or set up the machine's",
        ),
        CredentialsError::InvalidConfiguration(_) => {
            (ErrorKind::Config, "the credentials of AWS are set up wrongly: check `aws.credentials` and the profile")
        }
        CredentialsError::ProviderTimedOut(_) => (ErrorKind::Timeout, "no credentials of AWS in time"),
        _ if refused.and_then(ErrorMetadata::code).is_some_and(|code| kind_of(code) == ErrorKind::Auth) => {
            (ErrorKind::Auth, "AWS gives no credentials: check who asks, and the role's trust")
        }
        // A service that is busy, a connection that broke, a machine's metadata that does not answer.
        _ => (ErrorKind::Unavailable, "cannot get credentials of AWS"),
    };
    let mut failed = Error::new(kind, "get credentials", message).certainty_is(Certainty::NotDelivered);
    let mut next = StdError::source(error);
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
        let refreshed = futures::future::join_all((0..8).map(|_| cached.refresh(now))).await;
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
    async fn others_go_on_while_one_renews_and_a_failure_is_not_repeated_at_once() {
        let now = SystemTime::now();
        let gone = Err(CredentialsError::provider_error("no answer"));
        let (cached, script) = cached([key("one", Some(now + HOUR)), gone, key("two", Some(now + 2 * HOUR))]);
        assert_eq!(id(&cached, now).await, "one");
        let soon = now + HOUR - AHEAD;
        for _ in 0..3 {
            assert_eq!(id(&cached, soon).await, "one");
        }
        assert_eq!(script.left(), 1);
        let later = soon + ASK_AGAIN;
        let (renewing, waiting) = tokio::join!(id(&cached, later), id(&cached, later));
        assert_eq!((renewing.as_str(), waiting.as_str()), ("two", "one"));
    }

    /// Never answers.
    #[derive(Debug)]
    struct Hung;

    impl ProvideCredentials for Hung {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_never_answers_is_an_error_that_may_pass() {
        let cached = Cached::new(SharedCredentialsProvider::new(Hung));
        let error = cached.credentials(SystemTime::now()).await.unwrap_err();
        assert_eq!((no_credentials(&error).kind(), no_credentials(&error).is_retryable()), (ErrorKind::Timeout, true));
        assert!(cached.refresh(SystemTime::now()).await.unwrap_err().is_retryable());
    }

    #[tokio::test]
    async fn what_gave_credentials_before_and_is_not_there_may_be_there_later() {
        let now = SystemTime::now();
        let nobody = || Err(CredentialsError::not_loaded("no metadata"));
        let (cached, _) = cached([nobody(), key("one", Some(now + HOUR)), nobody()]);
        assert_eq!(no_credentials(&cached.credentials(now).await.unwrap_err()).kind(), ErrorKind::Auth);
        assert_eq!(id(&cached, now).await, "one");
        let error = no_credentials(&cached.credentials(now + HOUR).await.unwrap_err());
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
    }

    #[test]
    fn only_what_is_refused_for_good_stops() {
        let said = |code: &str| CredentialsError::provider_error(ErrorMetadata::builder().code(code).build());
        for (error, kind) in [
            (said("AccessDenied"), ErrorKind::Auth),
            (said("InvalidClientTokenId"), ErrorKind::Auth),
            (said("SignatureDoesNotMatch"), ErrorKind::Auth),
            (said("Throttling"), ErrorKind::Unavailable),
            (said("ServiceUnavailable"), ErrorKind::Unavailable),
            (CredentialsError::provider_error("the connection broke"), ErrorKind::Unavailable),
            (CredentialsError::unhandled("half an answer"), ErrorKind::Unavailable),
            (CredentialsError::provider_timed_out(PATIENCE), ErrorKind::Timeout),
            (CredentialsError::not_loaded("nothing"), ErrorKind::Auth),
            (CredentialsError::provider_error(CredentialsError::not_loaded("nothing")), ErrorKind::Auth),
        ] {
            assert_eq!(no_credentials(&error).kind(), kind, "{error:?}");
            assert_eq!(no_credentials(&error).is_retryable(), kind != ErrorKind::Auth, "{error:?}");
        }
    }

    #[tokio::test]
    async fn what_one_request_found_is_good_for_the_others_too() {
        let now = SystemTime::now();
        let (cached, _) = cached([key("one", None), key("two", None), key("two", None), key("two", None)]);
        assert_eq!(id(&cached, now).await, "one");
        cached.refresh(now).await.unwrap();
        // Of a request that was under way with the old ones.
        cached.refresh(now + Duration::from_secs(1)).await.unwrap();
        assert_eq!(cached.refresh(now + UNDER_WAY).await.unwrap_err().kind(), ErrorKind::Auth);
    }

    #[tokio::test]
    async fn the_same_again_is_no_refresh() {
        let (cached, _) = cached([key("one", None), key("one", None), key("two", None)]);
        assert_eq!(id(&cached, SystemTime::now()).await, "one");
        assert_eq!(cached.refresh(SystemTime::now()).await.unwrap_err().kind(), ErrorKind::Auth);
        cached.refresh(SystemTime::now()).await.unwrap();
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
        cached.refresh(SystemTime::now()).await.unwrap();
        assert_eq!(cached.credentials(SystemTime::now()).await.unwrap().secret_access_key(), "hunter3");
        assert!(!format!("{cached:?} {keys:?}").contains("hunter"));
        std::fs::write(file.path(), "").unwrap();
        let error = keys.read().unwrap_err().to_string();
        assert!(error.contains("aws.credentials.static.secret_access_key"), "{error}");
    }
}
