//! The bare loop, which does only what cannot be avoided. It is the yardstick of the end-to-end figures (hardening
//! H47).

use std::{
    ops::AddAssign,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use setgate_jose::Signer;
use setgate_net::http::StatusCode;
use tokio::task::JoinSet;

use crate::{
    Bench, BenchError,
    load::{Target, join},
    measure::cpu_time,
    sink::Sink,
};

/// The number of requests under way at once: the window that the push method has by default.
pub(crate) const IN_FLIGHT: usize = 64;

/// The cost of a bare loop.
#[derive(Clone, Copy, Default)]
pub(crate) struct Took {
    /// The time from the first request to the last answer.
    pub(crate) time: Duration,
    /// The CPU time of this process: loop, client and sink.
    pub(crate) busy: Duration,
}

impl AddAssign for Took {
    fn add_assign(&mut self, other: Self) {
        self.time += other.time;
        self.busy += other.busy;
    }
}

/// Signs pre-built claims with a held key, posts the tokens, and returns the cost.
///
/// # Errors
/// Fails if the sink does not accept one of them.
pub(crate) async fn sign_and_post(
    bench: &Bench<'_>,
    target: &Target,
    sink: &Sink,
    signer: &Arc<Signer>,
    claims: &Arc<Vec<Vec<u8>>>,
) -> Result<Took, BenchError> {
    let signer = signer.clone();
    let claims = claims.clone();
    let make = move |at: usize| {
        let claims = claims.get(at)?;
        Some(signer.sign(claims).map(Bytes::from).map_err(|error| BenchError::Failed(error.to_string())))
    };
    run(bench, target, sink, make).await
}

/// Posts tokens that are signed already, and returns the cost.
///
/// # Errors
/// Fails if the sink does not accept one of them.
pub(crate) async fn post(
    bench: &Bench<'_>,
    target: &Target,
    sink: &Sink,
    tokens: &Arc<Vec<Bytes>>,
) -> Result<Took, BenchError> {
    let tokens = tokens.clone();
    run(bench, target, sink, move |at| tokens.get(at).cloned().map(Ok)).await
}

async fn run<M>(bench: &Bench<'_>, target: &Target, sink: &Sink, make: M) -> Result<Took, BenchError>
where
    M: Fn(usize) -> Option<Result<Bytes, BenchError>> + Clone + Send + Sync + 'static,
{
    // The sink does for these what it does for the gateway's SETs; their order is not checked, since a bare loop
    // promises none.
    let arrived = sink.begin(crate::event::KEYS, 0);
    let next = Arc::new(AtomicUsize::new(0));
    let busy = cpu_time(std::process::id())?;
    let began = bench.clock.now();
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (target, next, make) = (target.clone(), next.clone(), make.clone());
        tasks.spawn(async move {
            let mut posted = 0;
            while let Some(token) = make(next.fetch_add(1, Ordering::Relaxed)) {
                let (status, _) = target.post(token?, 0).await?;
                if status != StatusCode::ACCEPTED {
                    return Err(BenchError::Failed(format!("the sink answered {status}")));
                }
                posted += 1;
            }
            Ok(posted)
        });
    }
    let posted = join(tasks).await?;
    let time = bench.clock.since(began);
    let busy = cpu_time(std::process::id())?.saturating_sub(busy);
    if arrived.samples().is_empty() || posted == 0 {
        return Err(BenchError::Miscounted("no figure: the bare loop reached no sink".into()));
    }
    Ok(Took { time, busy })
}
