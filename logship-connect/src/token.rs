//! Tokens that let us in for a while.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use logship_core::{Error, ErrorKind, Secret, async_trait};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long before its end a token is replaced, if it lasts for twice as long or more; else at its half. Clouds let a
/// token be asked for anew from about then on
/// (<https://cloud.google.com/compute/docs/access/authenticate-workloads>).
const AHEAD: Duration = Duration::from_secs(5 * 60);

/// How long asking for a token may take, whatever the provider thinks of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// When whoever did not give a new token is asked again, while the last one is still good.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// A token as it was given out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccessToken {
    /// What stands behind `Bearer` in the header `Authorization`.
    pub value: Secret,
    /// How long it is good for, counted from now.
    pub lasts: Duration,
}

impl AccessToken {
    /// A token that is good for so long.
    pub fn new(value: impl Into<Secret>, lasts: Duration) -> Self {
        AccessToken { value: value.into(), lasts }
    }
}

/// Whoever gives out tokens: a cloud's own service, or the program that logship is part of, where only that knows how to
/// get in.
#[async_trait]
pub trait TokenProvider: fmt::Debug + Send + Sync {
    /// Asks for a token for a scope, such as `https://www.googleapis.com/auth/logging.write` or
    /// `https://monitor.azure.com/.default`. It MUST be a new one, or one that has not been asked for again because it
    /// was refused: [`Tokens`] does the keeping.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`] where it is not given, and
    /// [`ErrorKind::Unavailable`] where asking may help later. Neither shows a
    /// secret.
    async fn token(&self, scope: &str) -> Result<AccessToken, Error>;
}

/// The token for one scope, kept as long as it is good. It is replaced ahead of its end, by one request at a time, while
/// everybody else goes on with the last one.
pub struct Tokens {
    provider: Arc<dyn TokenProvider>,
    scope: String,
    kept: RwLock<Option<Kept>>,
    /// Held by whoever asks for a new one.
    turn: Mutex<()>,
}

#[derive(Clone)]
struct Kept {
    value: Secret,
    renew_at: Instant,
    expires_at: Instant,
}

impl Tokens {
    /// Asks for nothing yet.
    pub fn new(provider: Arc<dyn TokenProvider>, scope: impl Into<String>) -> Self {
        Tokens { provider, scope: scope.into(), kept: RwLock::default(), turn: Mutex::default() }
    }

    /// The token to send now. Safe to drop.
    ///
    /// # Errors
    /// The provider's, when there is no token that is still good.
    pub async fn token(&self) -> Result<Secret, Error> {
        let now = Instant::now();
        match self.kept() {
            Some(kept) if now < kept.renew_at => Ok(kept.value),
            Some(kept) if now < kept.expires_at => {
                let Ok(_turn) = self.turn.try_lock() else { return Ok(kept.value) };
                self.put_off(now + ASK_AGAIN);
                let renewed = self.fetch().await;
                renewed.or_else(|error| {
                    tracing::warn!(%error, scope = self.scope, "a token cannot be replaced yet: the last one is good still");
                    Ok(kept.value)
                })
            }
            _ => {
                let _turn = self.turn.lock().await;
                match self.kept().filter(|kept| Instant::now() < kept.expires_at) {
                    Some(kept) => Ok(kept.value),
                    None => self.fetch().await,
                }
            }
        }
    }

    /// Forgets a token that was not let in, so that the next call asks for another, unless somebody has done so already.
    pub fn refuse(&self, value: &Secret) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_some_and(|kept| kept.value.expose() == value.expose()) {
            *kept = None;
        }
    }

    /// Asks for another token than the one that is kept, which was not let in.
    ///
    /// # Errors
    /// The provider's.
    pub async fn renew(&self) -> Result<(), Error> {
        if let Some(kept) = self.kept() {
            self.refuse(&kept.value);
        }
        self.token().await.map(drop)
    }

    async fn fetch(&self) -> Result<Secret, Error> {
        let asked = tokio::time::timeout(PATIENCE, self.provider.token(&self.scope)).await;
        let late = |_| Error::new(ErrorKind::Timeout, "ask for a token", "no answer in time");
        let AccessToken { value, lasts } = asked.map_err(late)??;
        let now = Instant::now();
        let renew_at = now + lasts.saturating_sub(AHEAD.min(lasts / 2));
        let kept = Kept { value: value.clone(), renew_at, expires_at: now + lasts };
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(value)
    }

    /// Lets nobody ask for another one before that.
    fn put_off(&self, until: Instant) {
        if let Some(kept) = self.kept.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            kept.renew_at = until;
        }
    }

    fn kept(&self) -> Option<Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("provider", &self.provider).field("scope", &self.scope).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use tokio::time::{advance, sleep};

    /// Gives out `ya29.1`, `ya29.2`, ... after a second, each good for an hour; nothing while it is down.
    #[derive(Debug, Default)]
    struct Counter {
        asked: AtomicUsize,
        is_down: std::sync::atomic::AtomicBool,
    }

    #[async_trait]
    impl TokenProvider for Counter {
        async fn token(&self, _: &str) -> Result<AccessToken, Error> {
            let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            sleep(Duration::from_secs(1)).await;
            match self.is_down.load(Ordering::SeqCst) {
                true => Err(Error::new(ErrorKind::Unavailable, "ask for a token", "down")),
                false => Ok(AccessToken::new(format!("ya29.{number}"), Duration::from_secs(3_600))),
            }
        }
    }

    fn tokens() -> (Arc<Counter>, Tokens) {
        let counter = Arc::new(Counter::default());
        (Arc::clone(&counter), Tokens::new(counter, "scope"))
    }

    async fn now(tokens: &Tokens) -> String {
        tokens.token().await.unwrap().expose().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_want_a_token_ask_once() {
        let (counter, tokens) = tokens();
        let all = futures::future::join_all((0..10).map(|_| now(&tokens))).await;
        assert!(all.iter().all(|token| token == "ya29.1"), "{all:?}");
        assert_eq!(counter.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_ahead_of_its_end_while_others_go_on_with_it() {
        let (counter, tokens) = tokens();
        assert_eq!(now(&tokens).await, "ya29.1");
        advance(Duration::from_secs(3_299)).await;
        assert_eq!(now(&tokens).await, "ya29.1");
        advance(Duration::from_secs(2)).await;
        let (renewing, waiting) = tokio::join!(now(&tokens), now(&tokens));
        assert_eq!((renewing.as_str(), waiting.as_str()), ("ya29.2", "ya29.1"));
        assert_eq!(counter.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_cannot_be_replaced_is_used_to_its_end_and_not_beyond() {
        let (counter, tokens) = tokens();
        assert_eq!(now(&tokens).await, "ya29.1");
        counter.is_down.store(true, Ordering::SeqCst);
        advance(Duration::from_secs(3_400)).await;
        // Whoever failed a moment ago is not asked with each request.
        for _ in 0..3 {
            assert_eq!(now(&tokens).await, "ya29.1");
        }
        assert_eq!(counter.asked.load(Ordering::SeqCst), 2);
        advance(Duration::from_secs(200)).await;
        assert_eq!(tokens.token().await.unwrap_err().kind(), ErrorKind::Unavailable);
        counter.is_down.store(false, Ordering::SeqCst);
        assert_eq!(now(&tokens).await, "ya29.4");
    }

    /// Never answers.
    #[derive(Debug)]
    struct Hung;

    #[async_trait]
    impl TokenProvider for Hung {
        async fn token(&self, _: &str) -> Result<AccessToken, Error> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_never_answers_is_an_error_that_may_pass() {
        let error = Tokens::new(Arc::new(Hung), "scope").token().await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_asked_for_anew_once() {
        let (counter, tokens) = tokens();
        let refused = tokens.token().await.unwrap();
        tokens.refuse(&refused);
        assert_eq!(now(&tokens).await, "ya29.2");
        // A request that was under way with it.
        tokens.refuse(&refused);
        assert_eq!(now(&tokens).await, "ya29.2");
        assert_eq!(counter.asked.load(Ordering::SeqCst), 2);
        assert!(!format!("{tokens:?}").contains("ya29"));
    }
}
