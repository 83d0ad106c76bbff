//! The part of the router that the admin listener uses, and the router's implementations for both listeners.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use setgate_router::{
    Accepted, ChangeError, Closed, EventOrigin, Issuer, Method, ParkedView, Reissued, Router, StreamView,
};
use setgate_set::{ErrorCode, Event};
use setgate_store::{Confirmed, Health, ProducerNo, StoreError, Time};

use crate::{Accept, Intake};

/// The commands and views of the admin listener. The router implements them; tests put a stand-in behind the listener.
pub trait Operate: Send + Sync + 'static {
    /// Returns all streams.
    fn streams(&self) -> BoxFuture<'_, Vec<StreamView>>;
    /// Returns one stream.
    fn stream<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<StreamView>>;
    /// Stops delivery and keeps what is due.
    fn pause<'a>(&'a self, id: &'a str, reason: String) -> BoxFuture<'a, Result<StreamView, ChangeError>>;
    /// Resumes delivery; with `reissue`, also issues again the SETs that were parked by the stream's own fault.
    fn resume<'a>(&'a self, id: &'a str, reissue: bool) -> BoxFuture<'a, Result<StreamView, ChangeError>>;
    /// Deletes a stream with what is due.
    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ChangeError>>;
    /// Returns parked SETs.
    fn parked(&self, which: Which) -> BoxFuture<'_, Result<Vec<ParkedView>, ChangeError>>;
    /// Returns one parked SET with its claims.
    fn parked_one<'a>(&'a self, jti: &'a str) -> BoxFuture<'a, Result<Option<ParkedView>, ChangeError>>;
    /// Issues parked SETs again.
    fn reissue(&self, jtis: Vec<String>, out_of_order: bool) -> BoxFuture<'_, Result<Vec<Reissued>, ChangeError>>;
    /// Drops parked SETs for good, and returns how many there were.
    fn discard(&self, jtis: Vec<String>) -> BoxFuture<'_, Result<usize, ChangeError>>;
    /// Returns the health of the store.
    fn health(&self) -> Health;
    /// Returns the believed time.
    fn time(&self) -> Time;
    /// Believes the wall clock from now on, on an operator's word.
    fn confirm_clock(&self) -> BoxFuture<'static, Result<Confirmed, StoreError>>;
    /// Returns the delivery methods of this gateway.
    fn methods(&self) -> Vec<Method>;
}

/// A filter for parked SETs, with the bounds of one page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// The stream, or all.
    pub stream: Option<String>,
    /// The error code, or all.
    pub code: Option<ErrorCode>,
    /// The `jti` after which the page begins.
    pub after: Option<String>,
    /// The most SETs of the page.
    pub most: usize,
}

impl Operate for Router {
    fn streams(&self) -> BoxFuture<'_, Vec<StreamView>> {
        Box::pin(self.streams())
    }

    fn stream<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<StreamView>> {
        Box::pin(self.stream(id))
    }

    fn pause<'a>(&'a self, id: &'a str, reason: String) -> BoxFuture<'a, Result<StreamView, ChangeError>> {
        Box::pin(self.pause(id, reason))
    }

    fn resume<'a>(&'a self, id: &'a str, reissue: bool) -> BoxFuture<'a, Result<StreamView, ChangeError>> {
        Box::pin(self.resume(id, reissue))
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ChangeError>> {
        Box::pin(self.delete(id))
    }

    fn parked(&self, which: Which) -> BoxFuture<'_, Result<Vec<ParkedView>, ChangeError>> {
        Box::pin(async move {
            let Which { stream, code, after, most } = which;
            self.parked(stream.as_deref(), code, after, most).await
        })
    }

    fn parked_one<'a>(&'a self, jti: &'a str) -> BoxFuture<'a, Result<Option<ParkedView>, ChangeError>> {
        Box::pin(self.parked_one(jti))
    }

    fn reissue(&self, jtis: Vec<String>, out_of_order: bool) -> BoxFuture<'_, Result<Vec<Reissued>, ChangeError>> {
        Box::pin(self.reissue(jtis, out_of_order))
    }

    fn discard(&self, jtis: Vec<String>) -> BoxFuture<'_, Result<usize, ChangeError>> {
        Box::pin(self.discard(jtis))
    }

    fn health(&self) -> Health {
        self.store().health()
    }

    fn time(&self) -> Time {
        self.store().time()
    }

    fn confirm_clock(&self) -> BoxFuture<'static, Result<Confirmed, StoreError>> {
        self.store().confirm_clock()
    }

    fn methods(&self) -> Vec<Method> {
        self.methods()
    }
}

/// The router, for the events of one issuer.
struct Under {
    router: Router,
    issuer: Issuer,
}

impl Accept for Under {
    fn gate(&self) -> Result<(), Closed> {
        self.router.gate()
    }

    fn accept(&self, producer: ProducerNo, events: Vec<Event>) -> BoxFuture<'static, Vec<Accepted>> {
        let (router, issuer) = (self.router.clone(), self.issuer.clone());
        Box::pin(async move { router.accept(EventOrigin { issuer: &issuer, producer }, events).await })
    }
}

impl Intake {
    /// Returns the intake of each issuer of a router.
    #[must_use]
    pub fn of(router: &Router) -> Vec<Self> {
        let issuers = router.issuers().iter();
        issuers
            .map(|issuer| Self {
                issuer: issuer.url.clone(),
                accept: Arc::new(Under { router: router.clone(), issuer: issuer.clone() }),
            })
            .collect()
    }
}
