//! The registry of the methods that are linked into this binary.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value as Json;

use crate::{Entry, Env, Fault, Method, spi};

/// A method's registration, submitted by [`register!`](crate::register): plain data and function pointers.
pub struct Registration {
    /// The name and the URI.
    pub entry: Entry,
    /// The function that starts the method from its section.
    pub start: fn(Json, Env) -> Starting,
}

impl Registration {
    /// Makes the registration of a method.
    #[must_use]
    pub const fn of<M: Method>() -> Self {
        Self { entry: M::ENTRY, start: |section, env| Box::pin(spi::start::<M>(section, env)) }
    }
}

inventory::collect!(Registration);

/// Registers a delivery method: one line in the transport's `lib.rs`.
#[macro_export]
macro_rules! register {
    ($method:ty) => {
        $crate::inventory::submit! { $crate::Registration::of::<$method>() }
    };
}

/// Two linked methods claim the same name, alias or URI.
#[derive(Clone, Debug, thiserror::Error)]
#[error("two delivery methods claim `{0}`: link only one of them")]
pub struct RegistryError(pub String);

/// The future of a method that is being started.
pub type Starting = BoxFuture<'static, Result<Arc<dyn spi::AnyMethod>, Fault>>;

/// Returns every linked method, sorted by name.
///
/// # Errors
/// [`RegistryError`] when two methods claim the same name, URI or alias.
pub fn methods() -> Result<Vec<&'static Registration>, RegistryError> {
    let mut all: Vec<_> = inventory::iter::<Registration>().collect();
    all.sort_by_key(|registration| registration.entry.name);
    let mut seen = std::collections::BTreeSet::new();
    for registration in &all {
        let Entry { name, uri, aliases } = registration.entry;
        for claim in [name, uri].iter().chain(aliases) {
            if !seen.insert(*claim) {
                return Err(RegistryError((*claim).to_owned()));
            }
        }
    }
    Ok(all)
}

/// Finds the method with this name, URI or alias.
#[must_use]
pub fn find<'a>(methods: &'a [Arc<dyn spi::AnyMethod>], called: &str) -> Option<&'a Arc<dyn spi::AnyMethod>> {
    methods.iter().find(|method| {
        let Entry { name, uri, aliases } = method.entry();
        called == name || called == uri || aliases.contains(&called)
    })
}
