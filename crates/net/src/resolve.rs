//! Resolution of names to addresses.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

/// A resolver of names. The guard checks each address that it returns, and the connection goes to the checked address.
pub trait Resolve: Send + Sync {
    /// Returns the addresses of `name`, best first.
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let name = name.to_owned();
        async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.map(|address| address.ip()).collect()) }
            .boxed()
    }
}

type Answer = Result<Arc<[IpAddr]>, String>;
type Asking = Shared<BoxFuture<'static, Answer>>;

/// A resolver that shares one lookup among all who ask for the same name at the same time. Answers are not cached.
///
/// A stream that opens 64 connections at once costs one lookup, so names that resolve slowly cannot fill the thread
/// pool that lookups run on.
#[derive(Clone)]
pub(crate) struct Resolver {
    inner: Arc<dyn Resolve>,
    asking: Arc<Mutex<HashMap<Box<str>, Asking>>>,
}

impl Resolver {
    pub(crate) fn new(inner: Arc<dyn Resolve>) -> Self {
        Self { inner, asking: Arc::default() }
    }

    pub(crate) async fn resolve(&self, name: &str) -> Answer {
        let asking = {
            let mut all = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            // A caller that gave up leaves an entry that nobody polls: finished and abandoned entries are replaced.
            all.retain(|_, asking| asking.strong_count().is_some_and(|askers| askers > 1) && asking.peek().is_none());
            all.entry(name.into()).or_insert_with(|| ask(self.inner.resolve(name))).clone()
        };
        asking.await
    }
}

fn ask(answer: BoxFuture<'static, io::Result<Vec<IpAddr>>>) -> Asking {
    async move { answer.await.map(Arc::from).map_err(|error| error.to_string()) }.boxed().shared()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Slow {
        asked: AtomicUsize,
        answers: Arc<tokio::sync::Semaphore>,
    }

    impl Resolve for Slow {
        fn resolve(&self, _name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let answers = self.answers.clone();
            async move {
                answers.acquire().await.unwrap().forget();
                Ok(vec![IpAddr::from([192, 0, 2, 1])])
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn asks_once_for_all_who_wait_and_again_afterwards() {
        let slow = Arc::new(Slow { asked: AtomicUsize::new(0), answers: Arc::new(tokio::sync::Semaphore::new(0)) });
        let resolver = Resolver::new(slow.clone());
        let mut all: Vec<_> = (0..64).map(|_| Box::pin(resolver.resolve("a.example"))).collect();
        for waiting in &mut all {
            assert!(futures_util::poll!(waiting).is_pending());
        }
        slow.answers.add_permits(1);
        assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
        assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
        slow.answers.add_permits(1);
        assert!(resolver.resolve("a.example").await.is_ok());
        assert_eq!(slow.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_question_nobody_waits_for_is_asked_anew() {
        let slow = Arc::new(Slow { asked: AtomicUsize::new(0), answers: Arc::new(tokio::sync::Semaphore::new(0)) });
        let resolver = Resolver::new(slow.clone());
        {
            let given_up = resolver.resolve("a.example");
            futures_util::pin_mut!(given_up);
            assert!(futures_util::poll!(&mut given_up).is_pending());
        }
        slow.answers.add_permits(1);
        assert!(resolver.resolve("a.example").await.is_ok());
        assert_eq!(slow.asked.load(Ordering::SeqCst), 2);
    }
}
